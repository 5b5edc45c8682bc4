"""Rounding: budgets met exactly by the units whose gates are most open, for random gates of every family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import SecateurError
from secateur.pruning.learning.gates import RANGE, Gates
from secateur.pruning.learning.rounding import round_to_plan
from secateur.pruning.planning.allocation import TOLERANCE
from secateur.pruning.planning.budget import Budget
from secateur.recognizer import Recognizer
from secateur.structure.cost import CostModel, mac_cost, parameter_cost
from secateur.structure.groups import Groups, find_groups
from secateur.structure.plan import PruningPlan
from tiny_models import FAMILIES

MakeRecognizer = Callable[..., Recognizer]
SECONDS = 0.3
FRACTIONS = st.fixed_dictionaries({"params": st.floats(0.3, 1.0)}, optional={"macs": st.floats(0.3, 1.0)})


def costs_of(recognizer: Recognizer, groups: Groups) -> dict[str, CostModel]:
    return {"params": parameter_cost(groups), "macs": mac_cost(groups, recognizer.model, SECONDS)}


def random_gates(groups: Groups, seed: int) -> Gates:
    """Gates as a search leaves them: most are at one of the ends, some between."""
    generator = torch.Generator().manual_seed(seed)
    log_alpha = {
        name: (3 * torch.randn(group.size, generator=generator) + 3 * torch.randn(1, generator=generator))
        for name, group in groups.items()
    }
    return Gates(groups, log_alpha=log_alpha)


@given(
    family=st.sampled_from(FAMILIES),
    fractions=FRACTIONS,
    multiple_of=st.sampled_from([1, 1, 4]),
    min_heads=st.sampled_from([0, 1]),
    seed=st.integers(0, 10**6),
)
def test_a_plan_meets_every_limit_and_ends_close_below_the_one_that_binds(
    make_recognizer: MakeRecognizer,
    family: str,
    fractions: dict[str, float],
    multiple_of: int,
    min_heads: int,
    seed: int,
) -> None:
    recognizer = make_recognizer(family, layers=3, width=32, units=250, channels=30)
    groups = find_groups(recognizer.model, multiple_of=multiple_of, min_heads=min_heads, min_layers=2)
    costs, budget = costs_of(recognizer, groups), Budget.of(**fractions)
    try:
        plan = round_to_plan(random_gates(groups, seed), groups, costs, budget)
    except SecateurError as refusal:
        if "cannot be met: the smallest possible here is " not in str(refusal):
            raise
        return
    limits = budget.limits(costs)
    left = [1 - costs[name](plan.counts()) / limit for name, limit in limits.items()]
    assert min(left) >= 0
    assert not plan.kept or min(left) <= TOLERANCE * multiple_of
    assert all(count in groups[name].counts() for name, count in plan.counts().items())
    assert sum(plan.kept.get(name) != () for name in groups.layers) >= 2
    assert round_to_plan(random_gates(groups, seed), groups, costs, budget) == plan


def decided(groups: Groups, seed: int) -> PruningPlan:
    """Any plan that leaves no module by emptying it and none of whose groups is at its least."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for name, group in groups.items():
        if name in groups.layers or name in groups.branches:
            if name != "layers.0" and float(torch.rand(1, generator=generator)) < 0.2:
                kept[name] = []
        elif float(torch.rand(1, generator=generator)) < 0.8:
            count = int(torch.randint(max(1, group.min_units), group.size + 1, (1,), generator=generator))
            kept[name] = torch.randperm(group.size, generator=generator)[:count].tolist()
    return PruningPlan.keep(groups, kept)


@given(family=st.sampled_from(FAMILIES), seed=st.integers(0, 10**6))
def test_gates_that_have_decided_and_meet_the_budget_are_the_plan(
    make_recognizer: MakeRecognizer, family: str, seed: int
) -> None:
    recognizer = make_recognizer(family, layers=3, units=40, channels=10)
    groups = find_groups(recognizer.model)
    plan, costs = decided(groups, seed), costs_of(recognizer, groups)
    masks = {name: torch.ones(group.size) for name, group in groups.items()} | plan.masks()
    gates = Gates(groups, log_alpha={name: torch.logit(mask, eps=1e-6) for name, mask in masks.items()})
    exactly = Budget.of(
        params=max(1000, costs["params"](plan.counts())),
        macs=max(1000, costs["macs"](plan.counts()) / SECONDS),
    )
    assert round_to_plan(gates, groups, costs, exactly) == plan


def on_the_wrong_side(plan: PruningPlan, log_alpha: dict[str, Tensor], groups: Groups) -> tuple[int, int]:
    """Units that no threshold explains, to within 0.2 of log alpha, and units that there are."""
    values, stays = [], []
    for name, group in groups.items():
        if group.min_units or any(plan.kept.get(coarser) == () for coarser in group.inside):
            continue
        values.append(log_alpha[name].detach())
        stays.append(torch.zeros(group.size, dtype=torch.bool))
        stays[-1][list(plan.kept.get(name, range(group.size)))] = True
    value, stay = torch.cat(values), torch.cat(stays)
    margin = 0.2  # Gates that differ by less give way evenly.
    wrong = [
        int((stay & (value < threshold - margin)).sum() + (~stay & (value > threshold + margin)).sum())
        for threshold in value.unique()
    ]
    return min(wrong), len(value)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("limits", [{"params": 0.5}, {"macs": 0.5}, {"params": 0.6, "macs": 0.5}])
def test_one_threshold_holds_for_units_of_all_groups_and_for_modules(
    make_recognizer: MakeRecognizer, family: str, limits: dict[str, float]
) -> None:
    recognizer = make_recognizer(family, layers=4, width=32, units=200, channels=40)
    groups = find_groups(recognizer.model)
    for seed in range(3):
        gates = random_gates(groups, seed)
        plan = round_to_plan(gates, groups, costs_of(recognizer, groups), Budget.of(**limits))
        wrong, units = on_the_wrong_side(plan, gates.log_alpha(), groups)
        # A module that went, and in the end is given back, comes back whole.
        assert wrong <= 0.02 * units


def test_gates_that_have_learned_nothing_give_way_in_all_groups_evenly(
    make_recognizer: MakeRecognizer,
) -> None:
    recognizer = make_recognizer("conformer", layers=3, width=32, units=200, channels=40)
    groups = find_groups(recognizer.model)
    fine = [name for name, group in groups.items() if group.size >= 40]
    plan = round_to_plan(Gates(groups, fine), groups, costs_of(recognizer, groups), Budget.of(params=0.6))
    shares = [len(plan.kept.get(name, range(groups[name].size))) / groups[name].size for name in fine]
    assert max(shares) - min(shares) < 0.15


def test_a_budget_that_gates_cannot_meet_is_refused(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer")
    groups = find_groups(recognizer.model)
    gates = Gates(groups, ["layers.0.feed_forward1.units"])
    with pytest.raises(SecateurError, match="cannot be met"):
        round_to_plan(gates, groups, costs_of(recognizer, groups), Budget.of(params=0.3))


def test_what_costs_nothing_by_itself_stays_while_its_gate_is_open(make_recognizer: MakeRecognizer) -> None:
    """A unit that saves nothing in the cost that is limited, as those of heads in measured latency, is no bargain."""
    recognizer = make_recognizer("conformer", layers=2, units=40)
    groups = find_groups(recognizer.model)

    class UnitsAlone:
        rows = torch.tensor([row for row, name in enumerate(groups) if name.endswith("units")])
        dense, per = 160.0, 1.0

        def __call__(self, kept: Any) -> float:
            return float(sum(kept.get(n, g.size) for n, g in groups.items() if n.endswith("units")))

        def of(self, counts: Tensor) -> Tensor:
            return counts[self.rows].sum() + 0.0 * counts.sum()

    plan = round_to_plan(
        {name: torch.full((group.size,), RANGE) for name, group in groups.items()},
        groups,
        {"latency": UnitsAlone()},
        Budget.of(latency=0.5),
    )
    assert all(name.endswith("units") for name in plan.kept)
