"""Eliminations: in which order a group's units go, and how much harm the loss of each is estimated to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Elimination:
    """The units of a group in the order in which they go.

    Attributes:
        order: every unit, the first to go first.
        rise: the estimated harm that each of these removals adds, [size], in float64 and not negative.
    """

    order: tuple[int, ...]
    rise: Tensor

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.rise))):
            raise ValueError("an elimination takes every unit of its group, once")
        if not bool(torch.isfinite(self.rise).all()) or bool((self.rise < 0).any()):
            raise ValueError("an elimination's harms are finite and not negative")

    @classmethod
    def by_harm(cls, harm: Tensor) -> Elimination:
        """The least harmful first, when the harm of each unit, [size], does not depend on what else is gone."""
        rise, order = harm.double().cpu().sort(stable=True)
        return cls(tuple(order.tolist()), rise)


Scores = Mapping[str, Elimination]
"""Eliminations by group; groups that a score does not speak of stay whole."""
