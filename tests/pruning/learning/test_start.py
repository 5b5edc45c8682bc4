"""How a search begins: refitted weights put back where slicing took them from, and gates that scores are sure of."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from secateur.pruning.learning.gates import Gates
from secateur.pruning.learning.start import RUNGS, SLOPE, opening, unslice
from secateur.pruning.planning.allocation import allocate
from secateur.pruning.planning.budget import Budget
from secateur.pruning.planning.elimination import Elimination
from secateur.recognizer import Recognizer
from secateur.structure.cost import mac_cost, parameter_cost
from secateur.structure.groups import Groups, find_groups
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model
from tiny_models import FAMILIES

MakeRecognizer = Callable[..., Recognizer]


def tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Parameters and buffers that hold learned numbers."""
    return {
        name: tensor
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if tensor.is_floating_point()
    }


def random_plan(groups: Groups, seed: int) -> PruningPlan:
    """Some groups whole, some cut, some emptied; some modules and layers dropped."""
    chance = random.Random(seed)
    kept = {}
    for name, group in groups.items():
        draw = chance.random()
        if group.size == 1:
            if draw < 0.15 and name != f"layers.{seed % len(groups.layers)}":
                kept[name] = []
        elif draw < 0.7:
            count = group.min_units if draw < 0.2 else chance.randint(group.min_units, group.size)
            kept[name] = chance.sample(range(group.size), count)
    return PruningPlan.keep(groups, kept)


@torch.no_grad()
def numbered(model: PreTrainedModel) -> None:
    """Give every number of the model a value of its own, a whole number."""
    first = 0
    for tensor in tensors(model).values():
        tensor.copy_(torch.arange(first, first + tensor.numel()).view_as(tensor))
        first += tensor.numel()


@torch.no_grad()
def check_put_back(model: PreTrainedModel, groups: Groups, plan: PruningPlan) -> None:
    """Number the weights, slice, add a half, put back: exactly what stayed has a half more."""
    numbered(model)
    before = {name: tensor.clone() for name, tensor in tensors(model).items()}
    sliced = slice_model(model, plan)
    stayed = torch.cat([tensor.flatten() for tensor in tensors(sliced).values()])
    for tensor in tensors(sliced).values():
        tensor += 0.5
    unslice(model, sliced, groups, plan)
    for name, tensor in tensors(model).items():
        half_more = torch.isin(before[name], stayed) & (name in groups.tensors)
        assert torch.equal(tensor, before[name] + 0.5 * half_more), name
    again = tensors(slice_model(model, plan))
    assert again.keys() == tensors(sliced).keys()
    assert all(
        torch.equal(again[name], tensor) for name, tensor in tensors(sliced).items() if name in groups.tensors
    )


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=10)
def test_what_stayed_goes_back_to_its_place_and_what_went_is_left_alone(
    make_recognizer: MakeRecognizer, family: str, seed: int
) -> None:
    model = make_recognizer(family, layers=3, units=7, channels=4).model
    groups = find_groups(model, width=seed % 2 == 0)
    check_put_back(model, groups, random_plan(groups, seed))


@pytest.mark.parametrize("family", ["conformer", "parakeet"])
def test_the_bias_that_an_emptied_module_adds_goes_back_and_not_into_a_layer_that_went(
    make_recognizer: MakeRecognizer, family: str
) -> None:
    """Layer 2 becomes layer 1, whose convolution is a bias; layer 1 of the unpruned model had one by the same name."""
    model = make_recognizer(family, layers=3).model
    groups = find_groups(model)
    empty = {"layers.2.conv.channels": [], "layers.2.self_attn.heads": [], "layers.0.feed_forward1.units": []}
    check_put_back(model, groups, PruningPlan.keep(groups, {"layers.1": [], **empty}))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_gets_its_own_weights_back_hears_as_before(
    make_recognizer: MakeRecognizer, family: str
) -> None:
    model = make_recognizer(family, layers=3).model
    groups = find_groups(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for seed in range(5):
        plan = random_plan(groups, seed)
        unslice(model, slice_model(model, plan), groups, plan)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_that_was_pruned_before_is_put_back_too(make_recognizer: MakeRecognizer) -> None:
    dense = make_recognizer("conformer", layers=3).model
    groups = find_groups(dense)
    model = slice_model(
        dense, PruningPlan.keep(groups, {"layers.0.conv.channels": [], "layers.1.self_attn": []})
    )
    groups = find_groups(model)
    for seed in range(5):
        check_put_back(model, groups, random_plan(groups, seed))


@pytest.fixture(scope="module")
def groups(make_recognizer: MakeRecognizer) -> Groups:
    return find_groups(make_recognizer("conformer", units=200, width=64, channels=32).model)


def scored(groups: Groups, seed: int) -> dict[str, Elimination]:
    """Harms that no one knows anything of."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: Elimination.by_harm(
            torch.rand(group.size, generator=generator, dtype=torch.double) * group.size**-0.5
        )
        for name, group in groups.items()
    }


UNITS = "layers.0.feed_forward1.units"


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10)
def test_gates_that_close_alike_go_down_by_the_plans(groups: Groups, seed: int) -> None:
    scores = scored(groups, seed)
    plans = {way: random_plan(groups, seed + i) for i, way in enumerate((0.4, 0.7, 1.0, 1.2))}
    begin = opening(groups, scores, plans, groups)
    assert begin.keys() == groups.keys()
    for name, log_alpha in begin.items():
        order, size = list(scores[name].order), groups[name].size
        assert log_alpha[order].sort().values.equal(log_alpha[order])
        cut = 0
        for way, plan in plans.items():
            # What has gone does not come back.
            cut = max(cut, size - plan.counts().get(name, size))
            there = log_alpha[order] + SLOPE * (1.0 - way)
            assert (there[:cut] < 0).all()
            assert (there[cut:] > 0).all()


def test_gates_are_surer_the_further_they_are_from_where_they_go(groups: Groups) -> None:
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0)).tolist()
    scores = {UNITS: Elimination(tuple(order), torch.ones(200, dtype=torch.double))}
    # A unit for every hundredth of the way.
    plans = {
        way: PruningPlan.keep(groups, {UNITS: order[round(100 * way) :]}) for way in (0.2, 0.5, 1.0, 1.5)
    }
    begin = opening(groups, scores, plans, groups)
    assert begin.keys() == {UNITS}
    p = begin[UNITS][order].sigmoid()
    assert p[90:110].sum().item() == pytest.approx(10.0, abs=0.1)
    assert 0.94 < p[107].item() < 0.97
    assert 0.03 < p[92].item() < 0.06


@pytest.mark.parametrize("keep", ["params=50%", "params=70%,macs=60%"])
@pytest.mark.parametrize("place", [0.5, 0.8, 1.0])
def test_the_way_down_has_the_costs_of_its_plans(
    make_recognizer: MakeRecognizer, groups: Groups, keep: str, place: float
) -> None:
    model = make_recognizer("conformer", units=200, width=64, channels=32).model
    costs = {"params": parameter_cost(groups), "macs": mac_cost(groups, model, 10.0)}
    fine = [name for name in groups if name not in {*groups.layers, *groups.branches}]
    scores = {name: each for name, each in scored(groups, 1).items() if name in fine}
    budget = Budget.parse(keep)
    plans = {way: allocate(groups, scores, costs, budget.part_way(costs, way)) for way in RUNGS[:12]}
    gates = Gates(groups, fine, log_alpha=opening(groups, scores, plans, fine), slope=SLOPE)
    gates.place = place
    plan = plans[place]
    for name, p in gates.keep().items():
        kept = plan.counts().get(name, groups[name].size)
        # Where a plan takes less of a group than a milder one has, what has gone stays away.
        room = 0.05 * groups[name].size + 3
        assert abs(p.sum().item() - kept) < room, name
    for cost in costs.values():
        with torch.no_grad():
            expected = float(cost.of(gates.expected_counts())) / cost.dense
        assert expected == pytest.approx(cost(plan.counts()) / cost.dense, abs=0.05)


def test_units_of_a_module_that_goes_as_a_whole_go_with_it(make_recognizer: MakeRecognizer) -> None:
    """Without a bias nothing is left of a module without units, so that the plan says nothing of these."""
    groups = find_groups(make_recognizer("conformer", use_bias=False).model)
    plan = PruningPlan.keep(groups, {UNITS: []})
    assert plan.gone == {"layers.0.feed_forward1"}
    scores = {UNITS: Elimination.by_harm(torch.ones(20))}
    assert (opening(groups, scores, {1.0: plan}, [UNITS])[UNITS] < 0).all()


@pytest.mark.parametrize("stays", [True, False])
def test_a_module_with_a_gate_of_its_own_goes_by_that(groups: Groups, stays: bool) -> None:
    module, units = "layers.0.conv", "layers.0.conv.channels"
    plan = PruningPlan.keep(groups, {} if stays else {module: []})
    scores = {name: Elimination.by_harm(torch.ones(groups[name].size)) for name in (module, units)}
    begin = opening(groups, scores, {1.0: plan}, [module, units])
    assert (begin[module].item() > 5.0) is stays
    assert (begin[units] > 0).all()
