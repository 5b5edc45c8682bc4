"""Budgets: every way to write one, every way to write one wrongly, and what they come to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from known_costs import Fixed
from secateur.errors import SecateurError
from secateur.pruning.planning.budget import Budget
from secateur.structure.cost import CostModel


def dense(seconds: float) -> dict[str, CostModel]:
    """The costs of a model, its multiply-accumulates for so many seconds."""
    return {"params": Fixed(13e6), "macs": Fixed(5e9, per=seconds), "latency": Fixed(0.15)}


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("params=50%", {"params": 6.5e6}),
        ("params=0.5", {"params": 6.5e6}),
        ("params = .5 , macs = 40 %", {"params": 6.5e6, "macs": 2e9}),
        ("params=100%", {"params": 13e6}),
        ("params=1", {"params": 13e6}),
        ("params=6.5M", {"params": 6.5e6}),
        ("params=6.5m", {"params": 6.5e6}),
        ("params=0.6B", {"params": 6e8}),
        ("params=6500000", {"params": 6.5e6}),
        ("params=6.5e6", {"params": 6.5e6}),
        ("macs=250M", {"macs": 2.5e9}),
        ("macs=1.2G,latency=60%", {"macs": 12e9, "latency": 0.09}),
        ("latency=40ms", {"latency": 0.04}),
        ("latency=0.04s", {"latency": 0.04}),
        ("latency=0.4", {"latency": 0.06}),
    ],
)
def test_a_budget_limits_what_it_says(text: str, limits: dict[str, float]) -> None:
    assert Budget.parse(text).limits(dense(10.0)) == pytest.approx(limits)


@pytest.mark.parametrize("text", ["50%", " 50 %", "0.5", ".5"])
def test_a_fraction_alone_is_of_parameters_and_of_multiply_accumulates(text: str) -> None:
    assert Budget.parse(text) == Budget.of(params=0.5, macs=0.5)


def test_absolute_multiply_accumulates_are_for_a_second_of_audio_and_fractions_for_any_length() -> None:
    assert Budget.of(macs="1G").limits(dense(3.0)) == pytest.approx({"macs": 3e9})
    assert Budget.of(macs=0.5).limits(dense(3.0)) == pytest.approx({"macs": 2.5e9})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "limits none of params, macs, latency"),
        ("50", "'50' in it, which limits none of"),
        ("70%, 50%", "'70%, 50%' is several budgets, .* give one, such as 70%"),
        ("50%,latency=40ms", "'50%' in it, which limits none of"),
        ("1.2.3%", "params=1.2.3% is no limit"),
        ("parms=50%", "'parms=50%' in it"),
        ("params=50%,", "'' in it"),
        ("params=50%,params=40%", "limits params twice"),
        ("params=", "is no limit; give params=50% or params=6.5M"),
        ("params=half", "params=half is no limit"),
        ("params=6.5Q", "params=6.5Q is no limit"),
        ("params=nan", "is no limit"),
        ("params=inf", "is no limit"),
        ("macs=40ms", "macs=40ms is no limit"),
        ("latency=6.5M", "latency=6.5M is no limit"),
        ("params=50", "params=50 has no unit; give params=50%"),
        ("latency=40", "latency=40 has no unit; give latency=60% or latency=40ms"),
        ("params=0", "params=0 leaves nothing"),
        ("params=0%", "params=0% leaves nothing"),
        ("params=-5%", "params=-5% leaves nothing"),
        ("params=-3M", "params=-3M leaves nothing"),
        ("latency=0ms", "latency=0ms leaves nothing"),
        ("params=101%", "params=101% is more than the model has"),
        ("params=1e999%", "params=1e999% is more than the model has"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(SecateurError, match=message) as refusal:
        Budget.parse(text)
    assert "\n" not in str(refusal.value)


def test_a_budget_from_python_reads_numbers_as_the_command_line_reads_text() -> None:
    assert Budget.of(params=0.5, macs=0.5) == Budget.parse("macs=50%,params=50%") == Budget.parse("50%")
    assert Budget.of(params=6_500_000) == Budget.parse("params=6.5M")
    assert Budget.of(latency="40ms") == Budget.parse("latency=0.04s")
    assert Budget.of(params=0.5) != Budget.of(params=0.5, macs=0.5)
    with pytest.raises(SecateurError, match="the budget limits nothing"):
        Budget.of()
    with pytest.raises(SecateurError, match="leaves nothing"):
        Budget.of(params=-0.5)


def test_a_cost_that_is_not_known_cannot_be_limited() -> None:
    with pytest.raises(SecateurError, match="limits latency, which is not known here; limit params or macs"):
        Budget.of(latency=0.5).limits({"params": Fixed(1.0), "macs": Fixed(1.0)})


def test_a_budget_prints_in_the_units_that_people_use() -> None:
    assert str(Budget.parse("latency=0.04s,params=6500000,macs=0.5")) == "params=6.5M,macs=50%,latency=40ms"
    assert str(Budget.of(params="600M", macs="1.2G")) == "params=600M,macs=1.2G"


@given(
    params=st.one_of(
        st.floats(0.001, 1.0), st.floats(1e3, 1e11), st.floats(0.001, 1e8).map(lambda count: f"{count!r}k")
    ),
    latency=st.one_of(st.floats(0.001, 1.0), st.floats(1e-5, 10.0).map(lambda seconds: f"{seconds!r}s")),
)
def test_what_a_budget_prints_reads_as_the_same_budget(params: float | str, latency: float | str) -> None:
    budget = Budget.of(params=params, latency=latency)
    again = Budget.parse(str(budget))
    assert again.limits(dense(10.0)) == pytest.approx(budget.limits(dense(10.0)))
    assert str(again) == str(budget)


@given(st.floats(0.05, 1.0), st.floats(0.05, 1.0), st.floats(0.01, 1.0))
def test_equal_parts_of_the_way_take_the_same_factor(params: float, latency: float, way: float) -> None:
    costs = dense(10.0)
    budget = Budget.of(params=params, macs="250M", latency=latency)
    end, there = budget.limits(costs), budget.part_way(costs, way).limits(costs)
    for name, limit in end.items():
        begin = costs[name].dense
        assert there[name] / begin == pytest.approx((limit / begin) ** way)
    assert budget.part_way(costs, 1.0).limits(costs) == pytest.approx(end, rel=1e-12)
    # Absolute figures are of any model on the way.
    half = {"params": Fixed(1e6), "macs": Fixed(1e9, per=10.0), "latency": Fixed(0.1)}
    assert budget.part_way(costs, way).limits(half) == pytest.approx(there)
