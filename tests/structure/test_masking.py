from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.structure.groups import find_groups
from secateur.structure.masking import masked, masked_layer_norm
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model
from tiny_models import FAMILIES

MakeModel = Callable[..., PreTrainedModel]
Inputs = Callable[[PreTrainedModel], dict[str, Tensor]]


def ones(groups: object, **settings: object) -> dict[str, Tensor]:
    return {name: torch.ones(group.size, dtype=torch.double, **settings) for name, group in groups.items()}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_open_masks_change_nothing_and_leave_nothing_behind(
    make_model: MakeModel, inputs_for: Inputs, family: str
) -> None:
    model = make_model(family)
    groups, inputs = find_groups(model, width=True), inputs_for(model)
    before = model(**inputs).logits
    with masked(model, groups, ones(groups)):
        torch.testing.assert_close(model(**inputs).logits, before, rtol=0, atol=1e-12)
    assert torch.equal(model(**inputs).logits, before)
    hooks = [h for module in model.modules() for h in (*module._forward_hooks, *module._forward_pre_hooks)]
    assert not hooks


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_are_differentiable_in_every_mask(
    make_model: MakeModel, inputs_for: Inputs, family: str
) -> None:
    model = make_model(family)
    groups = find_groups(model, width=True)
    masks = ones(groups, requires_grad=True)
    with masked(model, groups, masks):
        logits = model(**inputs_for(model)).logits
    weights = torch.randn(logits.shape, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad((logits * weights).sum(), list(masks.values()))
    for name, gradient in zip(masks, gradients, strict=True):
        # A single unit may be dead behind a ReLU, a whole group is not.
        assert gradient.abs().max() > 0, name


@torch.no_grad()
def test_the_gradient_is_the_slope(make_model: MakeModel, inputs_for: Inputs) -> None:
    model = make_model("conformer", layers=1, conv_norm="layer_norm")
    groups, inputs = find_groups(model, width=True), inputs_for(model)
    generator = torch.Generator().manual_seed(1)
    masks = {name: torch.rand(g.size, generator=generator).double() * 0.8 + 0.1 for name, g in groups.items()}
    directions = {name: torch.randn(mask.shape, generator=generator).double() for name, mask in masks.items()}

    def along(step: Tensor) -> Tensor:
        with masked(model, groups, {name: masks[name] + step * directions[name] for name in masks}):
            return model(**inputs).logits.sum()

    with torch.enable_grad():
        step = torch.zeros((), dtype=torch.double, requires_grad=True)
        (slope,) = torch.autograd.grad(along(step), step)
    tiny = torch.tensor(1e-6, dtype=torch.double)
    assert slope.item() == pytest.approx(((along(tiny) - along(-tiny)) / (2 * tiny)).item(), rel=1e-5)


@torch.no_grad()
def test_masks_are_read_anew_in_every_pass(make_model: MakeModel, inputs_for: Inputs) -> None:
    model = make_model("parakeet")
    groups, inputs = find_groups(model), inputs_for(model)
    masks = {"layers.0": torch.ones(1, dtype=torch.double)}
    before = model(**inputs).logits
    with masked(model, groups, masks):
        masks["layers.0"] = torch.zeros(1, dtype=torch.double)
        closed = model(**inputs).logits
        masks["layers.0"] = torch.ones(1, dtype=torch.double)
        assert torch.equal(model(**inputs).logits, before)
    assert not torch.equal(closed, before)


@torch.no_grad()
def test_masks_go_even_when_the_model_fails(make_model: MakeModel, inputs_for: Inputs) -> None:
    model = make_model("wav2vec2")
    before = model(**inputs_for(model)).logits
    with pytest.raises(RuntimeError), masked(model, find_groups(model), {"layers.0": torch.zeros(1)}):
        raise RuntimeError
    assert torch.equal(model(**inputs_for(model)).logits, before)


def test_a_masked_norm_is_the_norm_of_the_open_units() -> None:
    x = torch.randn(2, 3, 8, dtype=torch.double)
    norm = nn.LayerNorm(8, eps=1e-3, dtype=torch.double)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    open_units = [0, 2, 3, 7]
    mask = torch.zeros(8, dtype=torch.double)
    mask[open_units] = 1.0
    expected = nn.functional.layer_norm(
        x[..., open_units], (4,), norm.weight[open_units], norm.bias[open_units], 1e-3
    )
    torch.testing.assert_close(masked_layer_norm(norm, x, mask)[..., open_units], expected)


@torch.no_grad()
def test_a_model_without_some_of_its_width_can_lose_more(make_model: MakeModel, inputs_for: Inputs) -> None:
    model = make_model("conformer")
    narrow = slice_model(model, PruningPlan.keep(find_groups(model, width=True), {"width": range(2, 12)}))
    groups = find_groups(narrow, width=True)
    plan = PruningPlan.keep(groups, {"width": [0, 3, 4, 9], "layers.0.self_attn.query_key": [1, 2]})
    with masked(narrow, groups, plan.masks(torch.double)):
        expected = narrow(**inputs_for(model)).logits
    logits = slice_model(narrow, plan)(**inputs_for(model)).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)


def test_masks_leave_the_parameters_in_sight(make_model: MakeModel, inputs_for: Inputs) -> None:
    model = make_model("conformer")
    groups = find_groups(model)
    with masked(model, groups, ones(groups)):
        model(**inputs_for(model)).logits.square().mean().backward()
        assert set(model.state_dict()) == set(make_model("conformer").state_dict())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_masks_work_in_the_precision_of_the_model(make_model: MakeModel, inputs_for: Inputs) -> None:
    model = make_model("conformer").bfloat16()
    groups = find_groups(model, width=True)
    masks = {name: torch.ones(group.size, requires_grad=True) for name, group in groups.items()}
    with masked(model, groups, masks):
        assert model(**inputs_for(model)).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gate_acts_where_it_sits_and_nowhere_else(
    make_model: MakeModel, inputs_for: Inputs, family: str
) -> None:
    """Open masks of all other groups, some of which share its dimensions, change neither output nor gradient."""
    model = make_model(family)
    groups, inputs = find_groups(model, width=True), inputs_for(model)
    for name, group in groups.items():
        if not name.startswith(("layers.0", "subsampling", "feature_extractor", "width")):
            continue
        gradients, logits = [], []
        for others in ({}, ones(groups)):
            mask = torch.full((group.size,), 0.5, dtype=torch.double, requires_grad=True)
            with masked(model, groups, others | {name: mask}):
                logits.append(model(**inputs).logits)
            gradients += torch.autograd.grad(logits[-1].square().sum(), mask)
        torch.testing.assert_close(logits[1], logits[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_train_with_the_weights_in_mixed_precision(
    make_model: MakeModel, inputs_for: Inputs, family: str
) -> None:
    # Of these families training leaves out layers at random.
    whole: dict[str, object] = {} if family == "conformer" else {"layerdrop": 0.0}
    model = make_model(family, **whole)
    model = model.float().train()
    groups = find_groups(model, width=True)
    masks = {name: torch.full((g.size,), 0.7, requires_grad=True) for name, g in groups.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16), masked(model, groups, masks):
        loss = model(**inputs_for(model)).logits.float().square().mean()
    loss.backward()
    for parameter in [*masks.values(), *(p for n, p in model.named_parameters() if "spec_embed" not in n)]:
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert all(mask.grad.abs().max() > 0 for mask in masks.values())


def test_a_masked_norm_in_half_precision_takes_its_statistics_in_single(
    make_model: MakeModel, inputs_for: Inputs
) -> None:
    x = 30 + torch.randn(4, 200)
    norm, mask = nn.LayerNorm(200), (torch.arange(200) % 3 > 0).float()
    exact = masked_layer_norm(norm, x.bfloat16().float(), mask)
    torch.testing.assert_close(
        masked_layer_norm(norm, x.bfloat16(), mask).float(), exact, rtol=0.01, atol=0.01
    )
