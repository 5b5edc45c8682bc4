"""Give a freshly built model the shapes that pruning left it.

What was pruned is data, the ``secateur_structure`` of the model's configuration:

    tensors     new shape of each parameter and buffer that shrank, by name
    modules     what stands in place of a module, by path: ``{"kind": "identity"}``, ``{"kind": "constant", "width": 176,
                "pair": false}``, or ``{"kind": "selecting", "columns": [0, 1, 5]}``
    attributes  numbers that a module reads in its forward pass, by path; ``config.`` stands for its configuration

This file depends on torch alone, so that a saved checkpoint can carry it and be loaded without Secateur.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

Structure = Mapping[str, Mapping[str, Any]]


class Constant(nn.Module):
    """What is left of a module on a residual branch when all its units are gone: its last bias, or nothing."""

    def __init__(self, width: int, pair: bool) -> None:
        """``width`` is that of the bias, 0 for none; ``pair``: return the output as the first of a pair."""
        super().__init__()
        self.pair = pair
        self.bias = nn.Parameter(torch.zeros(width)) if width else None

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor | tuple[Tensor, None]:
        value = hidden_states.new_zeros(()) if self.bias is None else self.bias
        output = value.expand_as(hidden_states)
        return (output, None) if self.pair else output


class SelectingLinear(nn.Linear):
    """A linear layer that reads some columns of its input: those that its pruned weight still has."""

    columns: list[int]
    _index: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self._index is None or self._index.device != x.device:
            # Once for each device, and usable where gradients are needed wherever it was first made.
            with torch.inference_mode(False):
                self._index = torch.tensor(self.columns, device=x.device)
        return super().forward(x.index_select(-1, self._index))


class LayerConfig:
    """The model's configuration as one layer sees it: with numbers of its own, and the rest shared and live."""

    def __init__(self, shared: Any, **own: Any) -> None:
        self.__dict__.update(own, _shared=shared)

    def __getattr__(self, name: str) -> Any:
        # Copying asks an empty object for its methods; it has no configuration to ask yet.
        if name == "_shared" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._shared, name)


def reshape(model: nn.Module, structure: Structure) -> None:
    """Apply a structure in place. A tensor that has its new shape already keeps its values, others keep the first."""
    for path, replacement in structure["modules"].items():
        _replace_module(model, path, **replacement)
    for name, shape in structure["tensors"].items():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        tensor = getattr(module, leaf)
        if list(tensor.shape) != list(shape):
            set_tensor(module, leaf, tensor.detach()[tuple(slice(length) for length in shape)].clone())
        _follow_shapes(module)
    for path, attributes in structure["attributes"].items():
        holder: Any = model.get_submodule(path)
        for name, value in attributes.items():
            if name.startswith("config."):
                holder.config = LayerConfig(holder.config, **{name.removeprefix("config."): value})
            else:
                setattr(holder, name, value)


def set_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor in place of a parameter or buffer of another shape."""
    old = getattr(module, name)
    setattr(module, name, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)


def _replace_module(model: nn.Module, path: str, kind: str, **settings: Any) -> None:
    if kind == "identity":
        model.set_submodule(path, nn.Identity())
    elif kind == "constant":
        model.set_submodule(path, Constant(**settings))
    elif kind == "selecting":
        linear: Any = model.get_submodule(path)
        linear.__class__ = SelectingLinear
        linear.columns, linear._index = settings["columns"], None
    else:
        raise ValueError(
            f"secateur_structure puts an unknown {kind!r} at {path}; a newer Secateur may know it"
        )


def _follow_shapes(module: nn.Module) -> None:
    """Set the sizes that a module states to those of its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
        depthwise = module.groups > 1
        module.out_channels = len(module.weight)
        module.in_channels = module.out_channels if depthwise else module.weight.shape[1]
        module.groups = module.out_channels if depthwise else 1
    elif isinstance(module, nn.BatchNorm1d):
        module.num_features = len(module.weight)
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = module.num_channels = len(module.weight)
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)


@cache
def pruned_class(base: type) -> type:
    """The model class ``base`` for models that were pruned: built as their configuration says, then reshaped."""

    class Pruned(base):  # type: ignore[misc]  # a class made at run time has a base known at run time
        dense_class = base

        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            reshape(self, config.secateur_structure)

    Pruned.__name__ = Pruned.__qualname__ = f"Pruned{base.__name__}"
    return Pruned
