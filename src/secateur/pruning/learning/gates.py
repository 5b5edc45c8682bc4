"""Gates that learn which units stay: hard concrete random variables, one for each unit of a model's groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.structure.groups import Groups

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""Temperature and ends of the stretched interval, as in Louizos et al. 2018 (arXiv 1712.01312)."""

OPEN = math.log(0.99 / 0.01)
"""Log alpha of a gate that is open to begin with: one draw in a hundred is below a half, as in CoFi (arXiv 2204.00408)."""

RANGE = 6.6
"""Log alpha beyond which, either way, a gate counts as at this bound: all but .7 % of draws are exactly 1, or exactly 0, there.

Nearer bounds would cost: a unit that is surely needed would be missing, or there in part, in so many draws that the weights
learn to do with less than the plan will leave them. At 3.4, where P(z != 0) is .993, z is below 1 in every seventh draw.
"""

RATES = {"fine": 1.0, "level": 2.5, "coarse": 0.25}
"""Learning rates, for that of the gates of units."""


class Gates(nn.Module):
    """A hard concrete gate for every unit of some groups (Louizos et al. 2018, arXiv 1712.01312).

    With u uniform in (0, 1) and a learned log alpha for each gate,

        s = sigmoid((log u - log(1 - u) + log alpha) / beta)
        z = clip(s (zeta - gamma) + gamma, 0, 1)
        P(z > 1/2) = sigmoid(log alpha)

    so that z is 0 or 1 most of the time, and differentiable in log alpha in between. What a gate is expected to cost goes by P(z > 1/2),
    which is also the mean of z to within .03, and not by the P(z != 0) of the paper: at even odds that would be
    charged .83 of a unit for half of one, and the budget met by closing what is open in part.

    >>> gates = Gates(groups)
    >>> optimizer = torch.optim.Adam(gates.parameter_groups(0.02))
    >>> with masked(model, groups, gates.sample(generator)):
    ...     loss = distil(model(**inputs)) + constraints.term(cost.of(gates.expected_counts())[None] / cost.dense)

    Log alpha is what a gate begins with, and what was learned: of the unit for itself (``fine``), and of its group
    (``level``), by which all units of a group open or close together. One draw of ten thousand gates says little of each, but much of
    where a group should be cut, which the level learns in a tenth of the steps. Whole modules and layers have ``coarse`` gates, on which
    more depends and which learn more slowly. Each kind lies in one flat parameter, so that a step is a handful of operations.

    On the way down to a budget all gates close alike by what they have learned nothing of: log alpha is higher by ``slope``
    times what is still to go of ``place``, which is 1 at the budget.

    Args:
        groups: of the model.
        names: the groups whose units have a gate; by default all.
        log_alpha: to begin with: of all gates, or by group that of each unit, [size]. Groups that are not listed begin at
            `OPEN`. It is what they have at the end of the way.
        slope: log alpha for the whole way down.

    Attributes:
        place: where on the way down the gates are, from 0 to 1.
    """

    def __init__(
        self,
        groups: Groups,
        names: Iterable[str] | None = None,
        log_alpha: float | Mapping[str, Tensor] = OPEN,
        slope: float = 0.0,
    ) -> None:
        super().__init__()
        self.slope, self.place = slope, 1.0
        chosen = set(groups if names is None else names)
        whole = groups.layers.keys() | groups.branches.keys()
        fine = [name for name in groups if name in chosen and name not in whole]
        coarse = [name for name in groups if name in chosen and name in whole]
        self.sizes = {name: groups[name].size for name in (*fine, *coarse)}
        given = log_alpha if isinstance(log_alpha, Mapping) else {}
        default = OPEN if isinstance(log_alpha, Mapping) else log_alpha
        start = {
            name: torch.as_tensor(given.get(name, default), dtype=torch.float32).expand(size)
            for name, size in self.sizes.items()
        }
        self.register_buffer("_start", _joined(start.values()), persistent=False)
        self.fine = nn.Parameter(torch.zeros(sum(self.sizes[name] for name in fine)))
        self.coarse = nn.Parameter(torch.zeros(sum(self.sizes[name] for name in coarse)))
        self.level = nn.Parameter(torch.zeros(len(fine)))
        level = torch.arange(len(fine)).repeat_interleave(
            torch.tensor([self.sizes[name] for name in fine]).long()
        )
        self.register_buffer("_level", level, persistent=False)

        rows = {name: row for row, name in enumerate(groups)}
        gated = torch.tensor([rows[name] for name, size in self.sizes.items() for _ in range(size)]).long()
        whole_counts = [0 if name in self.sizes else group.size for name, group in groups.items()]
        self.register_buffer("_row", gated, persistent=False)
        self.register_buffer("_ungated", torch.tensor(whole_counts, dtype=torch.double), persistent=False)

    def log_alpha(self) -> dict[str, Tensor]:
        """By group, [size]; beyond `RANGE` too, where it says which of two sure units is surer."""
        return self._by_group(self._unbounded())

    def sample(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Masks by group, [size]: one draw, differentiable in the gates. The numbers come from ``generator``, on its device."""
        flat = self._flat()
        u = torch.rand(len(flat), generator=generator, device=generator.device).to(flat.device)
        return self._by_group(_stretched(torch.logit(u, eps=1e-6) + flat))

    def deterministic(self) -> dict[str, Tensor]:
        """Masks by group, [size]: the median draw, which is 0 where a gate is more often closed than not.

        (Louizos et al. put sigmoid(log alpha), without beta, in the place of s.)
        """
        return self._by_group(_stretched(self._flat()))

    def keep(self) -> dict[str, Tensor]:
        """P(z > 1/2) by group, [size], differentiable; a unit also needs the module and the layer that it is in."""
        return self._by_group(torch.sigmoid(self._flat()))

    def expected_counts(self) -> Tensor:
        """How many units of each group are rather open than not, [groups], float64 and differentiable, as `Cost.of` takes them.

        The sums of `keep`, and the sizes of groups without gates, in one operation for all groups.
        """
        ungated, row = self.get_buffer("_ungated"), self.get_buffer("_row")
        return ungated.index_add(0, row, torch.sigmoid(self._flat()).double())

    @torch.no_grad()
    def clamp_(self) -> None:
        """Hold what single gates have learned where they still come back from; to be called after every step."""
        for parameter in (self.fine, self.coarse):
            parameter.clamp_(-2 * RANGE, 2 * RANGE)

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """What an optimiser takes: each kind of gate with its learning rate, ``rate`` for units, without weight decay."""
        return [
            {"params": [parameter], "lr": RATES[name] * rate, "weight_decay": 0.0}
            for name, parameter in self.named_parameters()
            if parameter.numel()
        ]

    def _unbounded(self) -> Tensor:
        units = self.fine + self.level[self.get_buffer("_level")]
        to_come = self.slope * (1.0 - self.place)
        return self.get_buffer("_start") + to_come + torch.cat([units, self.coarse])

    def _flat(self) -> Tensor:
        """Log alpha of all gates within `RANGE`; beyond it the gradient is that at the bound, lest a gate stay there for ever."""
        there = self._unbounded()
        return there + (there.clamp(-RANGE, RANGE) - there).detach()

    def _by_group(self, flat: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.sizes, torch.split(flat, list(self.sizes.values())), strict=True))


def _stretched(logits: Tensor) -> Tensor:
    return (torch.sigmoid(logits / BETA) * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)


def _joined(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([torch.empty(0), *parts])
