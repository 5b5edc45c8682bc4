"""What the phases of the learned method train: a model as it is, or a model with gates under a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from secateur.progress import TARGET
from secateur.pruning.distillation import Distiller
from secateur.pruning.learning.constraint import Constraints
from secateur.pruning.learning.gates import Gates
from secateur.structure.cost import CostModel
from secateur.training.feed import Batch
from secateur.training.objective import WeightsObjective
from secateur.training.precision import Working

GOING_DOWN = 0.5
"""Share of the search in which it goes down to the budget."""

GATES = "gates."
"""What the names of gates begin with where they are kept beside weights."""


class Recovery(WeightsObjective):
    """The objective of distilling a model as it is; see `training.objective.Objective`."""

    def __init__(
        self,
        distiller: Distiller,
        labels: Callable[[Batch], list[Tensor | None]] | None,
        working: Working,
    ) -> None:
        super().__init__(working)
        self.distiller, self.labels = distiller, labels

    def loss(self, batch: Batch, _share: float, /) -> tuple[Tensor, dict[str, float]]:
        labels = None if self.labels is None else self.labels(batch)
        return self.distiller(batch.inputs, labels, batch.taught)

    def state_dict(self) -> dict[str, Any]:
        return self.distiller.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.distiller.load_state_dict(state)


class Search(Recovery):
    """The objective of learning weights, gates and multipliers together."""

    def __init__(
        self,
        distiller: Distiller,
        labels: Callable[[Batch], list[Tensor | None]] | None,
        working: Working,
        gates: Gates,
        costs: Mapping[str, CostModel],
        constraints: Constraints,
        seed: int,
        dense_costs: Mapping[str, float],
        begins: float,
    ) -> None:
        super().__init__(distiller, labels, working)
        self.gates, self.costs, self.constraints, self.seed = gates, costs, constraints, seed
        # What is told is of the model that the run began with, whatever is searched.
        self._told = {name: cost.dense / dense_costs[name] for name, cost in costs.items()}
        self._begins = gates.place = begins
        with torch.no_grad():
            self.masks = gates.deterministic()
        self._fractions = torch.ones(len(costs), dtype=torch.double)

    def loss(self, batch: Batch, share: float, /) -> tuple[Tensor, dict[str, float]]:
        self.gates.place = self._begins + (1.0 - self._begins) * min(1.0, share / GOING_DOWN)
        # Of the step alone, so that a run that is resumed draws what it would have drawn.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + batch.step)
        self.masks.update(self.gates.sample(generator))
        loss, terms = super().loss(batch, share)
        fractions = self.fractions()
        self._fractions = fractions.detach()
        targets = self.constraints.target(self.gates.place)
        for (name, part), cost, target in zip(
            self._told.items(), self._fractions.tolist(), targets.tolist(), strict=True
        ):
            terms |= {name: part * cost, f"{TARGET}{name}": part * target}
        return loss + self.constraints.term(fractions, self.gates.place).to(loss), terms

    def stepped(self) -> None:
        super().stepped()
        self.gates.clamp_()
        self.constraints.update(self._fractions, self.gates.place)

    def fractions(self) -> Tensor:
        """Expected costs as fractions of the unpruned model's, [costs], float64."""
        counts = self.gates.expected_counts()
        return torch.stack([cost.of(counts) / cost.dense for cost in self.costs.values()])

    def model_state(self) -> dict[str, Tensor]:
        gates = {f"{GATES}{name}": p.detach().clone() for name, p in self.gates.named_parameters()}
        return super().model_state() | gates

    def load_model_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_model_state({n: t for n, t in state.items() if not n.startswith(GATES)})
        self.gates.load_state_dict({n[len(GATES) :]: t for n, t in state.items() if n.startswith(GATES)})

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self.constraints.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.constraints.load_state_dict(state)
