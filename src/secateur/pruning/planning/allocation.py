"""Allocation: from scores to the plan that meets a budget exactly, at the least estimated harm."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from secateur.errors import NoResultError
from secateur.pruning.planning.budget import Budget, format_amount
from secateur.pruning.planning.curves import Floats, Ints, Space
from secateur.pruning.planning.elimination import Elimination, Scores
from secateur.structure.cost import CostModel
from secateur.structure.groups import Groups
from secateur.structure.plan import PruningPlan

TOLERANCE = 0.005
"""How far below its limit the cost that binds may end, as a fraction of the limit."""

_SHARE = 0.25  # of what is left to remove, taken before costs are priced anew
_DIRECTIONS = 8  # mixtures of two costs that are tried


def allocate(
    groups: Groups,
    scores: Scores,
    costs: Mapping[str, CostModel],
    budget: Budget,
    *,
    uniform: bool = False,
) -> PruningPlan:
    """The plan that meets a budget with the least harm that the scores foresee.

    Each group's cumulative harm is taken by its lower convex hull. Units go in the order of harm per cost, where
    costs are those of the model as it has become so far, and several costs are mixed in the proportion that does the
    least harm. What then still fits is given back.

    The plan is above no limit, and below the one that binds by at most half a percent or, where that is coarser, by
    less than the cheapest units that could be given back. What goes as a whole (a module, a layer) is priced with
    what is left in it, and the harm done inside before counts no more. Where such large steps come no closer to a limit than that,
    the plan is the nearest that was found below it, not the least harmful.

    Args:
        groups: of the model.
        scores: what to remove, and in which order; groups without a score stay whole.
        costs: by name; at least those that the budget limits.
        budget: what must hold.
        uniform: keep the same fraction of every group, rounded to units, rather than let scores decide how many; layers stay, and a module
            goes with its last unit alone.

    Raises:
        SecateurError: not even the smallest plan meets the budget, or a cost that it limits is not given.
    """
    limits = budget.limits(costs)
    limited = [costs[name] for name in limits]
    scores = _removable(groups, scores, uniform)
    space = Space(groups, scores, limited, np.array(list(limits.values())))

    if not space.meets(space.last):
        smallest = dict(zip(limits, space.costs(space.last).tolist(), strict=True))
        least = _amounts(smallest, costs)
        raise NoResultError(f"the budget {budget} cannot be met: the smallest possible here is {least}")
    at = _uniform(space) if uniform else _best(space)
    kept = {
        name: elimination.order[groups[name].size - count :]
        for (name, elimination), count in zip(scores.items(), space.kept(at).tolist(), strict=True)
    }
    return PruningPlan.keep(groups, kept)


def check_possible(
    groups: Groups, costs: Mapping[str, CostModel], budget: Budget, names: Collection[str]
) -> None:
    """Refuse before the work a budget that no plan meets which takes from the groups ``names`` alone; the other arguments are those of `allocate`."""
    limits = budget.limits(costs)
    least = {name: groups[name].counts()[0] for name in names}
    smallest = {name: costs[name](least) for name in limits}
    if any(smallest[name] > limit for name, limit in limits.items()):
        stays = _amounts(smallest, costs)
        raise NoResultError(f"the budget {budget} cannot be met: {stays} would stay if all went that can")


def _removable(groups: Groups, scores: Scores, uniform: bool) -> dict[str, Elimination]:
    """Scores of the groups that may lose units.

    Left out are groups that must stay whole and, so that ``min_layers`` remain, the layers that it would be most harmful to lose.
    """
    found = {
        name: scores[name]
        for name in groups
        if name in scores and len(groups[name].counts()) > 1 and not (uniform and groups[name].size == 1)
    }
    layers = sorted(
        (name for name in groups.layers if name in found), key=lambda n: float(found[n].rise.sum())
    )
    for name in layers[max(0, len(groups.layers) - groups.min_layers) :]:
        del found[name]
    return found


def _amounts(amounts: Mapping[str, float], costs: Mapping[str, CostModel]) -> str:
    """Costs as a budget would say them, absolute and as fractions: ``params=185.5k (1.41%)``."""
    said = []
    for name, cost in amounts.items():
        said.append(
            f"{name}={format_amount(name, cost / costs[name].per)} ({100 * cost / costs[name].dense:.3g}%)"
        )
    return ", ".join(said)


def _best(space: Space) -> Ints:
    """The least harmful end over mixtures of the costs."""
    number = len(space.limits)
    ends: list[Ints] = []
    # Almost alone: what costs nothing else has a price all the same.
    for cost, alone in enumerate((1 - 1e-6) * np.eye(number) + 1e-6 / number):
        end, last = _descend(space, alone)
        if last == cost:
            # The other limits are met on the way, so nothing better is found at other prices.
            return end
        ends.append(end)
    mixture = np.ones(number) / number
    # One cost after the other against the mixture of those before: at the best one their limits are met together.
    for cost in range(1, number):
        others = np.where(np.arange(number) < cost, mixture, 0.0)
        others /= others.sum()
        low, high = 0.0, 1.0
        for _ in range(_DIRECTIONS):
            share = (low + high) / 2
            mixture = (1 - share) * others
            mixture[cost] = share
            end, last = _descend(space, mixture)
            ends.append(end)
            low, high = (share, high) if last == cost else (low, share)
    return min(ends, key=lambda end: (not _is_tight(space, end), space.harm(end)))


def _descend(space: Space, mixture: Floats) -> tuple[Ints, int]:
    """Remove by harm per cost until all limits are met, then give back what fits; also, which limit was met last.

    A step that leads too far below the limits is taken back and its group left alone, if others lead closer.
    """
    at, last = space.first, 0
    left_alone = np.zeros(len(at), dtype=bool)
    ends: list[tuple[Ints, int]] = []
    while not space.meets(at):
        last = int(space.room(at).argmin())
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
            ends.append((end, last))
            if _is_tight(space, end):
                return end, last
            left_alone[space.step_group[steps[0]]] = True
    if space.meets(at) or not ends:
        ends.append((_give_back(space, at if space.meets(at) else space.last, mixture), last))
    return min(ends, key=lambda end: space.room(end[0]).min())


def _is_tight(space: Space, at: Ints) -> bool:
    """Whether some cost is within the tolerance of its limit, or nothing at all is removed."""
    return not at.any() or bool(space.room(at).min() <= TOLERANCE)


def _next_steps(space: Space, at: Ints, mixture: Floats, left_alone: NDArray[np.bool_]) -> Ints:
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


def _take(space: Space, at: Ints, steps: Ints) -> Ints:
    after: Ints = at.copy()
    np.maximum.at(after, space.step_group[steps], space.step_stop[steps])
    return after


def _give_back(space: Space, at: Ints, mixture: Floats, *, to: Ints | int = 0) -> Ints:
    """Put units back, as far as the places ``to``, while any fit; those that are worth most for their cost first."""
    at = np.where(space.void(at), 0, at)
    blocked = np.zeros(len(at), dtype=bool)
    while True:
        prices = space.prices(at)
        worth, units = space.worth_back(at)
        cost = prices * units
        room = (space.limits - space.costs(at))[:, None]
        fitting = np.flatnonzero((at > to) & ~blocked & (cost <= room).all(0))
        if len(fitting) == 0:
            return at
        rate = worth[fitting] / np.maximum(space.mixed(cost, mixture)[fitting], 1e-300)
        fitting = fitting[np.argsort(-rate, kind="stable")]
        # At most one step of each group at a time, and half of the room: what is put back makes the rest dearer.
        number = max(1, int((cost[:, fitting].cumsum(1) <= room / 2).all(0).sum()))
        for chosen in (fitting[:number], fitting[:1]):
            after = at.copy()
            after[chosen] -= 1
            if space.meets(after):
                at = after
                break
        else:
            blocked[fitting[0]] = True


def _uniform(space: Space) -> Ints:
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
    mixture = np.ones(len(space.limits)) / len(space.limits)
    # Groups of one size change at the same share, so that the next unit fits in some of them.
    at = _give_back(space, space.at_share(low), mixture, to=space.at_share(high))
    return _give_back(space, at, mixture)
