"""Cost of a plan, exactly, and of keep probabilities, differentiably: one sum of products for both.

Every tensor has as many numbers as the product of what is kept along its axes, so that a cost is

    c(n) = constant + sum over terms of coefficient * prod(n_g for g in term),

with n_g the number of units kept of group g, or its expectation. Multilinear in n, it is exact for independent gates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.structure.axes import Dim, size
from secateur.structure.counting import macs_by_module
from secateur.structure.groups import Groups, Layout
from secateur.structure.layout import Patterns

Term = tuple[int, Dim, tuple[str, ...]]
"""A coefficient, the axes along which it counts once per kept unit, and the groups without any unit of which it is 0."""


class Cost:
    """A cost as a function of how many units of each group are kept.

    Attributes:
        dense: the cost with nothing removed.
    """

    def __init__(self, groups: Groups, constant: int, terms: Iterable[Term]) -> None:
        self.groups = groups
        self.constant = constant
        # Factors are places in [1, n_1, ..., n_G, min(n_1, 1), ..., min(n_G, 1)].
        places = {name: place for place, name in enumerate(groups, start=1)}
        summed: dict[tuple[int, ...], int] = {}
        for coefficient, axes, needs in terms:
            factors = [places[axis.group] for axis in axes if axis.group is not None]
            factors += [places[name] + len(groups) for name in needs]
            key = tuple(sorted(factors))
            summed[key] = summed.get(key, 0) + coefficient * prod(
                axis.size for axis in axes if axis.group is None
            )
        longest = max(map(len, summed), default=0)
        self._factors = torch.tensor([key + (0,) * (longest - len(key)) for key in summed]).reshape(
            -1, longest
        )
        self._coefficients = torch.tensor(list(summed.values()), dtype=torch.long)
        self.dense = self({})

    def __call__(self, kept: Mapping[str, int]) -> int:
        """The cost when that many units of each group are kept; groups that are not listed are whole."""
        counts = [kept.get(name, group.size) for name, group in self.groups.items()]
        return int(self.of(torch.tensor(counts, dtype=torch.long)))

    def expected(self, keep: Mapping[str, Tensor]) -> Tensor:
        """The expected cost, a differentiable scalar in float64, for the probability of each unit of each group, [size]."""
        device = next((probabilities.device for probabilities in keep.values()), None)
        counts = [
            keep[name].double().sum()
            if name in keep
            else torch.tensor(group.size, dtype=torch.double, device=device)
            for name, group in self.groups.items()
        ]
        return self.of(torch.stack(counts))

    def of(self, counts: Tensor) -> Tensor:
        """The cost, a scalar, for the number of units kept of each group, [groups], in the order of the groups.

        Exact for integers; for expected numbers, which float64 should hold, it is the expected cost.
        """
        numbers = torch.cat([counts.new_ones(1), counts, counts.clamp(max=1)])
        products = numbers[self._factors.to(counts.device)].prod(-1)
        return self.constant + (self._coefficients.to(counts) * products).sum()


def parameter_cost(groups: Groups) -> Cost:
    """Parameters of the model."""
    return Cost(
        groups,
        0,
        [_term(1, layout.dims, layout) for layout in groups.tensors.values() if layout.is_parameter],
    )


def mac_cost(groups: Groups, model: PreTrainedModel, seconds: float) -> Cost:
    """Multiply-accumulates of the model for one utterance of ``seconds``, as `counting.macs` counts them.

    A weight is used once at every position that its module is applied to: those are counted on the model, once, and no
    plan changes them.
    """
    counted = macs_by_module(model, seconds)
    weights = {
        name.removesuffix(".weight"): layout
        for name, layout in groups.tensors.items()
        if name.endswith(".weight") and len(layout.dims) > 1
    }
    positions = {path: counted[path] // prod(map(size, layout.dims)) for path, layout in weights.items()}
    terms = [_term(positions[path], layout.dims, layout) for path, layout in weights.items()]
    for first, second in groups.family.products:
        pairs = Patterns({first: second})
        for path in weights:
            if found := pairs.find(path):
                other = found[0].format(**found[1])
                terms.append(
                    _term(positions[path] * positions[other], weights[other].dims[:1], weights[other])
                )
    named = Cost(groups, 0, terms).dense
    return Cost(groups, counted[""] - named, terms)


def _term(coefficient: int, dims: Iterable[Dim], layout: Layout) -> Term:
    return coefficient, tuple(axis for dim in dims for axis in dim), layout.needs
