"""Torch-Pruning, run by its own means on what it can prune of a speech model: the feed-forward units.

Fang et al. 2023 (arXiv 2301.12900). Its dependency graph follows the gated linear units and the heads of a Conformer wrongly.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedModel

from secateur.errors import NoResultError, installed_by
from secateur.pruning.learning.method import LearnedMethod
from secateur.pruning.oneshot import Decision, Judgement
from secateur.pruning.planning.budget import Budget
from secateur.structure.cost import CostModel
from secateur.structure.counting import noise_input
from secateur.structure.groups import Groups
from secateur.structure.plan import PruningPlan

NAME = "torch-pruning"

UNITS = "feed-forward units"


def decide(run: LearnedMethod) -> Decision:
    """The plan that Torch-Pruning's choice comes to.

    It keeps the same fraction of every feed-forward module, the largest that meets the budget, which is how it is used
    where nothing else is asked of it; the units are those with the largest weights in what makes and consumes them.

    Raises:
        NoResultError: it is not installed, or the budget cannot be met by feed-forward units alone.
    """
    fraction = _fraction(run.groups, run.costs, run.budget)
    inputs = noise_input(run.recognizer.model, 1.0)
    kept = keep_fraction(run.recognizer.copy().model, run.groups, inputs, fraction)
    return Decision(Judgement(run.recognizer, {}), PruningPlan.keep(run.groups, kept))


def keep_fraction(
    model: PreTrainedModel, groups: Groups, inputs: Mapping[str, torch.Tensor], fraction: float
) -> dict[str, list[int]]:
    """Let Torch-Pruning keep a fraction of each feed-forward module, in place.

    Args:
        model: what is pruned; a parameter that is frozen is not any more.
        groups: the model's.
        inputs: for one forward pass.
        fraction: of the units of each, rounded down.

    Returns:
        The units kept, by group.

    Raises:
        NoResultError: it is not installed.
    """
    try:
        import torch_pruning
    except ImportError:
        raise NoResultError(f"{NAME} is not installed: {installed_by('rivals')}") from None
    makers = {model.get_submodule(path): name for name, path in _makers(groups).items()}
    # It follows gradients through the model.
    model.requires_grad_()
    with torch.enable_grad(), warnings.catch_warnings():
        # Of parameters outside of layers, none of which lie in a feed-forward module.
        warnings.filterwarnings("ignore", message="Unwrapped parameters")
        pruner = torch_pruning.pruner.BasePruner(
            model,
            dict(inputs),
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=1 - fraction,
            root_module_types=[nn.Linear],
            ignored_layers=[each for each in model.modules() if _has_weight(each) and each not in makers],
        )
        kept = {}
        for group in pruner.step(interactive=True):
            dependency, gone = group[0]
            name = makers[dependency.target.module]
            kept[name] = sorted(set(range(groups[name].size)) - set(gone))
            group.prune()
    return kept


def _fraction(groups: Groups, costs: Mapping[str, CostModel], budget: Budget) -> float:
    """The largest fraction of all feed-forward units that a budget lets stay."""
    names = [name for name, group in groups.items() if group.kind == UNITS]
    limits = budget.limits(costs)
    if not names:
        raise NoResultError(f"{NAME} prunes feed-forward units, and this model has none")
    most = max((groups[name] for name in names), key=lambda group: group.size)
    possible: dict[str, int] = {}
    for count in reversed([count for count in most.counts() if count > 0]):
        # Half a unit more, so that rounding down leaves as many whatever the fraction is rounded to.
        fraction = min(1.0, (count + 0.5) / most.size)
        kept = {name: max(1, int(groups[name].size * fraction)) for name in names}
        if any(number not in groups[name].counts() for name, number in kept.items()):
            continue
        possible = kept
        if all(costs[name](possible) <= limit for name, limit in limits.items()):
            return fraction
    least = ", ".join(f"{name}={costs[name](possible) / costs[name].dense:.1%}" for name in limits)
    raise NoResultError(
        f"of this model {NAME} is let prune feed-forward units alone, by which the budget {budget} cannot be met: "
        f"the smallest possible is {least}"
    )


def _makers(groups: Groups) -> dict[str, str]:
    """Of each group of feed-forward units, the linear layer that makes them."""
    found = {}
    for tensor, layout in groups.tensors.items():
        path, _, kind = tensor.rpartition(".")
        made = [axis.group for dim in layout.dims[:1] for axis in dim if axis.group is not None]
        if kind == "weight" and len(made) == 1 and groups[made[0]].kind == UNITS:
            found[made[0]] = path
    return found


def _has_weight(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), nn.Parameter)
