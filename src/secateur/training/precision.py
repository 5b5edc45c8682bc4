"""Computing in half precision, and learning in full: a model in bfloat16, and the weights in float32 that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

# Their running statistics need more digits than half precision has.
KEPT = (nn.BatchNorm1d, nn.BatchNorm2d)


class Working:
    """A model at work in half precision.

    Small steps are lost in bfloat16, which has three digits. So an optimiser moves `parameters`, twins in full precision
    which are given the model's gradients, and `update_model` brings the model's weights after them. Casting the whole model once
    a step is three times as fast on a CPU as casting in every layer, which is what `torch.autocast` does.

    Args:
        model: whose parameters are cast; norms over batches and buffers are not.
        dtype: to what; None: nothing is cast, and the parameters are the model's own.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        self.model = model
        self._twins: dict[str, nn.Parameter] = {}
        self._hooks: list[RemovableHandle] = []
        if dtype is None:
            return
        full = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        lower(model, dtype)
        for name, parameter in model.named_parameters():
            if parameter.dtype != full[name].dtype:
                twin = self._twins[name] = nn.Parameter(full[name])
                hook = parameter.register_post_accumulate_grad_hook(partial(_hand_over, twin))  # type: ignore[no-untyped-call]
                self._hooks.append(hook)

    def parameters(self) -> list[nn.Parameter]:
        """What an optimiser moves."""
        return [self._twins.get(name, parameter) for name, parameter in self.model.named_parameters()]

    @torch.no_grad()
    def update_model(self) -> None:
        """Bring the model after its parameters; to be called after every step."""
        for name, parameter in self.model.named_parameters():
            if name in self._twins:
                parameter.copy_(self._twins[name])

    def state(self) -> dict[str, Tensor]:
        """A copy of the model's state, in full precision."""
        state = {**self.model.state_dict(), **self._twins}
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state."""
        self.model.load_state_dict(state)
        for name, twin in self._twins.items():
            twin.copy_(state[name])

    def restore(self) -> None:
        """Put the model's own weights into full precision again; its work is done."""
        for name, parameter in self.model.named_parameters():
            if name in self._twins:
                parameter.data = self._twins[name].data
        for hook in self._hooks:
            hook.remove()
        self._twins.clear()


def working_type(precision: str, model: PreTrainedModel) -> torch.dtype | None:
    """The precision that training computes in; None for that of the weights."""
    if precision == "float32" or model.dtype != torch.float32:
        return None
    if precision == "bfloat16":
        return torch.bfloat16
    if model.device.type == "cuda":
        with torch.cuda.device(model.device):
            # Where it is emulated it is slower than full precision.
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    # Earlier versions of PyTorch do not tell.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    has_it = model.device.type == "cpu" and capabilities.get("avx512_bf16", False)
    return torch.bfloat16 if has_it else None


def lower(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast a model's parameters, but for what has to stay precise."""
    for module in model.modules():
        if not isinstance(module, KEPT):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def _hand_over(twin: nn.Parameter, parameter: Tensor) -> None:
    """Give a parameter's gradient to its twin."""
    if parameter.grad is not None:
        gradient = parameter.grad.to(twin.dtype)
        twin.grad = gradient if twin.grad is None else twin.grad + gradient
        parameter.grad = None
