"""Cost of a plan, exactly, and of keep probabilities, differentiably: one sum of products for both.

A tensor has as many numbers as the product of what is kept along its axes, and it is there only if its layer, its module
and, for the norm before a module, the module's units are. Hence a cost is

    c(n) = constant + sum over terms of coefficient * prod(n_g for g in axes) * prod(min(n_g, 1) for g in needs)

with n_g the units kept of group g, or their expected number. Expected numbers of independent gates give the expected cost,
but for the norms: those it counts as there while a unit is expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.structure.axes import Dim, size
from secateur.structure.counting import macs_by_module
from secateur.structure.groups import Groups, Layout
from secateur.structure.layout import Patterns

Term = tuple[int, Dim, tuple[str, ...]]
"""A coefficient, the axes along which it counts once per kept unit, and the groups without any unit of which it is 0."""


class CostModel(Protocol):
    """A cost as a function of how many units of each group are kept: `Cost` is one, and measured `latency` another.

    It does not fall when more is kept.
    """

    @property
    def dense(self) -> float:
        """The cost with nothing removed."""

    @property
    def per(self) -> float:
        """How often the cost has in it what an absolute limit is of: of multiply-accumulates, which are limited by the second, the seconds."""

    def __call__(self, kept: Mapping[str, int], /) -> float:
        """The cost when that many units of each group are kept; groups that are not listed are whole."""

    def of(self, counts: Tensor, /) -> Tensor:
        """The same for the numbers kept of all groups in their order, [groups], as a differentiable scalar."""


class Products:
    """Sums of products of how many units of each group are kept, one sum for each row of terms."""

    def __init__(self, groups: Groups, rows: Sequence[Iterable[Term]]) -> None:
        # Factors are places in [1, n_1, ..., n_G, min(n_1, 1), ..., min(n_G, 1)].
        places = {name: place for place, name in enumerate(groups, start=1)}
        sums: list[dict[tuple[int, ...], int]] = []
        for terms in rows:
            summed: dict[tuple[int, ...], int] = {}
            for coefficient, axes, needs in terms:
                factors = [places[axis.group] for axis in axes if axis.group is not None]
                factors += [places[name] + len(groups) for name in needs]
                key = tuple(sorted(factors))
                summed[key] = summed.get(key, 0) + coefficient * prod(
                    axis.size for axis in axes if axis.group is None
                )
            sums.append(summed)
        most = max(map(len, sums), default=0)
        longest = max((len(key) for summed in sums for key in summed), default=0)
        self._factors = torch.zeros(len(sums), most, longest, dtype=torch.long)
        self._coefficients = torch.zeros(len(sums), most, dtype=torch.long)
        for row, summed in enumerate(sums):
            for column, (key, coefficient) in enumerate(summed.items()):
                self._factors[row, column, : len(key)] = torch.tensor(key, dtype=torch.long)
                self._coefficients[row, column] = coefficient

    def __call__(self, counts: Tensor) -> Tensor:
        """The sums, [rows], for the number of units kept of each group, [groups], in the order of the groups."""
        numbers = torch.cat([counts.new_ones(1), counts, counts.clamp(max=1)])
        products = numbers[self._factors.to(counts.device)].prod(-1)
        return (self._coefficients.to(counts) * products).sum(-1)


class Cost:
    """A cost as a function of how many units of each group are kept.

    Attributes:
        dense: the cost with nothing removed.
        per: how often it has in it what an absolute limit is of.
    """

    def __init__(self, groups: Groups, constant: int, terms: Iterable[Term], *, per: float = 1.0) -> None:
        self.groups = groups
        self.constant = constant
        self.per = per
        self._products = Products(groups, [terms])
        self.dense = self({})

    def __call__(self, kept: Mapping[str, int]) -> int:
        """The cost when that many units of each group are kept; groups that are not listed are whole."""
        return int(self.of(counts_of(self.groups, kept)))

    def of(self, counts: Tensor) -> Tensor:
        """The cost, a scalar, for the number of units kept of each group, [groups], in the order of the groups.

        Exact for integers; for expected numbers, which float64 should hold, it is the expected cost.
        """
        return self.constant + self._products(counts).sum()


def counts_of(groups: Groups, kept: Mapping[str, int]) -> Tensor:
    """How many units of each group are kept, [groups], integers; groups that are not listed are whole."""
    return torch.tensor([kept.get(name, group.size) for name, group in groups.items()], dtype=torch.long)


def parameter_cost(groups: Groups) -> Cost:
    """Parameters of the model."""
    return Cost(groups, 0, parameter_terms(groups).values())


def mac_cost(groups: Groups, model: PreTrainedModel, seconds: float) -> Cost:
    """Multiply-accumulates of the model for one utterance of ``seconds``, as `counting.macs` counts them.

    A weight is used once at every position that its module is applied to: those are counted on the model, once, and no
    plan changes them.
    """
    counted = macs_by_module(model, seconds)
    terms = [term for of_module in mac_terms(groups, counted).values() for term in of_module]
    named = Cost(groups, 0, terms).dense
    return Cost(groups, counted[""] - named, terms, per=seconds)


def parameter_terms(groups: Groups) -> dict[str, Term]:
    """The numbers in each parameter, by its name."""
    return {
        name: _term(1, layout.dims, layout) for name, layout in groups.tensors.items() if layout.is_parameter
    }


def mac_terms(groups: Groups, counted: Mapping[str, int]) -> dict[str, list[Term]]:
    """The multiply-accumulates of each module that has a weight, by its path; products go with their first module.

    ``counted`` are those of every module of the dense model, as `counting.macs_by_module` counts them.
    """
    weights = {
        name.removesuffix(".weight"): layout
        for name, layout in groups.tensors.items()
        if name.endswith(".weight") and len(layout.dims) > 1
    }
    positions = {path: counted[path] // prod(map(size, layout.dims)) for path, layout in weights.items()}
    terms = {path: [_term(positions[path], layout.dims, layout)] for path, layout in weights.items()}
    for first, second in groups.family.products:
        pairs = Patterns({first: second})
        for path in weights:
            if found := pairs.find(path):
                other = found[0].format(**found[1])
                terms[path].append(
                    _term(positions[path] * positions[other], weights[other].dims[:1], weights[other])
                )
    return terms


def _term(coefficient: int, dims: Iterable[Dim], layout: Layout) -> Term:
    return coefficient, tuple(axis for dim in dims for axis in dim), layout.needs
