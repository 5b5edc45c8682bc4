"""The space that allocation searches: plans along each group's harm curve, what they cost, and what they harm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.pruning.planning.elimination import Elimination, Scores
from secateur.structure.cost import CostModel
from secateur.structure.groups import Group, Groups

PIECES = 256
"""Steps that a group's curve is cut into at most."""

_AHEAD = np.arange(1, 8, 2) / 8  # where on the way to the least that may be kept prices are looked up

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Curve:
    """The harm done by keeping fewer units of a group, convex: the lower hull of what a score foresees.

    Attributes:
        counts: numbers of units that may be kept, falling from all of them.
        harm: at each of these.
    """

    counts: Ints
    harm: Floats

    @classmethod
    def of(cls, group: Group, elimination: Elimination) -> Curve:
        """The curve of a group whose units go in a given order."""
        if len(elimination.order) != group.size:
            raise ValueError(f"{group.name} has {group.size} units, but {len(elimination.order)} were scored")
        counts = np.array(group.counts()[::-1], dtype=np.int64)
        removed = group.size - counts
        harm = np.concatenate([[0.0], elimination.rise.double().cumsum(0).numpy()])[removed]
        hull: list[int] = []
        for point in range(len(counts)):
            while len(hull) > 1 and _lies_above(removed, harm, hull[-2], hull[-1], point):
                hull.pop()
            hull.append(point)
        return cls(counts, np.interp(removed, removed[hull], harm[hull]))


def _lies_above(x: Ints, y: Floats, a: int, b: int, c: int) -> bool:
    """Whether the point b lies on or above the line from a to c."""
    return bool((y[b] - y[a]) * (x[c] - x[b]) >= (y[c] - y[b]) * (x[b] - x[a]))


class Space:
    """The plans along the curves of some groups. ``at``, [groups scored], has for each of them a place on its curve.

    Attributes:
        first: the place where everything is kept.
        last: the place where the least is.
        limits: of each cost, [costs].
        step_group: the curves are cut into steps: of which group each is, [steps].
        step_stop: the place it leads to.
        step_units: the units that go.
    """

    def __init__(self, groups: Groups, scores: Scores, costs: Sequence[CostModel], limits: Floats) -> None:
        names = list(scores)
        self.limits = limits
        self._costs = costs
        self._known: dict[bytes, Floats] = {}
        self._dense = np.array([cost.dense for cost in costs], dtype=np.float64)
        self._curves = [Curve.of(groups[name], scores[name]) for name in names]
        rows = {name: row for row, name in enumerate(groups)}
        self._rows = np.array([rows[name] for name in names], dtype=np.int64)
        self._sizes = np.array([group.size for group in groups.values()], dtype=np.float64)
        self.last = np.array([len(curve.counts) - 1 for curve in self._curves], dtype=np.int64)
        self.first = np.zeros_like(self.last)
        # inside[g, h]: whether group h lies in group g.
        self._inside = np.zeros((len(names), len(names)), dtype=bool)
        places = {name: place for place, name in enumerate(names)}
        for name in names:
            for coarser in groups[name].inside:
                if coarser in places:
                    self._inside[places[coarser], places[name]] = True

        steps: list[tuple[int, int, float, float]] = []
        for place, curve in enumerate(self._curves):
            stops = np.arange(len(curve.counts))[:: max(1, len(curve.counts) // PIECES)]
            stops = np.union1d(stops, self.last[place])
            units = -np.diff(curve.counts[stops]).astype(np.float64)
            slopes = np.maximum.accumulate(np.diff(curve.harm[stops]) / units)
            steps += zip([place] * len(units), stops[1:], units, slopes, strict=True)
        group, stop, unit, slope = np.array(steps, dtype=np.float64).reshape(-1, 4).T
        self.step_group, self.step_stop = group.astype(np.int64), stop.astype(np.int64)
        self.step_units, self._step_slope = unit, slope

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
        key = at.tobytes()
        if key not in self._known:
            counts = self._counts(at)
            self._known[key] = np.array([float(cost.of(counts)) for cost in self._costs])
        return self._known[key]

    def prices(self, at: Ints) -> Floats:
        """What a unit of each scored group adds to every cost, [costs, groups scored]."""
        return self._gradients(self._counts(at))

    def prices_ahead(self, at: Ints) -> Floats:
        """Prices, on the average over the units to come for a group whose next one alone would save nothing.

        Latency falls in stairs: a unit may cost nothing, and the sixteenth much.
        """
        prices = self.prices(at)
        free = (prices == 0) & (at < self.last) & ~self.void(at)
        if free.any():
            here, end = self._counts(at), self._counts(self.last)
            ahead = [self._gradients(here + share * (end - here)) for share in _AHEAD]
            prices[free] = np.mean(ahead, axis=0)[free]
        return prices

    def _gradients(self, counts: Tensor) -> Floats:
        counts = counts.requires_grad_()
        with torch.enable_grad():
            rows = [torch.autograd.grad(cost.of(counts), counts)[0] for cost in self._costs]
        return np.stack([row.numpy()[self._rows] for row in rows])

    def void(self, at: Ints) -> NDArray[np.bool_]:
        """Which scored groups lie in one that is gone."""
        gone = self._inside.any(1) & (at == self.last)
        void: NDArray[np.bool_] = self._inside[gone].any(0)
        return void

    def meets(self, at: Ints) -> bool:
        return bool((self.costs(at) <= self.limits).all())

    def room(self, at: Ints) -> Floats:
        """How far each cost is below its limit, as a fraction of the limit, [costs]; negative above it."""
        room: Floats = 1.0 - self.costs(at) / self.limits
        return room

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
        slopes: Floats = np.maximum(0.0, self._step_slope - inside[self.step_group])
        return slopes
