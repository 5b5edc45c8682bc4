"""Slicing: carry out a plan, so that what it drops is really gone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.structure.axes import kept_positions, size
from secateur.structure.family import Family
from secateur.structure.groups import Groups, Layout, find_groups
from secateur.structure.layout import Patterns
from secateur.structure.plan import PruningPlan
from secateur.structure.surgery import Constant, SelectingLinear, pruned_class, reshape

Kept = Mapping[str, Sequence[int]]


def slice_model(model: PreTrainedModel, plan: PruningPlan) -> PreTrainedModel:
    """The model without the units that a plan drops, of the class that rebuilds it from its configuration.

    Args:
        model: what the plan was made for; it may have been sliced before. It stays as it was.
        plan: what stays.

    Returns:
        A model that shares nothing with it; what is dropped is never copied.

    Raises:
        SecateurError: the plan is for another model.
    """
    groups = find_groups(model, width="width" in plan.kept)
    kept = plan.resolved(groups).kept
    # deepcopy takes an object that is listed here by its id for copied already.
    copied: dict[int, Any] = {}
    for module, name, smaller in _cut_tensors(model, groups, kept):
        tensor = getattr(module, name)
        parameter = isinstance(tensor, nn.Parameter)
        copied[id(tensor)] = nn.Parameter(smaller, tensor.requires_grad) if parameter else smaller
    result = copy.deepcopy(model, copied)

    change = _change(result, groups, kept)
    biases = {row.path: result.get_parameter(row.bias) for row in groups.branches.values() if row.bias}
    reshape(result, change)
    for path in change["modules"]:
        module = result.get_submodule(path)
        if isinstance(module, Constant) and module.bias is not None:
            module.bias = biases[path]
    _drop_layers(result, groups, kept)
    result.config.secateur_structure = describe(result, groups.family)
    result.__class__ = pruned_class(dense_class(result))
    return result


def dense_class(model: PreTrainedModel) -> type:
    """The class of a model before it was pruned."""
    dense: type = getattr(type(model), "dense_class", type(model))
    return dense


def describe(model: PreTrainedModel, family: Family) -> dict[str, dict[str, Any]]:
    """How a model differs from the one that its configuration describes: a structure that `surgery.reshape` applies."""
    with torch.device("meta"):
        dense = dense_class(model)(copy.deepcopy(model.config))
    shapes = {name: tensor.shape for name, tensor in [*dense.named_parameters(), *dense.named_buffers()]}
    tensors = {
        name: list(tensor.shape)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if name in shapes and tensor.shape != shapes[name]
    }
    modules: dict[str, dict[str, Any]] = {}
    attributes: dict[str, dict[str, Any]] = {}
    held = Patterns(family.attributes)
    for path, module in model.named_modules():
        if isinstance(module, Constant):
            width = 0 if module.bias is None else len(module.bias)
            modules[path] = {"kind": "constant", "width": width, "pair": module.pair}
        elif isinstance(module, SelectingLinear):
            modules[path] = {"kind": "selecting", "columns": module.columns}
        elif isinstance(module, nn.Identity) and not isinstance(dense.get_submodule(path), nn.Identity):
            modules[path] = {"kind": "identity"}
        elif found := held.find(path):
            values = {name: attrgetter(name)(module) for name in found[0]}
            before = dense.get_submodule(path)
            if changed := {
                name: value for name, value in values.items() if value != attrgetter(name)(before)
            }:
                attributes[path] = changed
    return {"tensors": tensors, "modules": modules, "attributes": attributes}


def _cut_tensors(
    model: PreTrainedModel, groups: Groups, kept: Kept
) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """What stays of each tensor that shrinks, one at a time, with the module and the name that it has there."""
    for path_and_name, layout in groups.tensors.items():
        path, _, name = path_and_name.rpartition(".")
        module = model.get_submodule(path)
        tensor = getattr(module, name)
        smaller = _select(tensor.detach(), layout, kept)
        if smaller.shape != tensor.shape:
            yield module, name, smaller


def _select(tensor: Tensor, layout: Layout, kept: Kept) -> Tensor:
    """What stays of a tensor; nothing of one whose module or layer goes."""
    if any(not kept.get(name, (0,)) for name in layout.needs):
        return tensor.new_empty(0)
    for index, dim in enumerate(layout.dims):
        positions = kept_positions(dim, kept)
        if positions is not None:
            tensor = tensor.index_select(index, positions.to(tensor.device))
    return tensor


def _change(model: PreTrainedModel, groups: Groups, kept: Kept) -> dict[str, dict[str, Any]]:
    """The structure that a plan leads to, in the names of the model before layers are dropped."""
    counts = {name: len(units) for name, units in kept.items()}
    empty = {name for name, count in counts.items() if count == 0}
    modules: dict[str, dict[str, Any]] = {}
    going = [path for name, path in groups.layers.items() if name in empty]
    for name, branch in groups.branches.items():
        if name in empty or empty.intersection(branch.units):
            bias = branch.bias if name not in empty else None
            width = size(groups.tensors[bias].dims[0], counts) if bias else 0
            modules[branch.path] = {"kind": "constant", "width": width, "pair": branch.pair}
            if branch.norm:
                modules[branch.norm] = {"kind": "identity"}
    going += modules

    def stays(path: str) -> bool:
        return not any(f"{path}.".startswith(f"{gone}.") for gone in going)

    for path in groups.selects:
        columns = kept_positions(groups.tensors[f"{path}.weight"].dims[1], kept)
        if columns is not None and stays(path):
            already = getattr(model.get_submodule(path), "columns", None)
            chosen = columns.tolist()
            modules[path] = {
                "kind": "selecting",
                "columns": [already[i] for i in chosen] if already else chosen,
            }
    tensors = {
        name: [size(dim, counts) for dim in layout.dims]
        for name, layout in groups.tensors.items()
        if stays(name) and any(axis.group in counts for dim in layout.dims for axis in dim)
    }
    attributes: dict[str, dict[str, Any]] = {}
    for (path, name), dim in groups.attributes.items():
        if stays(path) and any(axis.group in counts for axis in dim):
            attributes.setdefault(path, {})[name] = size(dim, counts)
    return {"tensors": tensors, "modules": modules, "attributes": attributes}


def _drop_layers(model: PreTrainedModel, groups: Groups, kept: Kept) -> None:
    layers = [model.get_submodule(path) for name, path in groups.layers.items() if kept.get(name, (0,))]
    model.set_submodule(groups.family.layers, nn.ModuleList(layers))
    holder, _, name = groups.family.layer_count.rpartition(".")
    setattr(attrgetter(holder)(model.config) if holder else model.config, name, len(layers))
