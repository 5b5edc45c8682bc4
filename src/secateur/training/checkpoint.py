"""Files that a run goes on from: written whole or not at all, and read without running what is in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from secateur.errors import SecateurError, reason
from secateur.files import check_sums, whole


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; an earlier file is replaced whole or stays.

    Raises:
        SecateurError: it cannot be written.
    """
    try:
        with whole(path) as partial, partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        raise SecateurError(
            f"{path} cannot be written, to go on from later: {reason(error)}; free some space"
        ) from None


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote.

    Raises:
        SecateurError: it is damaged.
    """
    try:
        check_sums(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - damage shows as any error of two parsers
        raise SecateurError(
            f"{path} is damaged, so the run cannot go on from it: {reason(error)}; delete it to begin the phase anew"
        ) from None
    return state
