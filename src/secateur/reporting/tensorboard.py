"""Curves of a run for TensorBoard, which is an extra."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from secateur.errors import SecateurError, reason

FLUSH_SECONDS = 10
"""After so long what was written can be looked at."""


@contextmanager
def curves(folder: str | Path) -> Iterator[Callable[[str, Mapping[str, float]], None]]:
    """A function that writes the figures of a step, as `LearnedMethod` logs them, as ``phase/name``.

    Raises:
        SecateurError: TensorBoard is not installed, or the folder cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise SecateurError(
            "--tensorboard needs TensorBoard, which is not installed: pip install 'secateur[tensorboard]'"
        ) from None
    try:
        writer = SummaryWriter(str(folder), flush_secs=FLUSH_SECONDS)
    except OSError as error:
        raise SecateurError(f"{folder} cannot be written: {reason(error)}; choose another folder") from None

    def log(phase: str, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(f"{phase}/{name}", value, int(row["step"]))

    with writer:
        yield log
