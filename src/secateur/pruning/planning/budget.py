"""Budget: what a pruned model may cost, as fractions of what it cost before or as absolute figures."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur.errors import SecateurError

if TYPE_CHECKING:
    from secateur.structure.cost import CostModel

UNITS = {
    "params": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9},
    "macs": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12},
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6},
}
"""What can be limited, and the units of absolute figures: parameters, multiply-accumulates a second of audio, seconds."""

EXAMPLES = {
    "params": "params=50% or params=6.5M",
    "macs": "macs=50% or macs=250M (a second of audio)",
    "latency": "latency=60% or latency=40ms",
}

_LEAST_BARE_COUNT = 1000.0  # "params=50" means fifty percent to whoever writes it.


@dataclass(frozen=True, slots=True)
class Limit:
    """The most of one cost: a fraction of the dense model's if ``relative``, else an amount in its own unit."""

    amount: float
    relative: bool

    def of(self, dense: float, per: float) -> float:
        """The same in the unit of a cost that the dense model has so much of, and that has ``per`` times in it what absolute limits are of."""
        return self.amount * (dense if self.relative else per)


@dataclass(frozen=True, slots=True)
class Budget:
    """What must hold of a pruned model; several limits hold together.

    >>> Budget.of(params=0.5, macs=0.5) == Budget.parse("params=50%,macs=50%")
    True
    >>> print(Budget.of(params="6.5M", latency="40ms"))
    params=6.5M,latency=40ms

    Absolute multiply-accumulates are for a second of audio, as ``secateur evaluate`` prints them. Latency is the time for
    the utterance that it is measured on.

    Attributes:
        bounds: the limits by name.

    Raises:
        SecateurError: there is no limit.
    """

    bounds: Mapping[str, Limit]

    def __post_init__(self) -> None:
        if not self.bounds:
            raise SecateurError(f"the budget limits nothing; give {EXAMPLES['params']}")

    @classmethod
    def of(cls, **limits: float | str) -> Budget:
        """The budget of these limits, by what they limit.

        A number up to 1 is the fraction that may be kept, a larger one is absolute; text is read as by `parse`.

        Raises:
            SecateurError: there is no limit, or one makes no sense.
        """
        # In one order, whichever they were given in.
        names = sorted(limits, key=list(UNITS).index)
        return cls({name: _parse_limit(name, str(limits[name])) for name in names})

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``"params=50%,macs=1.2G"``.

        A limit is a fraction kept (``50%``, ``0.5``) or absolute: ``6.5M`` parameters, ``250M`` multiply-accumulates a
        second of audio, ``40ms``. A fraction alone is that of both parameters and multiply-accumulates.

        Raises:
            SecateurError: it does not read like that.
        """
        if _is_fraction(text):
            return cls.of(params=text.strip(), macs=text.strip())
        if all(_is_fraction(part) for part in text.split(",")):
            raise SecateurError(
                f"{text!r} is several budgets, which `secateur compare` takes: give one, such as {text.split(',')[0].strip()}"
            )
        given: dict[str, str] = {}
        for part in text.split(","):
            name, equals, value = (word.strip() for word in part.partition("="))
            if name not in UNITS or not equals:
                raise SecateurError(
                    f"the budget {text!r} has {part.strip()!r} in it, which limits none of {', '.join(UNITS)}; "
                    f"write it like {EXAMPLES['params']}, and several with commas between them, or 50% for params and macs"
                )
            if name in given:
                raise SecateurError(f"the budget {text!r} limits {name} twice; give it once")
            given[name] = value
        return cls.of(**given)

    def limits(self, costs: Mapping[str, CostModel]) -> dict[str, float]:
        """The most that each limited cost may come to, in the unit of that cost.

        Args:
            costs: of the model, by name.

        Raises:
            SecateurError: a cost that is limited is not among those that are known.
        """
        limits = {}
        for name, limit in self.bounds.items():
            if name not in costs:
                raise SecateurError(
                    f"the budget limits {name}, which is not known here; limit {' or '.join(costs)} instead"
                )
            limits[name] = limit.of(costs[name].dense, costs[name].per)
        return limits

    def part_way(self, costs: Mapping[str, CostModel], way: float) -> Budget:
        """The budget at which a model is that part of the way down to this one, in absolute figures.

        Equal parts of the way take the same factor of a cost: from all of it to 25 %, half of the way is 50 %.

        Args:
            costs: of the model at the beginning of the way.
            way: more than 0, up to 1.
        """
        bounds = {}
        for name, limit in self.limits(costs).items():
            dense = costs[name].dense
            amount = limit if way == 1 else dense * (limit / dense) ** way
            bounds[name] = Limit(amount / costs[name].per, relative=False)
        return Budget(bounds)

    def __str__(self) -> str:
        return ",".join(f"{name}={_text(name, limit)}" for name, limit in self.bounds.items())


def _is_fraction(text: str) -> bool:
    """Whether it names no cost, and is 50 %, 0.5 or 1."""
    return re.fullmatch(r"\s*([\d.]+\s*%|0?\.\d+|1(\.0*)?)\s*", text) is not None


def _parse_limit(name: str, text: str) -> Limit:
    match = re.fullmatch(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(%|[a-z]*)", text.lower())
    units = UNITS[name]
    if match is None or not (match[2] in ("%", "") or match[2] in units):
        raise SecateurError(f"{name}={text} is no limit; give {EXAMPLES[name]}")
    number, unit = float(match[1]), match[2]
    if unit == "%":
        return _checked(name, text, Limit(number / 100, relative=True))
    if unit == "" and number <= 1:
        return _checked(name, text, Limit(number, relative=True))
    if unit not in units or (unit == "" and number < _LEAST_BARE_COUNT):
        raise SecateurError(f"{name}={text} has no unit; give {EXAMPLES[name]}")
    return _checked(name, text, Limit(number * units[unit], relative=False))


def _checked(name: str, text: str, limit: Limit) -> Limit:
    if not limit.amount > 0:
        raise SecateurError(f"{name}={text} leaves nothing; give {EXAMPLES[name]}")
    if limit.amount > 1 and (limit.relative or limit.amount == math.inf):
        raise SecateurError(f"{name}={text} is more than the model has; give at most 100%")
    return limit


def _text(name: str, limit: Limit) -> str:
    return f"{100 * limit.amount:.12g}%" if limit.relative else format_amount(name, limit.amount, digits=12)


def format_amount(name: str, amount: float, *, digits: int = 4) -> str:
    """An absolute amount as `Budget.parse` reads it, in the largest unit that leaves one or more, or the smallest."""
    # Of two names for the same scale (G and B) the first. No unit means a fraction, or is refused.
    scales = {scale: unit for unit, scale in reversed(UNITS[name].items()) if unit}
    scale = max((scale for scale in scales if scale <= amount), default=min(scales))
    unit = scales[scale]
    return f"{amount / scale:.{digits}g}{unit if name == 'latency' or unit == 'k' else unit.upper()}"
