"""Strides: where much has to go, a model is pruned a part of the way, recovers, and what it has become is pruned on.

Every stride takes the same factor of each limited cost. Its scores and its refitting are of the model that the one before has left, and
all are distilled from the unpruned one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from secateur.errors import SecateurError
from secateur.pruning.learning.learned import TRAINED, Learned, usual_rate
from secateur.pruning.planning.budget import Budget
from secateur.structure.cost import CostModel

MUCH = 0.5
"""Where no more than this may stay of a limited cost, there are two strides if nobody says how many (docs/notes/learned.md)."""

LAST = 2.0
"""Time or steps of the last stride, for each of those of one before it."""


@dataclass(frozen=True, slots=True)
class Stride:
    """One of them.

    Attributes:
        budget: what must hold after it.
        learned: its settings, with its part of the minutes or steps.
        until: minutes of the run that have gone by when it is to end.
        before: which it is, from 1, where another follows; 0: it is the last.
    """

    budget: Budget
    learned: Learned
    until: float
    before: int


def barred(budget: Budget, learned: Learned, *, width: bool) -> str | None:
    """What several strides do not go with, in words, if a run has it.

    Args:
        budget: what must hold in the end.
        learned: settings of the run.
        width: whether the residual width may go.
    """
    if "latency" in budget.bounds:
        # What a part of a model takes depends on what it was measured beside.
        return "a limit on latency"
    if width:
        # A teacher has to have the width of what it teaches.
        return "the residual width"
    return None if TRAINED.intersection(learned.phases) else "phases of which none trains"


def strides(budget: Budget, costs: Mapping[str, CostModel], learned: Learned, *, width: bool) -> list[Stride]:
    """The strides of a run.

    Args:
        budget: what must hold in the end.
        costs: of the unpruned model.
        learned: settings of the run.
        width: whether the residual width may go.

    Raises:
        SecateurError: several were asked for, and cannot be.
    """
    bar = barred(budget, learned, width=width)
    if bar is not None and (learned.strides or 1) > 1:
        raise SecateurError(f"several strides do not go with {bar}: leave one of them out")
    limits = budget.limits(costs)
    share = min(limit / costs[name].dense for name, limit in limits.items())
    # A fraction of something may be a little more than that fraction of it, as floats are.
    much = share <= MUCH * (1 + 1e-9)
    usual = 2 if much and bar is None and "recover" in learned.phases else 1
    count = learned.strides or usual
    parts = [1.0] * (count - 1) + [LAST]
    made: list[Stride] = []
    for number in range(1, count + 1):
        before, after = (sum(parts[:n]) / sum(parts) for n in (number - 1, number))
        way = number / count
        own = replace(
            learned,
            rate=learned.rate or usual_rate(share**way),
            minutes=(after - before) * learned.minutes,
            steps=None
            if learned.steps is None
            else round(after * learned.steps) - round(before * learned.steps),
        )
        made.append(
            Stride(
                budget if count == 1 else budget.part_way(costs, way),
                own,
                after * learned.minutes,
                number % count,
            )
        )
    return made
