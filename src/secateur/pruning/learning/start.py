"""How the search begins: the way down that scores foresee decides where gates stand, and refitted weights where weights do."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.pruning.planning.elimination import Scores
from secateur.structure.axes import kept_positions
from secateur.structure.groups import Groups
from secateur.structure.plan import PruningPlan

BEGINS = 0.5
"""Part of the way down to the budget, see `Budget.part_way`, that scores go before a search begins."""

RUNGS = tuple(rung / 10 for rung in range(1, 17))
"""Parts of the way, of which those above 1 are beyond the budget: what nearly goes there can go instead of what nearly stays."""

SLOPE = 40.0
"""Log alpha for the whole way: a unit that goes .075 of it later than others is 95 % sure when they are undecided."""


def opening(
    groups: Groups, scores: Scores, plans: Mapping[float, PruningPlan], gated: Collection[str]
) -> dict[str, Tensor]:
    """The log alpha that the gate of each unit ends the way down with, [size], if it learns nothing, for the groups that have a score.

    It goes by where on the way the scores would let the unit go, in the order of its group's elimination, so that gates which all
    close alike come by these very plans. Units of a module that a plan takes away as a whole, and that has no gate of its own, go
    there with it.

    Args:
        groups: of the model.
        scores: of their units.
        plans: by part of the way, rising, what the scores leave there.
        gated: groups that have gates.
    """
    cuts = {name: [0] for name in scores}
    for plan in plans.values():
        counts, closed = plan.counts(), plan.gone.difference(gated)
        for name, line in cuts.items():
            size = groups[name].size
            cut = size if closed.intersection(groups[name].inside) else size - counts.get(name, size)
            line.append(max(line[-1], cut))
    way = [0.0, *plans]
    log_alpha = {}
    for name, line in cuts.items():
        size = groups[name].size
        # What is left behind the last plan goes evenly in half as much again.
        places = np.interp(np.arange(size) + 0.5, [*line, size + 1e-9], [*way, 1.5 * way[-1]])
        at = torch.empty(size)
        at[list(scores[name].order)] = torch.as_tensor(SLOPE * (places - 1.0), dtype=at.dtype)
        log_alpha[name] = at
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
