"""How much harm counts, by where in a model it is done and to what.

Scores tell what the loss of a unit does to the unpruned model. What stays is refitted and trained afterwards, and makes up for
harm in some places better than in others, which no estimate at the unpruned model knows. So the harm in each group counts exp(w)
times, where

    w = depth x + middle 4 x (1 - x) + kind     in a layer, x from 0 in the first to 1 in the last one,
    w = front end                               before the layers,
    w = kind                                    in all of them, as the residual width is,

and ``kind`` is a number for each kind of units. Which numbers are best depends on the model and on the budget: `by_trial` looks for
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from secateur.pruning.planning.elimination import Elimination, Scores
from secateur.structure.groups import Groups

DEPTH, MIDDLE, FRONT_END = "depth", "middle", "front end"

Weighting = Mapping[str, float]
"""The numbers by name, those of kinds by `Group.kind`; what is not listed is 0."""

USUAL: Weighting = {
    DEPTH: 1.0,
    MIDDLE: -0.5,
    FRONT_END: math.log(0.3),
    "feed-forward units": math.log(0.7),
    "convolution channels": math.log(1.5),
    "query/key width": math.log(0.5),
}
"""What is good for a Conformer of 16 layers at half of its parameters, found with the score ``obs`` (docs/notes/oneshot.md)."""

STEP, FINEST = 0.5, 0.1
"""How far a number is moved at first, and the least after which it is not worth a trial: harm times 1.65, and times 1.1."""


def weighted(groups: Groups, scores: Scores, weighting: Weighting) -> Scores:
    """Scores whose harms count as much as a weighting says."""
    last = max(1, len(groups.layers) - 1)
    places = {name: i / last for i, name in enumerate(groups.layers)}

    def factor(name: str) -> float:
        x = next((places[home] for home in (name, *groups[name].inside) if home in places), None)
        if x is None:
            return math.exp(weighting.get(FRONT_END if _is_before(groups, name) else groups[name].kind, 0.0))
        along = weighting.get(DEPTH, 0.0) * x + weighting.get(MIDDLE, 0.0) * 4 * x * (1 - x)
        return math.exp(along + weighting.get(groups[name].kind, 0.0))

    return {name: Elimination(each.order, each.rise * factor(name)) for name, each in scores.items()}


def numbers(groups: Groups, scores: Scores) -> list[str]:
    """The names of the numbers that decide how a budget is shared between the groups that scores speak of.

    A factor for all of them changes nothing, so one kind of units, the first, has none.
    """
    units = [name for name in scores if name not in groups.layers and name not in groups.branches]
    beyond = [name for name in units if not _is_before(groups, name)]
    kinds = list(dict.fromkeys(groups[name].kind for name in beyond))
    places = [DEPTH, MIDDLE] if len(groups.layers) > 1 else []
    return [*places, *([FRONT_END] if len(beyond) < len(units) else []), *kinds[1:]]


def _is_before(groups: Groups, name: str) -> bool:
    """Whether a group lies before the layers: nothing of it is in one."""
    layers = f"{groups.family.layers}."
    return not any(site.module.startswith(layers) for site in groups[name].sites)


def by_trial(
    measure: Callable[[Weighting], float], begin: Weighting, names: Sequence[str], trials: int
) -> Weighting:
    """The weighting with the lowest measure of ``begin`` and of so many others.

    One number after the other is moved by a step, either way; what is better stays, and is moved on in the same way when all
    others have been. When nothing is better steps are halved: the pattern search of Hooke and Jeeves 1961, without its jumps.
    """
    best, step = begin, STEP
    if not trials or not names:
        return best
    lowest = measure(best)
    ways = dict.fromkeys(names, 1.0)
    while step >= FINEST:
        found = False
        for name in names:
            for way in (ways[name], -ways[name]):
                if not trials:
                    return best
                moved = {**best, name: best.get(name, 0.0) + way * step}
                value, trials = measure(moved), trials - 1
                if value < lowest:
                    best, lowest, ways[name], found = moved, value, way, True
                    break
        if not found:
            step /= 2
    return best
