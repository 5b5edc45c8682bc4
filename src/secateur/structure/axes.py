"""Named axes: what each dimension of a tensor counts, written as in einops and resolved to units that may go."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Axis:
    """``size`` units of one kind; ``group`` names the group that holds them, None where all of them stay."""

    size: int
    group: str | None = None


Dim = tuple[Axis, ...]
"""One dimension of a tensor: axes laid out row-major, the first varies slowest. ``(heads v)`` has two."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """An axis in an expression: a name, and for an axis that comes in several (``channels[k-2]``) which one."""

    name: str
    index: str | None = None


def parse(expression: str) -> list[list[Symbol | int]]:
    """``"(2 channels[k]) width 1"`` -> three dimensions, each a list of symbols and literal sizes."""
    dims = re.findall(r"\(([^()]*)\)|(\S+)", expression)
    return [[_symbol(word) for word in (inside or single).split()] for inside, single in dims]


def _symbol(word: str) -> Symbol | int:
    if word.isdigit():
        return int(word)
    match = re.fullmatch(r"(\w+)(?:\[(.+)\])?", word)
    assert match, f"{word!r} is no axis"
    return Symbol(match[1], match[2])


def size(dim: Dim, kept: Mapping[str, int] | None = None) -> int:
    """Length of a dimension when that many units of each group are kept; unlisted groups are whole."""
    return prod(axis.size if axis.group is None else (kept or {}).get(axis.group, axis.size) for axis in dim)


def kept_positions(dim: Dim, kept: Mapping[str, Sequence[int]]) -> Tensor | None:
    """Positions along a dimension that survive when those units of each group do, or None if all of them."""
    if not any(axis.group in kept for axis in dim):
        return None
    positions = torch.zeros(1, dtype=torch.long)
    for axis in dim:
        units = torch.tensor(kept.get(axis.group or "", range(axis.size)), dtype=torch.long)
        positions = (positions[:, None] * axis.size + units).flatten()
    return positions


def mask_along(dim: Dim, masks: Mapping[str, Tensor]) -> Tensor:
    """Factor for each position along a dimension, [length], from masks over the units of its groups."""
    device = next(masks[group].device for axis in dim if (group := axis.group) in masks and group)
    factor = torch.ones(1, device=device)
    for axis in dim:
        units = masks.get(axis.group or "")
        factor = factor.repeat_interleave(axis.size) if units is None else (factor[:, None] * units).flatten()
    return factor
