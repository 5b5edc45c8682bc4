"""Masks on a model's groups, by hooks: what a plan would remove is switched off, wholly or in part, and nothing is cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from secateur.structure.axes import mask_along
from secateur.structure.groups import Groups, Site

Masks = Mapping[str, Tensor]


@contextmanager
def masked(model: nn.Module, groups: Groups, masks: Masks) -> Iterator[None]:
    """Within the context, ``model`` computes as if each unit were there to the degree that its mask says.

    With ones and zeros it computes what the model sliced by them does. Everything is differentiable in the masks.

    Args:
        model: the model that the groups are of; it must not be sliced or copied meanwhile.
        groups: its groups.
        masks: a factor for every unit, [size], by group. Groups that are not listed are whole. The mapping is read anew
            in every forward pass, so that its values may be replaced between two of them; its keys are those of the start.
    """
    sites: dict[Site, list[str]] = {}
    for name in masks:
        for site in groups[name].sites:
            sites.setdefault(site, []).append(name)
    handles = [
        handle
        for site, names in sites.items()
        for handle in _attach(model.get_submodule(site.module), site, masks, names)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attach(module: nn.Module, site: Site, masks: Masks, names: list[str]) -> list[RemovableHandle]:
    """Hook one site; all the groups that have a site there act in one product.

    A dimension may belong to other groups too: a head's gate sits where heads are consumed, and must not act once more
    where the query/key width has its own.
    """

    def factor(dtype: torch.dtype) -> Tensor:
        return mask_along(site.dim, {name: masks[name] for name in names}).to(dtype)

    # Scaling a weight is scaling the input or the output, and weights are smaller than activations. The scaled tensor
    # hides the parameter while the module runs; the parameter itself stays where everybody else finds it.
    def scale_weight(module: nn.Linear | nn.Conv1d | nn.Conv2d, _: tuple[Any, ...]) -> None:
        weight, bias = module.weight, module.bias
        gate = factor(weight.dtype)
        if site.side == "input":
            vars(module)["weight"] = weight * gate.reshape(1, -1, *[1] * (weight.dim() - 2))
        else:
            vars(module)["weight"] = weight * gate.reshape(-1, *[1] * (weight.dim() - 1))
            if bias is not None:
                vars(module)["bias"] = bias * gate

    def restore(module: nn.Module, *_: Any) -> None:
        vars(module).pop("weight", None)
        vars(module).pop("bias", None)

    def scale_output(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] * factor(output[0].dtype), *output[1:])
        return output * factor(output.dtype)

    def mix_with_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        before = args[0] if args else kwargs["hidden_states"]
        # In mixed precision a layer may give another one than it was given.
        dtype = torch.promote_types(before.dtype, output.dtype)
        return torch.lerp(before.to(dtype), output.to(dtype), factor(dtype))

    def normalise_open_units(norm: nn.LayerNorm, args: tuple[Any, ...], output: Tensor) -> Tensor:
        precise = torch.promote_types(args[0].dtype, torch.float32)
        return masked_layer_norm(norm, args[0], factor(precise)).to(output.dtype)

    if site.side == "layer":
        return [module.register_forward_hook(mix_with_input, with_kwargs=True)]
    if site.side == "norm":
        return [module.register_forward_hook(normalise_open_units)]
    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
        return [
            module.register_forward_pre_hook(scale_weight),
            module.register_forward_hook(restore, always_call=True),
        ]
    return [module.register_forward_hook(scale_output)]


def masked_layer_norm(norm: nn.LayerNorm, x: Tensor, mask: Tensor) -> Tensor:
    """``norm`` of x, [..., units], with mean and variance over the units that ``mask``, [units], leaves open.

    A unit counts as much as its mask says: mean = sum(m x) / sum(m), variance = sum(m (x - mean)^2) / sum(m).
    With none open the output is finite, whatever it is: the unit's consumer does not read it.
    """
    share = mask / mask.sum().clamp(min=torch.finfo(mask.dtype).tiny)
    centred = x - (x * share).sum(-1, keepdim=True)
    variance = (centred.square() * share).sum(-1, keepdim=True)
    return centred * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias
