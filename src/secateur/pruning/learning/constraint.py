"""Constraints: expected costs held at their limits during the search, by an augmented Lagrangian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

PENALTY = 400.0
DUAL_STEP = 1.0
"""Found on toy problems of 64 and 1000 gates under Adam, one limit and two, with losses of three sizes.

Gates follow slowly, a few hundred steps after what pulls at them, so that multipliers wind up meanwhile unless the penalty
does most of the pulling: with penalty 20 and step 1 the costs ended on the average .06 below their limits and at worst .13,
with these .006 and .03. The same runs preferred a straight warm-up to the cubic one of Zhu & Gupta 2017 (arXiv 1710.01878),
which runs ahead of the gates.
"""


class Constraints:
    """The constraints c_j <= t_j on expected costs, as a saddle point: descent on gates, ascent on multipliers.

    With g_j = c_j - t_j, multipliers l_j >= 0 and penalty r, what is added to the loss is

        sum over j of (max(0, l_j + r g_j)^2 - l_j^2) / (2 r)

    and after each step l_j <- max(0, l_j + step g_j) (Hestenes 1969, Powell 1969; for inequalities Rockafellar 1973).
    The multiplier finds how much the loss must be outweighed; the penalty damps what would else swing. A constraint that
    holds with room to spare has no multiplier and adds nothing.

    Lines of our own rather than cooper-optim's: they are as few as the classes that one would write for it.

    Costs are fractions of the unpruned model's, [constraints]. On the way down to the limits each target is the limit to the power of
    the ``place`` on that way, from 0 to 1, see `Budget.part_way`.

    Args:
        limits: the t_j.
        penalty: r.
        dual_step: the step of the ascent.
    """

    def __init__(
        self,
        limits: Sequence[float],
        *,
        penalty: float = PENALTY,
        dual_step: float = DUAL_STEP,
    ) -> None:
        self.limits = torch.tensor(limits, dtype=torch.double)
        self.multipliers = torch.zeros(len(limits), dtype=torch.double)
        self.penalty, self.dual_step = penalty, dual_step

    def target(self, place: float = 1.0) -> Tensor:
        """What each cost is to come to there, [constraints]."""
        return self.limits**place

    def term(self, costs: Tensor, place: float = 1.0) -> Tensor:
        """What is added to the loss, a scalar, differentiable in the costs, [constraints]."""
        multipliers, target = self.multipliers.to(costs), self.target(place).to(costs)
        active = (multipliers + self.penalty * (costs - target)).clamp(min=0)
        return (active.square() - multipliers.square()).sum() / (2 * self.penalty)

    def update(self, costs: Tensor, place: float = 1.0) -> None:
        """The step of the multipliers, after that of the gates; ``costs``, [constraints], may be those before it."""
        gap = costs.detach().to(self.multipliers) - self.target(place)
        self.multipliers = (self.multipliers + self.dual_step * gap).clamp(min=0)

    def state_dict(self) -> dict[str, Tensor]:
        """What a run that is taken up again needs."""
        return {"multipliers": self.multipliers}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self.multipliers = state["multipliers"].clone()
