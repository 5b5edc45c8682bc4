"""Allocation: from scores to the plan that meets a budget exactly, at the least estimated harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import SecateurError
from secateur.pruning.budget import Budget
from secateur.pruning.scores import Elimination, Scores
from secateur.structure.groups import Group, Groups
from secateur.structure.plan import PruningPlan

TOLERANCE = 0.005
"""How far below its limit the cost that binds may end, as a fraction of the limit."""

_PIECES = 256  # steps that a group's curve is cut into at most; the end is exact to the unit all the same
_SHARE = 0.25  # of what is left to remove, taken before costs are priced anew
_DIRECTIONS = 8  # mixtures of two costs that are tried

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class CostModel(Protocol):
    """A cost as a function of how many units of each group are kept: `secateur.structure.cost.Cost` is one.

    It does not fall when more is kept.
    """

    dense: float

    def __call__(self, kept: Mapping[str, int], /) -> float:
        """The cost when that many units of each group are kept; groups that are not listed are whole."""

    def of(self, counts: Tensor, /) -> Tensor:
        """The same for the numbers kept of all groups in their order, [groups], as a differentiable scalar."""


def allocate(
    groups: Groups,
    scores: Scores,
    costs: Mapping[str, CostModel],
    budget: Budget,
    *,
    uniform: bool = False,
    audio_seconds: float = 10.0,
) -> PruningPlan:
    """The plan that meets a budget with the least harm that the scores foresee.

    Each group's cumulative harm is taken by its lower convex hull. Units go in the order of harm per cost, where
    costs are those of the model as it has become so far, and several costs are mixed in the proportion that does the
    least harm. What then still fits is given back.

    The plan is above no limit, and below the one that binds by at most half a percent or, where that is coarser, by
    less than the cheapest units that could be given back. What goes as a whole (a module, a layer) is priced with
    what is left in it, and the harm done inside before counts no more.

    Args:
        groups: of the model.
        scores: what to remove, and in which order; groups without a score stay whole.
        costs: by name; at least those that the budget limits.
        budget: what must hold.
        uniform: keep the same fraction of every group rather than let scores decide how many; modules and layers stay.
        audio_seconds: length of the utterance that the multiply-accumulates among ``costs`` are counted for.

    Raises:
        SecateurError: not even the smallest plan meets the budget, or a cost that it limits is not given.
    """
    limits = budget.limits({name: cost.dense for name, cost in costs.items()}, audio_seconds=audio_seconds)
    limited = [costs[name] for name in limits]
    scores = _removable(groups, scores, uniform)
    space = _Space(groups, scores, limited, np.array(list(limits.values())))

    smallest = {name: float(cost) for name, cost in zip(limits, space.costs(space.last), strict=True)}
    if not space.meets(space.last):
        least = ", ".join(_amount(name, smallest[name], costs[name].dense, audio_seconds) for name in limits)
        raise SecateurError(f"the budget {budget} cannot be met: the smallest possible here is {least}")
    at = _uniform(space) if uniform else _best(space)
    kept = {
        name: elimination.order[groups[name].size - count :]
        for (name, elimination), count in zip(scores.items(), space.kept(at).tolist(), strict=True)
    }
    return PruningPlan.keep(groups, kept)


def _removable(groups: Groups, scores: Scores, uniform: bool) -> dict[str, Elimination]:
    """The scores of what may go: without the layers that must stay, those whose loss would harm most."""
    found = {
        name: scores[name] for name in groups if name in scores and not (uniform and groups[name].size == 1)
    }
    layers = sorted(
        (name for name in groups.layers if name in found), key=lambda n: float(found[n].rise.sum())
    )
    for name in layers[max(0, len(groups.layers) - groups.min_layers) :]:
        del found[name]
    return found


def _amount(name: str, cost: float, dense: float, audio_seconds: float) -> str:
    per = audio_seconds if name == "macs" else 1.0
    return f"{Budget(**{name: _absolute(name, cost / per)})} ({100 * cost / dense:.3g}%)"


def _absolute(name: str, amount: float) -> str:
    return f"{1e3 * amount:.4g}ms" if name == "latency" else f"{amount / 1e6:.4g}M"


@dataclass(frozen=True)
class _Curve:
    """What removing costs in harm: ``counts`` that may be kept, falling, and at each the harm on the lower hull."""

    counts: Ints
    harm: Floats


def _curve(group: Group, elimination: Elimination) -> _Curve:
    if len(elimination.order) != group.size:
        raise ValueError(f"{group.name} has {group.size} units, its score {len(elimination.order)}")
    counts = np.array(group.counts()[::-1], dtype=np.int64)
    cumulative = np.concatenate([[0.0], elimination.rise.double().cumsum(0).numpy()])
    removed = group.size - counts
    harm = cumulative[removed]
    hull: list[int] = []
    for point in range(len(counts)):
        while len(hull) > 1 and _turns_up(removed, harm, hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return _Curve(counts, np.interp(removed, removed[hull], harm[hull]))


def _turns_up(x: Ints, y: Floats, a: int, b: int, c: int) -> bool:
    """Whether the point b lies on or above the line from a to c."""
    return bool((y[b] - y[a]) * (x[c] - x[b]) >= (y[c] - y[b]) * (x[b] - x[a]))


class _Space:
    """The plans along the curves of some groups: ``at``, [groups scored], has for each a place on its curve.

    Attributes:
        first: the place where everything is kept, ``last`` where the least is.
        limits: of each cost, [costs].
    """

    def __init__(self, groups: Groups, scores: Scores, costs: Sequence[CostModel], limits: Floats) -> None:
        names = list(scores)
        self.limits = limits
        self._costs = costs
        self._dense = np.array([cost.dense for cost in costs], dtype=np.float64)
        self._curves = [_curve(groups[name], scores[name]) for name in names]
        self._rows = np.array([list(groups).index(name) for name in names], dtype=np.int64)
        self._sizes = np.array([group.size for group in groups.values()], dtype=np.float64)
        self.last = np.array([len(curve.counts) - 1 for curve in self._curves], dtype=np.int64)
        self.first = np.zeros_like(self.last)
        # inside[g, h]: whether group h lies in group g.
        self._inside = np.array([[g in groups[h].inside for h in names] for g in names], dtype=bool)
        self._inside = self._inside.reshape(len(names), len(names))
        self._coarse = self._inside.any(1)

        pieces = []
        for row, curve in enumerate(self._curves):
            stops = np.arange(len(curve.counts))[:: max(1, len(curve.counts) // _PIECES)]
            stops = np.union1d(stops, self.last[row])
            units = -np.diff(curve.counts[stops])
            slopes = np.maximum.accumulate(np.diff(curve.harm[stops]) / units)
            pieces.append((np.full(len(units), row), stops[1:], units, slopes))
        columns = zip(*pieces, strict=True) if pieces else ([[]] * 4)
        group, stop, units, slope = (np.concatenate([*column, []]) for column in columns)
        self.step_group, self.step_stop = group.astype(np.int64), stop.astype(np.int64)
        self.step_units, self.step_slope = units, slope

    def kept(self, at: Ints) -> Ints:
        """Units kept of each scored group."""
        return np.array(
            [curve.counts[place] for curve, place in zip(self._curves, at, strict=True)], np.int64
        )

    def at_share(self, share: float) -> Ints:
        """The places nearest to the same share of every group."""
        nearest = [np.abs(curve.counts - share * curve.counts[0]).argmin() for curve in self._curves]
        return np.array(nearest, dtype=np.int64)

    def worth_back(self, at: Ints) -> tuple[Floats, Floats]:
        """Harm undone by the next step back of each group, and its units; nothing of a group that is whole."""
        before = np.maximum(at - 1, 0)
        harm = [c.harm[here] - c.harm[there] for c, here, there in zip(self._curves, at, before, strict=True)]
        return np.array(harm), (self.kept(before) - self.kept(at)).astype(np.float64)

    def _counts(self, at: Ints) -> Tensor:
        counts = self._sizes.copy()
        counts[self._rows] = self.kept(at)
        return torch.from_numpy(counts)

    def costs(self, at: Ints) -> Floats:
        """Every cost, [costs]."""
        counts = self._counts(at)
        return np.array([float(cost.of(counts)) for cost in self._costs])

    def prices(self, at: Ints) -> Floats:
        """What a unit of each scored group adds to every cost, [costs, groups scored]."""
        counts = self._counts(at).requires_grad_()
        rows = [torch.autograd.grad(cost.of(counts), counts)[0].numpy()[self._rows] for cost in self._costs]
        return np.stack(rows)

    def prices_ahead(self, at: Ints) -> Floats:
        """Prices, on the average of all its units for a group whose next unit alone would save nothing.

        Latency falls in stairs: a unit may cost nothing, and the sixteenth much.
        """
        prices = self.prices(at)
        for row in np.flatnonzero((at < self.last) & (prices == 0).any(0) & ~self.void(at)):
            without = at.copy()
            without[row] = self.last[row]
            units = float((self.kept(at) - self.kept(without))[row])
            average = (self.costs(at) - self.costs(without)) / units
            prices[:, row] = np.where(prices[:, row] == 0, average, prices[:, row])
        return prices

    def void(self, at: Ints) -> NDArray[np.bool_]:
        """Which scored groups lie in one that is gone."""
        gone = self._coarse & (at == self.last)
        void: NDArray[np.bool_] = self._inside[gone].any(0)
        return void

    def meets(self, at: Ints) -> bool:
        return bool((self.costs(at) <= self.limits).all())

    def tight(self, at: Ints) -> bool:
        """Whether some cost is within the tolerance of its limit, or nothing at all is removed."""
        return not at.any() or bool((self.costs(at) >= (1 - TOLERANCE) * self.limits).any())

    def mixed(self, prices: Floats, mixture: Floats) -> Floats:
        """Prices in one currency, the dense model's costs, mixed in some proportion: [groups scored]."""
        priced: Floats = (mixture / self._dense) @ prices
        return priced

    def harms(self, at: Ints) -> Floats:
        """Harm done in each scored group, nothing where it lies in one that is gone."""
        done = np.array([curve.harm[place] for curve, place in zip(self._curves, at, strict=True)])
        done[self.void(at)] = 0.0
        return done

    def harm(self, at: Ints) -> float:
        return float(self.harms(at).sum())

    def slopes(self, at: Ints) -> Floats:
        """Harm of each step by the unit; of a coarse group less what has been done inside it already."""
        inside = self._inside.astype(np.float64) @ self.harms(at)
        return np.maximum(0.0, self.step_slope - inside[self.step_group])


def _best(space: _Space) -> Ints:
    """The least harmful end over mixtures of the costs."""
    number = len(space.limits)
    mixture = np.ones(number) / number
    if number == 1:
        return _descend(space, mixture)
    ends: list[Ints] = []
    # One cost against the mixture of the others; with three or more, in two rounds.
    for cost in list(range(1, number)) * (1 if number == 2 else 2):
        others = mixture.copy()
        others[cost] = 0.0
        others /= others.sum()
        low, high = 0.0, 1.0
        for _ in range(_DIRECTIONS):
            share = (low + high) / 2
            mixture = (1 - share) * others
            mixture[cost] = share
            end = _descend(space, mixture)
            ends.append(end)
            left = (space.limits - space.costs(end)) / space.limits
            ahead = left[cost] - np.delete(left, cost).min()
            if abs(ahead) < TOLERANCE / 5:
                break
            if ahead > 0:
                high = share
            else:
                low = share
    return min(ends, key=lambda end: (not space.tight(end), space.harm(end)))


def _descend(space: _Space, mixture: Floats) -> Ints:
    """Remove by harm per cost until all limits are met, then give back what fits.

    A step that leads too far below the limits is taken back and its group left alone, if others lead closer.
    """
    at = space.first
    left_alone = np.zeros(len(at), dtype=bool)
    ends: list[Ints] = []
    while not space.meets(at):
        steps = _next_steps(space, at, mixture, left_alone)
        if len(steps) == 0:
            break
        after = _take(space, at, steps)
        if not space.meets(after):
            at = after
        elif len(steps) > 1:
            at = _take(space, at, steps[:-1])
        else:
            end = _give_back(space, after, mixture)
            ends.append(end)
            if space.tight(end):
                return end
            left_alone[space.step_group[steps[0]]] = True
    if not ends:
        ends.append(_give_back(space, at if space.meets(at) else space.last, mixture))
    return max(ends, key=lambda end: (space.costs(end) / space.limits).max())


def _next_steps(space: _Space, at: Ints, mixture: Floats, left_alone: NDArray[np.bool_]) -> Ints:
    """The steps that do the least harm for their cost, for a share of what is still to be removed, at least one."""
    prices = space.prices_ahead(at)
    price = space.mixed(prices, mixture)
    group = space.step_group
    open_ = np.flatnonzero((space.step_stop > at[group]) & (price[group] > 0) & ~left_alone[group])
    ratio = space.slopes(at)[open_] / price[group[open_]]
    steps: Ints = open_[np.argsort(ratio, kind="stable")]
    excess = space.costs(at) - space.limits
    removed = np.cumsum(prices[:, group[steps]] * space.step_units[steps], axis=1)
    short = (removed < _SHARE * excess[:, None]).any(0)
    return steps[: int(short.sum()) + 1]


def _take(space: _Space, at: Ints, steps: Ints) -> Ints:
    after: Ints = at.copy()
    np.maximum.at(after, space.step_group[steps], space.step_stop[steps])
    return after


def _give_back(space: _Space, at: Ints, mixture: Floats) -> Ints:
    """Put units back while any fit, those first that are worth most for their cost; at most one of a group a round."""
    at = np.where(space.void(at), 0, at)
    blocked = np.zeros(len(at), dtype=bool)
    while True:
        prices = space.prices(at)
        worth, units = space.worth_back(at)
        price = space.mixed(prices, mixture) * units
        left = (space.limits - space.costs(at))[:, None]
        fits = (at > 0) & ~blocked & (prices * units <= left).all(0)
        candidates = np.flatnonzero(fits)
        if len(candidates) == 0:
            return at
        candidates = candidates[
            np.argsort(-worth[candidates] / np.maximum(price[candidates], 1e-300), kind="stable")
        ]
        together = np.cumsum((prices * units)[:, candidates], axis=1)
        # What is put back makes the rest dearer, hence half of the room at a time.
        number = max(1, int((together <= left / 2).all(0).sum()))
        for chosen in (candidates[:number], candidates[:1]):
            after = at.copy()
            after[chosen] -= 1
            if space.meets(after):
                at = after
                break
        else:
            blocked[candidates[0]] = True


def _uniform(space: _Space) -> Ints:
    """The same fraction of every group, as large as fits, and then what still fits."""
    low, high = 0.0, 1.0
    if space.meets(space.first):
        return space.first
    for _ in range(40):
        share = (low + high) / 2
        if space.meets(space.at_share(share)):
            low = share
        else:
            high = share
    return _give_back(space, space.at_share(low), np.ones(len(space.limits)) / len(space.limits))
