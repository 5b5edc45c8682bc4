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
from secateur.pruning.learning.start import opening, unslice
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


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10)
def test_gates_stand_in_the_order_of_the_scores_with_the_cut_in_the_middle(groups: Groups, seed: int) -> None:
    scores = scored(groups, seed)
    plan = random_plan(groups, seed)
    begin = opening(groups, scores, plan)
    assert begin.keys() == groups.keys()
    for name, log_alpha in begin.items():
        order = list(scores[name].order)
        assert log_alpha[order].sort().values.equal(log_alpha[order])
        cut = groups[name].size - plan.counts().get(name, groups[name].size)
        assert (log_alpha[order[:cut]] < 0).all()
        assert (log_alpha[order[cut:]] > 0).all()


def test_gates_are_surer_the_further_they_are_from_the_cut(groups: Groups) -> None:
    name = "layers.0.feed_forward1.units"
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0)).tolist()
    scores = {name: Elimination(tuple(order), torch.ones(200, dtype=torch.double))}
    plan = PruningPlan.keep(groups, {name: order[80:]})
    begin = opening(groups, scores, plan)
    assert begin.keys() == {name}
    p = begin[name][order].sigmoid()
    assert p[70:90].sum().item() == pytest.approx(10.0)
    assert 0.94 < p[90].item() < 0.97
    assert 0.03 < p[69].item() < 0.06


@pytest.mark.parametrize("keep", ["params=50%", "params=70%,macs=60%"])
def test_the_search_begins_near_the_costs_of_the_plan(
    make_recognizer: MakeRecognizer, groups: Groups, keep: str
) -> None:
    model = make_recognizer("conformer", units=200, width=64, channels=32).model
    costs = {"params": parameter_cost(groups), "macs": mac_cost(groups, model, 10.0)}
    scores = scored(groups, 1)
    plan = allocate(groups, scores, costs, Budget.parse(keep))
    gates = Gates(groups, log_alpha=opening(groups, scores, plan))
    for name, p in gates.keep().items():
        kept = plan.counts().get(name, groups[name].size)
        room = 0.03 * groups[name].size + 1
        assert abs(p.sum().item() - kept) < room, name
    for cost in costs.values():
        with torch.no_grad():
            begins = float(cost.of(gates.expected_counts())) / cost.dense
        assert begins == pytest.approx(cost(plan.counts()) / cost.dense, abs=0.05)


def test_units_of_a_module_that_goes_as_a_whole_begin_closed(make_recognizer: MakeRecognizer) -> None:
    """Without a bias nothing is left of a module without units, so that the plan says nothing of these."""
    groups = find_groups(make_recognizer("conformer", use_bias=False).model)
    units = "layers.0.feed_forward1.units"
    plan = PruningPlan.keep(groups, {units: []})
    assert plan.gone == {"layers.0.feed_forward1"}
    assert (opening(groups, {units: Elimination.by_harm(torch.ones(20))}, plan)[units] < 0).all()


@pytest.mark.parametrize("stays", [True, False])
def test_a_module_with_a_gate_of_its_own_can_come_back(groups: Groups, stays: bool) -> None:
    module = "layers.0.conv"
    plan = PruningPlan.keep(groups, {} if stays else {module: []})
    begin = opening(groups, {module: Elimination.by_harm(torch.ones(1))}, plan)[module]
    assert begin.sigmoid().item() == pytest.approx(0.99 if stays else 0.01)
