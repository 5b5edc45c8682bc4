"""The precision of a model's weights."""

from __future__ import annotations

import torch
from torch import nn


def cast(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Give a model's weights another precision, in place.

    What no checkpoint keeps is no weight, and stays as exact as it is: rounded to bfloat16, the frequencies of Parakeet's positions
    would be off by a quarter of a turn and more after ten seconds.

    Args:
        model: on any device.
        dtype: of its weights; None: they stay as they are.
    """
    if dtype is None:
        return
    exact = [
        (module, name, module.get_buffer(name))
        for module in model.modules()
        for name in module._non_persistent_buffers_set
        if module._buffers.get(name) is not None
    ]
    model.to(dtype=dtype)
    for module, name, buffer in exact:
        if buffer.is_floating_point() and torch.finfo(dtype).bits < torch.finfo(buffer.dtype).bits:
            module._buffers[name] = buffer
