"""Allocation: budgets met exactly and with little harm, for random models, scores and budgets of every family."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import SecateurError
from secateur.pruning.planning.allocation import TOLERANCE, allocate, check_possible
from secateur.pruning.planning.budget import Budget
from secateur.pruning.planning.elimination import Elimination
from secateur.recognizer import Recognizer
from secateur.structure.cost import CostModel, mac_cost, parameter_cost
from secateur.structure.groups import Groups, find_groups
from secateur.structure.plan import PruningPlan
from tiny_models import FAMILIES

MakeRecognizer = Callable[..., Recognizer]
Costs = dict[str, CostModel]
SECONDS = 0.3

MODELS = st.fixed_dictionaries(
    {
        "family": st.sampled_from(FAMILIES),
        "layers": st.integers(1, 4),
        "heads": st.sampled_from([1, 2, 4]),
        "width": st.sampled_from([8, 16]),
        "units": st.integers(1, 40),
        "channels": st.integers(2, 9),
    }
)
CHOICES = st.fixed_dictionaries(
    {
        "multiple_of": st.sampled_from([1, 1, 3, 8]),
        "min_heads": st.sampled_from([0, 1]),
        "whole": st.sampled_from([(), (), ("layers.0",), ("layers.0.*",), ("*.heads",)]),
        "width": st.booleans(),
    }
)
FRACTIONS = st.fixed_dictionaries({"params": st.floats(0.05, 1.0)}, optional={"macs": st.floats(0.05, 1.0)})


class Stairs:
    """Seconds that fall in steps of eight units, and between the steps not at all, as measured ones do."""

    per = 1.0

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        # Within a head more units take no longer here, and nothing does in a module that is gone.
        rows = [row for row, name in enumerate(groups) if not name.endswith(("query_key", "value"))]
        inside = [[name in groups[list(groups)[row]].inside for name in groups] for row in rows]
        self.rows, self.inside = torch.tensor(rows), torch.tensor(inside)
        self.dense = self({})

    def __call__(self, kept: Mapping[str, int]) -> float:
        counts = [kept.get(name, group.size) for name, group in self.groups.items()]
        return float(self.of(torch.tensor(counts, dtype=torch.double)))

    def of(self, counts: Tensor) -> Tensor:
        stairs = (counts / 8).floor() + (counts / 8 - (counts / 8).floor() - 0.5).clamp(min=0) * 2
        there = torch.where(self.inside, counts.clamp(max=1), 1.0).prod(1)
        return 1.0 + (stairs[self.rows] * there).sum()


def costs_of(recognizer: Recognizer, groups: Groups) -> Costs:
    return {
        "params": parameter_cost(groups),
        "macs": mac_cost(groups, recognizer.model, SECONDS),
        "latency": Stairs(groups),
    }


def random_scores(groups: Groups, seed: int, *, coarse: bool = True) -> dict[str, Elimination]:
    """Harms of very different sizes, some of them nothing, not in rising order; of most groups."""
    generator = torch.Generator().manual_seed(seed)
    scores = {}
    for name, group in groups.items():
        scale = 10 ** (6 * torch.rand(1, generator=generator) - 3)
        rise = torch.rand(group.size, generator=generator, dtype=torch.double) ** 3 * scale
        rise[rise < 0.02 * scale] = 0.0
        order = torch.randperm(group.size, generator=generator)
        if float(torch.rand(1, generator=generator)) < 0.9 and (coarse or group.size > 1):
            scores[name] = Elimination(tuple(order.tolist()), rise)
    return scores


def given_harms(*harms: float) -> Elimination:
    return Elimination.by_harm(torch.tensor(harms, dtype=torch.double))


def harm(plan: PruningPlan, scores: Mapping[str, Elimination]) -> float:
    return sum(
        float(scores[name].rise[: plan.sizes[name] - len(kept)].sum()) for name, kept in plan.kept.items()
    )


def plan_or_nothing(*arguments: Any, uniform: bool) -> PruningPlan | None:
    try:
        return allocate(*arguments, uniform=uniform)
    except SecateurError as refusal:
        if "cannot be met: the smallest possible here is " not in str(refusal):
            raise
        return None


def nothing_more_fits(
    plan: PruningPlan, groups: Groups, scored: Sequence[str], costs: Costs, limits: Mapping[str, float]
) -> bool:
    """Whether keeping any more of one group, by the next number that is allowed, would break a limit."""
    counts = plan.counts()
    for name in scored:
        whole = name not in counts
        void = any(counts.get(coarser) == 0 for coarser in groups[name].inside)
        branch = next((row for key, row in groups.branches.items() if key in groups[name].inside), None)
        void |= branch is not None and any(counts.get(unit) == 0 and unit != name for unit in branch.units)
        if whole or void:
            continue
        more = min(count for count in groups[name].counts() if count > counts[name])
        if all(costs[cost](counts | {name: more}) <= limit for cost, limit in limits.items()):
            return False
    return True


@given(model=MODELS, choices=CHOICES, fractions=FRACTIONS, seed=st.integers(0, 10**6))
def test_a_plan_meets_every_limit_and_nothing_more_would_fit(
    make_recognizer: MakeRecognizer,
    model: dict[str, Any],
    choices: dict[str, object],
    fractions: dict[str, float],
    seed: int,
) -> None:
    if seed % 3 == 0:
        fractions = {"latency": fractions["params"], **{k: v for k, v in fractions.items() if k == "macs"}}
    recognizer = make_recognizer(**model)
    groups = find_groups(recognizer.model, min_layers=1 + seed % model["layers"], **choices)  # type: ignore[arg-type]
    costs, scores, budget = costs_of(recognizer, groups), random_scores(groups, seed), Budget.of(**fractions)
    limits = budget.limits(costs)
    uniform = seed % 4 == 0
    plan = plan_or_nothing(groups, scores, costs, budget, uniform=uniform)
    if plan is None:
        return
    assert all(costs[name](plan.counts()) <= limit for name, limit in limits.items())
    assert all(count in groups[name].counts() for name, count in plan.counts().items())
    going = [name for name in groups.layers if plan.kept.get(name) == ()]
    assert len(groups.layers) - len(going) >= groups.min_layers
    fine = [name for name in scores if groups[name].size > 1]
    assert nothing_more_fits(plan, groups, fine if uniform else list(scores), costs, limits)
    assert allocate(groups, dict(reversed(scores.items())), costs, budget, uniform=uniform) == plan


@given(
    fractions=FRACTIONS,
    seed=st.integers(0, 10**6),
    family=st.sampled_from(FAMILIES),
)
@settings(max_examples=8)
def test_a_model_of_many_units_ends_within_half_a_percent_of_the_limit_that_binds(
    make_recognizer: MakeRecognizer, fractions: dict[str, float], seed: int, family: str
) -> None:
    recognizer = make_recognizer(family, layers=3, width=32, units=300, channels=30)
    groups = find_groups(recognizer.model)
    costs = costs_of(recognizer, groups)
    budget = Budget.of(params=max(0.35, fractions["params"]), macs=max(0.35, fractions.get("macs", 1.0)))
    plan = allocate(groups, random_scores(groups, seed), costs, budget)
    limits = budget.limits(costs)
    left = [1 - costs[name](plan.counts()) / limit for name, limit in limits.items()]
    assert min(left) >= 0
    assert not plan.kept or min(left) <= TOLERANCE


@pytest.mark.parametrize("uniform", [False, True])
def test_a_tighter_budget_keeps_less_and_where_scores_decide_harms_more(
    make_recognizer: MakeRecognizer, uniform: bool
) -> None:
    recognizer = make_recognizer("conformer", units=100, channels=10)
    groups = find_groups(recognizer.model)
    costs, scores = costs_of(recognizer, groups), random_scores(groups, 3, coarse=False)
    plans = [
        allocate(groups, scores, costs, Budget.of(params=kept / 100), uniform=uniform)
        for kept in range(40, 101, 4)
    ]
    sizes = [costs["params"](plan.counts()) for plan in plans]
    assert sizes == sorted(sizes)
    harms = [harm(plan, scores) for plan in plans]
    assert uniform or harms == sorted(harms, reverse=True)
    assert plans[-1].kept == {}


def test_units_of_the_same_cost_go_by_their_harm_alone(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer", layers=1, width=8, units=5)
    groups = find_groups(recognizer.model)
    scores = {
        "layers.0.feed_forward1.units": given_harms(5.0, 1.0, 4.0, 9.0, 8.0),
        "layers.0.feed_forward2.units": given_harms(2.0, 7.0, 3.0, 6.0, 10.0),
    }
    costs = costs_of(recognizer, groups)
    unit = 2 * 8 + 1
    with torch.no_grad():  # as a caller may have it, though prices are gradients
        plan = allocate(groups, scores, costs, Budget.of(params=int(costs["params"].dense - 4 * unit)))
    assert plan.kept == {
        "layers.0.feed_forward1.units": (0, 3, 4),
        "layers.0.feed_forward2.units": (1, 3, 4),
    }


def test_harm_that_falls_is_taken_by_its_lower_hull(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer", layers=1, width=8, units=4)
    groups = find_groups(recognizer.model)
    # The first unit of one group is dear, but the three after it are free: 3 a unit for four, against 4.
    scores = {
        "layers.0.feed_forward1.units": Elimination((0, 1, 2, 3), torch.tensor([12.0, 0.0, 0.0, 0.0])),
        "layers.0.feed_forward2.units": Elimination((0, 1, 2, 3), torch.tensor([4.0, 4.0, 4.0, 4.0])),
    }
    costs = costs_of(recognizer, groups)
    # 17 parameters a unit, and with the last one the norm of 16.
    plan = allocate(groups, scores, costs, Budget.of(params=int(costs["params"].dense - 4 * 17 - 16)))
    assert plan.kept == {"layers.0.feed_forward1.units": ()}


@pytest.mark.parametrize(
    "limits", [{"params": 0.7}, {"params": 0.7, "macs": 0.6}, {"params": 0.65, "macs": 0.4}]
)
@pytest.mark.parametrize("seed", range(3))
def test_no_other_plan_does_much_less_harm(
    make_recognizer: MakeRecognizer, limits: dict[str, float], seed: int
) -> None:
    recognizer = make_recognizer("conformer", layers=1, width=16, units=24, channels=12)
    groups = find_groups(recognizer.model)
    # Channels of the two subsampling convolutions multiply in the cost; they are most of the MACs, units of the rest.
    names = ["subsampling.0.channels", "subsampling.2.channels", "layers.0.feed_forward1.units"]
    generator = torch.Generator().manual_seed(seed)
    scores = {
        name: Elimination.by_harm(torch.rand(groups[name].size, generator=generator).double() ** 2)
        for name in names
    }
    costs = costs_of(recognizer, groups)
    budget = Budget.of(**limits)
    most = budget.limits(costs)
    plan = allocate(groups, scores, costs, budget)

    falling = {name: [0.0, *elimination.rise.cumsum(0).tolist()] for name, elimination in scores.items()}
    best = min(
        sum(falling[name][groups[name].size - count] for name, count in zip(names, counts, strict=True))
        for counts in itertools.product(*(groups[name].counts() for name in names))
        if all(costs[cost](dict(zip(names, counts, strict=True))) <= limit for cost, limit in most.items())
    )
    assert harm(plan, scores) <= 1.1 * best


def test_a_module_goes_whole_where_that_harms_less_than_its_units(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer", layers=2, units=20)
    groups = find_groups(recognizer.model)
    costs = costs_of(recognizer, groups)
    units = {
        name: Elimination.by_harm(torch.ones(group.size).double())
        for name, group in groups.items()
        if name.endswith("units")
    }
    module = "layers.1.feed_forward1"
    kept = 1 - 1.5 * (costs["params"].dense - costs["params"]({module: 0})) / costs["params"].dense
    cheap = allocate(groups, units | {module: given_harms(1.5)}, costs, Budget.of(params=kept))
    assert cheap.kept[module] == ()
    dear = allocate(groups, units | {module: given_harms(100.0)}, costs, Budget.of(params=kept))
    assert module not in dear.kept


def test_a_layer_that_would_take_too_much_with_it_stays(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer", layers=2, units=200)
    groups = find_groups(recognizer.model)
    costs = costs_of(recognizer, groups)
    scores = random_scores(groups, 0, coarse=False) | {"layers.1": given_harms(0.0)}
    plan = allocate(groups, scores, costs, Budget.of(params=0.9))
    assert "layers.1" not in plan.kept
    assert 0.9 * (1 - TOLERANCE) <= costs["params"](plan.counts()) / costs["params"].dense <= 0.9


def test_with_layers_alone_the_plan_is_the_nearest_below(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("parakeet", layers=4)
    groups = find_groups(recognizer.model, min_layers=2)
    costs = costs_of(recognizer, groups)
    scores = {f"layers.{i}": given_harms(each) for i, each in enumerate((3.0, 1.0, 4.0, 2.0))}
    one = costs["params"].dense - costs["params"]({"layers.0": 0})
    assert allocate(groups, scores, costs, Budget.of(params=int(costs["params"].dense - 0.5 * one))).kept == {
        "layers.1": ()
    }
    two = allocate(groups, scores, costs, Budget.of(params=int(costs["params"].dense - 1.5 * one)))
    assert two.kept == {"layers.1": (), "layers.3": ()}
    with pytest.raises(SecateurError, match="cannot be met"):
        allocate(groups, scores, costs, Budget.of(params=int(costs["params"].dense - 2.5 * one)))


def test_uniform_keeps_the_same_fraction_of_every_group(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer", layers=2, width=40, heads=4, units=100, channels=50)
    groups = find_groups(recognizer.model)
    costs, scores = costs_of(recognizer, groups), random_scores(groups, 1)
    plan = allocate(groups, scores, costs, Budget.of(params=0.5), uniform=True)
    kept = {
        name: len(units) / groups[name].size for name, units in plan.kept.items() if groups[name].size >= 40
    }
    # What still fits is given back, and position features are so cheap that some of one group do.
    *positions, largest = sorted(share for name, share in kept.items() if name.endswith("positions"))
    others = [share for name, share in kept.items() if not name.endswith("positions")]
    assert max(*positions, *others) - min(*positions, *others) <= 1 / 40 + 1e-9
    assert 0 <= largest - min(others) <= 3 / 40 + 1e-9
    assert not any(groups[name].size == 1 for name in plan.kept)


def test_an_impossible_budget_is_refused_with_the_smallest_possible_of_each(
    make_recognizer: MakeRecognizer,
) -> None:
    recognizer = make_recognizer("conformer", layers=2)
    groups = find_groups(recognizer.model)
    costs = costs_of(recognizer, groups)
    scores = {"layers.0.feed_forward1.units": given_harms(*range(20)), "layers.1.conv": given_harms(1.0)}
    least = {"layers.0.feed_forward1.units": 0, "layers.1.conv": 0}
    with pytest.raises(SecateurError, match="cannot be met") as refusal:
        allocate(groups, scores, costs, Budget.of(params=0.1, macs=0.9))
    for name in ("params", "macs"):
        assert f"({100 * costs[name](least) / costs[name].dense:.3g}%)" in str(refusal.value)
    assert f"params={costs['params'](least) / 1e3:.4g}k" in str(refusal.value)
    with pytest.raises(SecateurError, match=r"smallest possible here is params=.* \(100%\)"):
        allocate(groups, {}, costs, Budget.of(params=0.5))
    # What no scores can meet is known without any.
    with pytest.raises(
        SecateurError, match=r"the budget params=1%,macs=90% cannot be met: params=.* would stay if all went"
    ):
        check_possible(groups, costs, Budget.of(params=0.01, macs=0.9), groups)
    check_possible(groups, costs, Budget.of(params=0.5), groups)
    with pytest.raises(SecateurError, match="would stay if all went"):
        check_possible(groups, costs, Budget.of(params=0.5), ["layers.0.conv"])


def test_scores_for_another_model_are_a_mistake_of_the_caller(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer", layers=1)
    groups = find_groups(recognizer.model)
    scores = {"layers.0.feed_forward1.units": given_harms(1.0, 2.0)}
    with pytest.raises(ValueError, match="has 20 units, but 2 were scored"):
        allocate(groups, scores, costs_of(recognizer, groups), Budget.of(params=0.9))
