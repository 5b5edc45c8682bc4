"""Curves of a run for TensorBoard, which is an extra."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from secateur.errors import SecateurError, installed_by, reason
from secateur.files import is_there

FLUSH_SECONDS = 10
"""After so long what was written can be looked at."""


@contextmanager
def curves(
    folder: str | Path, tell: Callable[[str], object]
) -> Iterator[Callable[[str, Mapping[str, float]], None]]:
    """A function that writes the figures of a step, as `training.phase.run_phase` logs them, as ``phase/name``.

    The folder is made when there is something to write; where that fails later on, the training goes on without curves.

    Args:
        folder: where.
        tell: told in a sentence if it cannot be written any more.

    Raises:
        SecateurError: TensorBoard is not installed, or the folder cannot be made.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise SecateurError(
            f"--tensorboard needs TensorBoard, which is not installed: {installed_by('tensorboard')}"
        ) from None
    there = next(
        each for each in (Path(folder).absolute(), *Path(folder).absolute().parents) if is_there(each)
    )
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise SecateurError(
            f"{folder} cannot be written: {there} is no folder, or closed to this user; choose another"
        )
    writer, lost = None, False

    def log(phase: str, row: Mapping[str, float]) -> None:
        nonlocal writer, lost
        if lost:
            return
        try:
            if writer is None:
                writer = SummaryWriter(str(folder), flush_secs=FLUSH_SECONDS)
            for name, value in row.items():
                if name != "step":
                    writer.add_scalar(f"{phase}/{name}", value, int(row["step"]))
        except OSError as error:
            lost = True
            tell(
                f"curves cannot be written to {folder} any more ({reason(error)}); the training goes on without them"
            )

    try:
        yield log
    finally:
        if writer is not None:
            with suppress(OSError):
                writer.close()
