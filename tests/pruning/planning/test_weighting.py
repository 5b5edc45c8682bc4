from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch

from secateur.pruning.planning.elimination import Elimination, Scores
from secateur.pruning.planning.weighting import FRONT_END, MIDDLE, by_trial, numbers, weighted
from secateur.recognizer import Recognizer
from secateur.structure.groups import Groups, find_groups


@pytest.fixture(scope="module")
def groups(make_recognizer: Callable[..., Recognizer]) -> Groups:
    return find_groups(make_recognizer("conformer", layers=3).model)


@pytest.fixture(scope="module")
def scores(groups: Groups) -> Scores:
    return {name: Elimination.by_harm(torch.ones(group.size)) for name, group in groups.items()}


def harm(scores: Scores, name: str) -> float:
    return float(scores[name].rise[0])


def test_without_numbers_harm_counts_as_it_is(groups: Groups, scores: Scores) -> None:
    for name, each in weighted(groups, scores, {}).items():
        assert torch.equal(each.rise, scores[name].rise)
        assert each.order == scores[name].order


def test_harm_counts_more_the_deeper_it_is_done(groups: Groups, scores: Scores) -> None:
    deep = weighted(groups, scores, {"depth": 2.0})
    for part in ("", ".conv", ".feed_forward1.units"):
        along = [harm(deep, f"layers.{i}{part}") for i in range(3)]
        assert along == pytest.approx([1, math.e, math.e**2])
    assert harm(deep, "subsampling.0.channels") == 1


def test_the_middle_is_where_the_first_and_the_last_layer_are_not(groups: Groups, scores: Scores) -> None:
    middle = weighted(groups, scores, {MIDDLE: 1.0})
    assert [harm(middle, f"layers.{i}.conv.channels") for i in range(3)] == pytest.approx([1, math.e, 1])


def test_a_kind_of_units_and_the_front_end_have_numbers_of_their_own(groups: Groups, scores: Scores) -> None:
    some = weighted(groups, scores, {"attention heads": 1.0, FRONT_END: -1.0})
    changed = {name for name in groups if harm(some, name) != 1}
    heads = {name for name in groups if name.endswith(".heads")}
    front = {name for name in groups if name.startswith("subsampling")}
    assert heads
    assert changed == heads | front
    assert harm(some, "layers.1.self_attn.heads") == pytest.approx(math.e)
    assert harm(some, "subsampling.0.channels") == pytest.approx(1 / math.e)


def test_the_residual_width_is_no_part_of_the_front_end(make_recognizer: Callable[..., Recognizer]) -> None:
    wide = find_groups(make_recognizer("conformer", layers=3).model, width=True)
    ones = {name: Elimination.by_harm(torch.ones(group.size)) for name, group in wide.items()}
    some = weighted(wide, ones, {FRONT_END: -1.0, wide["width"].kind: 2.0})
    assert harm(some, "width") == pytest.approx(math.e**2)
    assert harm(some, "subsampling.0.channels") == pytest.approx(1 / math.e)


def test_numbers_are_those_that_can_change_how_a_budget_is_shared(groups: Groups, scores: Scores) -> None:
    names = numbers(groups, scores)
    assert names[:3] == ["depth", "middle", "front end"]
    kinds = {groups[name].kind for name in groups if name.startswith("layers.") and groups[name].size > 1}
    assert len(names[3:]) == len(kinds) - 1
    assert set(names[3:]) < kinds
    units = {name: each for name, each in scores.items() if name.endswith(".units")}
    assert numbers(groups, units) == ["depth", "middle"]


def bowl(weighting: Mapping[str, float]) -> float:
    return (weighting.get("a", 0) - 1.3) ** 2 + 3 * (weighting.get("b", 0) + 0.8) ** 2


def test_trials_go_downhill_and_no_more_often_than_they_may() -> None:
    measured: list[float] = []

    def measure(weighting: Mapping[str, float]) -> float:
        measured.append(bowl(weighting))
        return measured[-1]

    for trials in (1, 2, 7, 40):
        measured.clear()
        found = by_trial(measure, {}, ["a", "b"], trials)
        assert len(measured) <= 1 + trials
        assert bowl(found) == min(measured)
        assert bowl(found) <= bowl({})
    assert found["a"] == pytest.approx(1.3, abs=0.13)
    assert found["b"] == pytest.approx(-0.8, abs=0.13)


def test_no_trials_measure_nothing() -> None:
    def refuse(_: Mapping[str, float]) -> float:
        raise AssertionError

    assert by_trial(refuse, {"a": 1.0}, ["a"], 0) == {"a": 1.0}
    assert by_trial(refuse, {}, [], 5) == {}


def test_where_nothing_is_better_trials_end_with_the_finest_step() -> None:
    measured: list[Mapping[str, float]] = []

    def measure(weighting: Mapping[str, float]) -> float:
        measured.append(weighting)
        return abs(weighting.get("a", 0))

    assert by_trial(measure, {}, ["a"], 100) == {}
    assert [each.get("a", 0) for each in measured] == [0, 0.5, -0.5, 0.25, -0.25, 0.125, -0.125]
