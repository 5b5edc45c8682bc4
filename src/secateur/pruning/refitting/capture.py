"""See what passes through a module in a forward pass and stop the pass there; or let a known answer stand in for one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from torch import nn
from torch.utils.hooks import RemovableHandle

Side = Literal["input", "output", "call"]


class _Enough(Exception):  # noqa: N818  # nothing went wrong
    """All that was asked for has been seen; the rest of the forward pass is not needed."""


def capture(
    module: nn.Module, call: Mapping[str, Any], taps: Mapping[str, tuple[nn.Module, Side]], *args: Any
) -> dict[str, Any]:
    """Run a forward pass until every tap has been passed.

    Args:
        module: what is run, on ``args`` and the keyword arguments ``call``.
        taps: by any name, a module that the pass goes through, and which side of it to look at: its (first) input, its
            (first) output, or the arguments that it is called with.

    Returns:
        What was seen, by the name of the tap.
    """
    seen: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        seen[name] = value
        if len(seen) == len(taps):
            raise _Enough

    def attach(name: str, tapped: nn.Module, side: Side) -> RemovableHandle:
        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            note(name, first_of(output))

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            note(name, (args, kwargs) if side == "call" else args[0] if args else kwargs["hidden_states"])

        if side == "output":
            return tapped.register_forward_hook(after)
        return tapped.register_forward_pre_hook(before, with_kwargs=True)

    with ExitStack() as stack:
        for name, (tapped, side) in taps.items():
            stack.callback(attach(name, tapped, side).remove)
        try:
            module(*args, **call)
        except _Enough:
            return seen
    missing = ", ".join(name for name in taps if name not in seen)
    raise RuntimeError(f"the forward pass did not reach {missing}")


def first_of(output: Any) -> Any:
    """Of a module's output, the tensor that counts: of several the first."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def answering(answers: Mapping[nn.Module, Any]) -> Iterator[None]:
    """Within the context these modules do no work: each gives its answer to every call."""
    with ExitStack() as stack:
        for module, answer in answers.items():
            vars(module)["forward"] = lambda *_, answer=answer, **__: answer
            stack.callback(vars(module).pop, "forward")
        yield
