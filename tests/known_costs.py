"""Costs that are known without a model, and expected ones, worked out group by group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.structure.cost import CostModel
from secateur.structure.groups import Groups


@dataclass(frozen=True)
class Fixed:
    """A cost of which nothing is known but how large it is."""

    dense: float
    per: float = 1.0

    def __call__(self, kept: Mapping[str, int], /) -> float:
        raise NotImplementedError

    def of(self, counts: Tensor, /) -> Tensor:
        raise NotImplementedError


def expected_counts(groups: Groups, keep: Mapping[str, Tensor]) -> Tensor:
    """How many units of each group are expected to be kept, [groups], float64, for the probability of each, [size]."""
    counts = [
        keep[name].double().sum() if name in keep else torch.tensor(group.size, dtype=torch.double)
        for name, group in groups.items()
    ]
    return torch.stack(counts)


def expected(cost: CostModel, groups: Groups, keep: Mapping[str, Tensor]) -> Tensor:
    """The expected cost, a differentiable scalar in float64."""
    return cost.of(expected_counts(groups, keep))
