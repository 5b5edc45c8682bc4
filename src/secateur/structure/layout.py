"""Read a family table against a model: which row speaks of a tensor, which groups its axes are, how many units each has."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from math import prod
from typing import Generic, TypeVar

from secateur.structure.axes import Axis, Dim, Symbol, parse
from secateur.structure.family import Units

Row = TypeVar("Row")
Bindings = Mapping[str, str]
"""What the braces of a pattern matched: ``{"i": "3", "ff": "feed_forward1"}``."""


class Patterns(Generic[Row]):
    """Rows of a table by pattern; the first pattern that matches a name speaks for it."""

    def __init__(self, table: Mapping[str, Row]) -> None:
        self._rows = [(_regex(pattern), row) for pattern, row in table.items()]

    def find(self, name: str) -> tuple[Row, Bindings] | None:
        for regex, row in self._rows:
            if match := regex.fullmatch(name):
                return row, match.groupdict()
        return None


def _regex(pattern: str) -> re.Pattern[str]:
    literals_and_braces = re.split(r"\{(\w+)(?::([^}]*))?\}", pattern)
    literals, names, choices = (literals_and_braces[start::3] for start in range(3))
    braces = [f"(?P<{name}>{choice or '[0-9]+'})" for name, choice in zip(names, choices, strict=True)]
    return re.compile(
        "".join(re.escape(text) + brace for text, brace in zip(literals, [*braces, ""], strict=True))
    )


class AxisSolver:
    """Names the group of each axis, and finds how many units it has from the lengths of all dimensions together.

    ``(heads v)`` tells a product only; ``heads`` alone is told elsewhere, by another tensor or by an attribute.

    Attributes:
        groups: for each group that was named: its row's name in ``units``, and what was bound to it.
    """

    def __init__(self, units: Mapping[str, Units]) -> None:
        self.groups: dict[str, tuple[str, Bindings]] = {}
        self._templates = {row.axis: template for template, row in units.items()}
        self._dims: dict[Hashable, list[tuple[int, list[int | str | None]]]] = {}

    def add(self, key: Hashable, expression: str, shape: Sequence[int], bindings: Bindings) -> None:
        """Note that ``key`` has this shape; its dimensions are the first ones that ``expression`` names."""
        self._dims[key] = [
            (length, [axis if isinstance(axis, int) else self._group(axis, bindings) for axis in dim])
            for length, dim in zip(shape, parse(expression), strict=False)
        ]

    def solve(self) -> dict[Hashable, tuple[Dim, ...]]:
        """The dimensions of everything that was added, all sizes known."""
        every_dim = [dim for dims in self._dims.values() for dim in dims]
        sizes: dict[str, int] = {}
        before = -1
        while before < len(sizes):
            before = len(sizes)
            for length, axes in every_dim:
                unknown = [axis for axis in axes if not isinstance(axis, int) and axis not in sizes]
                if len(unknown) == 1 and unknown[0] is not None:
                    sizes[unknown[0]] = _rest(length, axes, sizes)
        return {
            key: tuple(
                tuple(
                    Axis(axis)
                    if isinstance(axis, int)
                    else Axis(_rest(length, axes, sizes))
                    if axis is None
                    else Axis(sizes[axis], axis)
                    for axis in axes
                )
                for length, axes in dims
            )
            for key, dims in self._dims.items()
        }

    def _group(self, symbol: Symbol, bindings: Bindings) -> str | None:
        """The group an axis belongs to; None for an axis that stays as it is."""
        template = self._templates.get(symbol.name)
        if template is None:
            return None
        if symbol.index == "-1":
            return [name for name, (row, _) in self.groups.items() if row == template][-1]
        if symbol.index is not None:
            variable, offset = re.fullmatch(r"(\w+?)([+-]\d+)?", symbol.index).groups("0")  # type: ignore[union-attr]
            bindings = {**bindings, variable: str(int(bindings[variable]) + int(offset))}
        name = template.format(**bindings)
        self.groups.setdefault(name, (template, bindings))
        return name


def _rest(length: int, axes: Sequence[int | str | None], sizes: Mapping[str, int]) -> int:
    """What is left of a length when the known axes are divided out."""
    known = prod(axis if isinstance(axis, int) else sizes.get(axis or "", 1) for axis in axes)
    assert length % known == 0, f"a dimension of {length} is no multiple of {known}: the table is wrong"
    return length // known
