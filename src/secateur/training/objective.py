"""Objectives: what the loop trains, and what it asks of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from secateur.training.feed import Batch
from secateur.training.precision import Working


class Objective(Protocol):
    """What is trained."""

    def loss(self, batch: Batch, share: float, /) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and figures to show; ``share`` of the phase is done."""

    def stepped(self) -> None:
        """Called after every step of the optimiser."""

    def skipped(self) -> None:
        """Called instead where the gradient is not finite, and no step is taken."""

    def model_state(self) -> dict[str, Tensor]:
        """What is learned: copies, as nothing may change in them later."""

    def load_model_state(self, state: Mapping[str, Tensor]) -> None:
        """Go back to that."""

    def state_dict(self) -> dict[str, Any]:
        """All else that the next step depends on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to that."""


class WeightsObjective:
    """What objectives have in common that train the weights of a model at work and remember nothing else."""

    def __init__(self, working: Working) -> None:
        self.working = working

    def stepped(self) -> None:
        self.working.update_model()

    def skipped(self) -> None:
        pass

    def model_state(self) -> dict[str, Tensor]:
        return self.working.state()

    def load_model_state(self, state: Mapping[str, Tensor]) -> None:
        self.working.load_state(state)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass
