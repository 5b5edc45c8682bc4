"""How the search begins: what scores are sure of decides where gates stand, and refitted weights where weights do."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.pruning.learning.gates import OPEN
from secateur.pruning.planning.elimination import Scores
from secateur.structure.axes import kept_positions
from secateur.structure.groups import Groups
from secateur.structure.plan import PruningPlan

SURENESS = 60.0
"""Log alpha of a gate for its distance from the cut, as a share of its group: 5 % away a unit is 95 % sure."""


def opening(groups: Groups, scores: Scores, plan: PruningPlan) -> dict[str, Tensor]:
    """The log alpha that the gate of each unit begins with, [size], for the groups that have a score.

    A unit is the surer the further it is, in the order of its group's elimination, from where the plan cuts. Units on both
    sides of the cut balance, so that the expected cost is about that of the plan. Units of a module that the plan takes away as a
    whole, and that has no gate of its own, are on the far side of it. A module's own gate, or a layer's, is as sure as gates begin by themselves.
    """
    counts = plan.counts()
    closed = plan.gone - scores.keys()
    log_alpha = {}
    for name, elimination in scores.items():
        size = groups[name].size
        cut = size if closed.intersection(groups[name].inside) else size - counts.get(name, size)
        away = (torch.arange(size) + 0.5 - cut) / size
        at = torch.empty(size)
        at[list(elimination.order)] = SURENESS * away
        log_alpha[name] = at if size > 1 else at.clamp(-OPEN, OPEN)
    return log_alpha


@torch.no_grad()
def unslice(model: PreTrainedModel, sliced: PreTrainedModel, groups: Groups, plan: PruningPlan) -> None:
    """Put the weights of a sliced model back into the unpruned one; what the plan drops stays as it is.

    Args:
        model: written to; of the shape that the plan was made for.
        sliced: what `slice_model` made of such a model, its weights changed or not.
        groups: of ``model``.
        plan: between the two.
    """
    plan = plan.resolved(groups)
    kept, empty = plan.kept, plan.gone
    layers = [path for name, path in groups.layers.items() if name not in empty]
    gone = tuple(f"{path}." for path in groups.layers.values() if path not in layers)
    renamed = {f"{path}.": f"{groups.family.layers}.{i}." for i, path in enumerate(layers)}
    # What a module without units still adds lies in the module itself.
    moved = {branch.bias: f"{branch.path}.bias" for branch in groups.branches.values() if branch.bias}
    smaller = dict([*sliced.named_parameters(), *sliced.named_buffers()])
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        layout = groups.tensors.get(name)
        # Layers are numbered anew: the name of what went with one may be that of something else.
        if layout is None or name.startswith(gone):
            continue
        for alias in (name, moved.get(name, name)):
            path = next(
                (new + alias[len(old) :] for old, new in renamed.items() if alias.startswith(old)), alias
            )
            if path in smaller and not (alias == name and empty.intersection(layout.needs)):
                tensor[_at(tensor, [kept_positions(dim, kept) for dim in layout.dims])] = smaller[path]
                break


def _at(tensor: Tensor, positions: list[Tensor | None]) -> tuple[Tensor, ...]:
    """An index of the block at those positions along each dimension; None: all of them."""
    dims = len(positions)
    index = []
    for i, each in enumerate(positions):
        each = torch.arange(tensor.shape[i]) if each is None else each
        index.append(each.to(tensor.device).view([-1 if i == j else 1 for j in range(dims)]))
    return tuple(index)
