"""Rounding: from gates that have learned to the plan that meets the budget exactly."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.pruning.learning.gates import Gates
from secateur.pruning.planning.allocation import allocate
from secateur.pruning.planning.budget import Budget
from secateur.pruning.planning.elimination import Elimination
from secateur.structure.cost import CostModel
from secateur.structure.groups import Group, Groups
from secateur.structure.plan import PruningPlan

_EXPONENT = 300.0  # harms from e^-300 to e^300 leave float64 room for sums and products
_EVENLY = 0.2  # of log alpha: smaller differences tell nothing


def round_to_plan(
    gates: Gates | Mapping[str, Tensor],
    groups: Groups,
    costs: Mapping[str, CostModel],
    budget: Budget,
) -> PruningPlan:
    """The plan that keeps the units whose gates are most open, of all groups alike, as many as the budget allows.

    A module or a layer goes by its own gate, or with its last unit. As in `allocate`, which carries it out, no limit is
    exceeded, and the one that binds is missed by at most half a percent where there are units fine enough.

    Allocation weighs harm against cost. The harm of a unit is here its dense price times a power of exp(log alpha) so
    high that the order of the gates decides and prices, which change as the model shrinks, next to nothing. Gates that
    hardly differ give way in all groups evenly. Where a group has more than `curves.PIECES` units, which go by twos or more,
    one of them may be taken for another.

    Args:
        gates: or the log alpha of each, by group, [size]; groups that have none stay whole.
        groups: of the model.
        costs: by name; at least those that the budget limits.
        budget: what must hold.

    Raises:
        SecateurError: not even the smallest plan meets the budget, or a cost that it limits is not given.
    """
    log_alpha = gates.log_alpha() if isinstance(gates, Gates) else gates
    openness = {name: values.detach().double().cpu() for name, values in log_alpha.items()}
    # Above 1, so that the exponentials of gates that all stand near 0 are finite.
    largest = max([1.0, *(float(values.abs().max()) for values in openness.values())])
    limited = [costs[name] for name in budget.bounds if name in costs]
    scores = {
        name: _elimination(values, largest, _price(groups[name], limited))
        for name, values in openness.items()
    }
    return allocate(groups, scores, costs, budget)


def _elimination(openness: Tensor, largest: float, price: float) -> Elimination:
    """Of units whose openness, [size], is between ``-largest`` and ``largest``."""
    rising, order = openness.sort(stable=True)
    evenly = _EVENLY * torch.linspace(0, 1, len(rising) + 1, dtype=torch.double)[1:]
    return Elimination(tuple(order.tolist()), price * torch.exp(_EXPONENT * (rising + evenly) / largest))


def _price(group: Group, costs: list[CostModel]) -> float:
    """What a unit of the group costs in the dense model, on the average and as a fraction; at least a little."""
    least = group.counts()[0]
    saved = sum(1.0 - cost({group.name: least}) / cost.dense for cost in costs)
    return max(saved / max(1, group.size - least), 1e-9)
