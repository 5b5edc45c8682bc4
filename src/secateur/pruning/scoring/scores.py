"""Scores: in which order a group's units go, and how much harm the loss of each is estimated to do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.pruning.planning.elimination import Elimination, Scores
from secateur.pruning.scoring.statistics import Kind, Statistics, consumers
from secateur.pruning.scoring.surgeon import surgeon_order
from secateur.structure.axes import Dim, kept_positions, size
from secateur.structure.groups import Groups, Site
from secateur.structure.surgery import Constant


@dataclass(frozen=True)
class Score:
    """A way to tell what a model needs least.

    >>> score = SCORES["fisher"]
    >>> scores = score(model, groups, collect(recognizer, groups, waveforms, kinds=score.needs))

    Attributes:
        name: as users choose it.
        needs: statistics that must have been gathered.
        estimate: from the model, its groups and the statistics to an elimination for each group it can judge.
        sharing: how a budget is shared between groups: ``uniform``, the same fraction of each, where harms do not compare groups; ``weighed``, by
            harms that count as much as `weighting` says; ``modules`` and ``layers``, which alone go then, by harms as they are.
        judges_width: whether it judges the residual width.
    """

    name: str
    needs: frozenset[Kind]
    estimate: Callable[[PreTrainedModel, Groups, Statistics], dict[str, Elimination]]
    sharing: Literal["uniform", "weighed", "modules", "layers"] = "weighed"
    judges_width: bool = True

    @property
    def rotates(self) -> bool:
        """Whether heads are rotated first, so that single dimensions of theirs, which it judges, mean something."""
        return self.sharing == "weighed" and "ablations" not in self.needs

    def judged(self, groups: Groups) -> Collection[str]:
        """The groups that it may take from, at most."""
        alone = {"modules": groups.branches, "layers": groups.layers}
        return alone.get(self.sharing, groups).keys()

    def __call__(self, model: PreTrainedModel, groups: Groups, statistics: Statistics) -> Scores:
        with torch.no_grad():
            return self.estimate(model, groups, statistics)


def magnitude(model: PreTrainedModel, groups: Groups, _: Statistics) -> dict[str, Elimination]:
    """By the L2 norm of all weights of a unit, in what makes it and in what consumes it, the same fraction of every group.

    Layer by layer, as Li et al. 2017 (arXiv 1608.08710), who take the L1 norm of filters. The harm is the norm's square, which adds up: a module's is
    that of all its weights. Biases and norms do not count.
    """
    return _by_weight(groups, lambda name: model.get_parameter(name).double().square().cpu())


def wanda(model: PreTrainedModel, groups: Groups, statistics: Statistics) -> dict[str, Elimination]:
    """By |W_oj| ||x_j||, summed over the outputs o of the consumer and the inputs j of a unit.

    From Sun et al. 2023 (arXiv 2306.11695), who compare single weights; sums of them judge structures. As they compare
    within a layer and prune all layers alike, every group keeps the same fraction. The norm of the j-th input is over what
    the layer was given for one output frame, so that it does not grow with the audio. Groups that no weight consumes (modules, layers,
    the query/key width) are not judged.
    """
    scores = {}
    for name, group in groups.items():
        sites = [site for site in group.sites if site.side == "input"]
        if not sites or len(sites) < sum(site.side != "norm" for site in group.sites):
            continue
        harm = torch.zeros(group.size, dtype=torch.double)
        for site in sites:
            layer = statistics.layers[site.module]
            norm = (layer.square * layer.positions).sqrt()
            along = _weight(model, site.module).double().abs().cpu().sum(0) * norm
            harm += _by_unit(along.reshape(size(site.dim), -1).sum(1), site.dim, name)
        scores[name] = Elimination.by_harm(harm)
    return scores


def fisher(_: PreTrainedModel, groups: Groups, statistics: Statistics) -> dict[str, Elimination]:
    """By half the diagonal Fisher information of each unit's gate: 1/2 E[(sum over time of x g)^2].

    The second-order estimate of how far the output distribution moves when the gate closes (Theis et al. 2018,
    arXiv 1801.05787; Molchanov et al. 2019, arXiv 1906.10771), in nats per frame, for every kind of unit. It knows nothing of what
    remaining units make up for. Modules and layers stay, as there: they are a long way to go on a tangent.
    """
    return {name: Elimination.by_harm(statistics.gates[name] / 2) for name in _units(groups)}


def taylor(_: PreTrainedModel, groups: Groups, statistics: Statistics) -> dict[str, Elimination]:
    """By the absolute gradient of the loss in each unit's gate, |sum over time of x g|, summed over utterances.

    The first-order estimate of how much the loss changes when the gate closes (Molchanov et al. 2019, arXiv 1906.10771,
    with absolute values as Michel et al. 2019, arXiv 1905.10650, for heads). The loss is that of the labels that the
    model thinks likeliest, frame by frame, where those authors have transcripts. Modules and layers stay, as there.
    """
    return {name: Elimination.by_harm(statistics.slopes[name]) for name in _units(groups)}


def hessian(model: PreTrainedModel, groups: Groups, statistics: Statistics) -> dict[str, Elimination]:
    """By 1/2 sum of H_ww w^2 over all weights w of a unit, in what makes it and in what consumes it.

    The Hessian criterion by which *Comb, Prune, Distill* (Schmitt et al. 2024, arXiv 2408.03046) ranks structures, with
    the diagonal of the Hessian as in optimal brain damage (LeCun et al. 1990): the second-order estimate of what a loss
    gains when weights go, summed over a structure. Here H_ww is the Fisher information of the model's own output, which
    is the Hessian of its divergence and needs no transcripts. That paper's estimate of the Hessian, its grouping of
    layers, its schedule of pruning while training, and its distillation are not part of this score.

    Unlike `fisher`, it takes the weights of a unit as independent of each other.
    """

    def values(name: str) -> Tensor:
        square: Tensor = model.get_parameter(name).double().square().cpu()
        return square * statistics.weights[name].double() / 2

    scores = _by_weight(groups, values)
    # What only a bias is left of is worth something, and this cannot say what: it stays.
    constant = {
        name
        for name, branch in groups.branches.items()
        if isinstance(model.get_submodule(branch.path), Constant)
    }
    return {name: score for name, score in scores.items() if name not in constant}


def mope(model: PreTrainedModel, groups: Groups, statistics: Statistics) -> dict[str, Elimination]:
    """By the module-wise pruning error: how far the outputs diverge from the whole model's when a module is off.

    From MoPE-CLIP (Lin et al. 2024, arXiv 2403.07839), where it is the loss of accuracy; the divergence, in nats per
    frame, needs no transcripts. The error of modules and layers is measured, and so is that of a group of units that lies
    in no module. Inside, each unit has the share in the error that it has in the squared weights (`magnitude`), so that
    the units by which a module lives add up to its error. The widths inside its heads and its position features are not judged.
    """
    errors = {name: ablation.divergence for name, ablation in statistics.ablations.items()}
    homes = {unit: home for home, branch in groups.branches.items() for unit in branch.units}
    squares = magnitude(model, groups, statistics)
    scores = {}
    for name in groups:
        if name in errors or name in homes:
            order, rise = squares[name].order, squares[name].rise
            # A module of which a bias is left has no weights to share by.
            share = rise / rise.sum() if rise.any() else torch.full_like(rise, 1 / len(rise))
            scores[name] = Elimination(order, errors[homes.get(name, name)] * share)
    return scores


def latent(_: PreTrainedModel, groups: Groups, statistics: Statistics) -> dict[str, Elimination]:
    """By how much the latent's mean and standard deviation change when an operator is off: their distances, summed.

    From LD-Pruner (Castells et al. 2024, arXiv 2404.11936). The latent is what a model gives before it is decoded, there
    an image's and here the logits; operators are modules, and they go whole. Units and layers are not judged.
    """
    return {
        name: Elimination.by_harm(torch.tensor([lost.mean + lost.deviation], dtype=torch.double))
        for name, lost in statistics.ablations.items()
        if name in groups.branches
    }


def layerdrop(_: PreTrainedModel, groups: Groups, __: Statistics) -> dict[str, Elimination]:
    """Every k-th layer goes, whatever it does (Fan et al. 2019, arXiv 1909.11556, who train for that; we do not).

    Of layers counted from one, those that the highest powers of two divide go first. So exactly the layers k, 2k, 3k, ...
    are gone when these are 1 in k = 2, 4, 8, ..., and any number of layers is spread about evenly.
    """
    digits = len(groups.layers).bit_length()
    turned = {name: int(f"{depth:0{digits}b}"[::-1], 2) for depth, name in enumerate(groups.layers, start=1)}
    return _in_order(sorted(groups.layers, key=turned.__getitem__))


def depth(_: PreTrainedModel, __: Groups, statistics: Statistics) -> dict[str, Elimination]:
    """Layers go greedily, each time the one without which the outputs diverge least, those gone before staying away.

    As *SLEB* (Song et al. 2024, arXiv 2402.09025), with the divergence from the whole model's outputs for perplexity.
    """
    return _in_order(list(statistics.depth))


def _in_order(layers: Sequence[str]) -> dict[str, Elimination]:
    """Harms by which layers go one after the other, also where, pruned before, one costs up to a hundred times what another does.

    But for the last of them, where a later one comes closer to the budget.
    """
    return {
        name: Elimination.by_harm(torch.tensor([100.0**place], dtype=torch.double))
        for place, name in enumerate(layers)
    }


def random(_: PreTrainedModel, groups: Groups, statistics: Statistics) -> dict[str, Elimination]:
    """By nothing: units go in random order, the same fraction of every group (Mittal et al. 2018, arXiv 1801.10447).

    Every unit draws a number between 0 and 1, and its harm is that of its parameters times the number, so that what a
    group loses grows with what it holds. Modules and layers stay.
    """
    generator = torch.Generator().manual_seed(statistics.seed)
    shapes = {name: [size(dim) for dim in layout.dims] for name, layout in groups.tensors.items()}
    parameters = _by_weight(groups, lambda name: torch.ones(shapes[name], dtype=torch.double))
    return {
        name: Elimination.by_harm(
            torch.rand(groups[name].size, generator=generator, dtype=torch.double) * parameters[name].rise
        )
        for name in _units(groups)
    }


def obs(model: PreTrainedModel, groups: Groups, statistics: Statistics) -> dict[str, Elimination]:
    """Optimal brain surgeon within each consumer: remove units one after the other, refit those that stay at every step.

    Units that no single layer consumes are not judged here: the query/key width of rotated heads is by `oneshot.with_widths`, the residual
    width stays. Nor are modules and layers; a module goes with its last unit. See `surgeon_order`. Harms are nats per frame, as `fisher`'s, but only for what refitting cannot make up
    for, so that they are smaller.
    """
    scores = {}
    reads = consumers(groups)
    for name, group in groups.items():
        if name not in reads:
            continue
        site = next(site for site in group.sites if site.side == "input")
        weight = _weight(model, site.module)
        # What is added to all positions alike moves no softmax.
        has_bias = model.get_submodule(site.module).bias is not None or site.module in groups.selects
        blocks = torch.stack([_positions(site, name, unit) for unit in range(group.size)])
        taps = weight.shape[1] // size(site.dim)
        blocks = (blocks[..., None] * taps + torch.arange(taps)).flatten(1)
        scores[name] = surgeon_order(weight, statistics.layers[site.module], blocks, has_bias=has_bias)
    return scores


def _units(groups: Groups) -> list[str]:
    """Groups of units, which are no module or layer."""
    return [name for name in groups if name not in groups.layers and name not in groups.branches]


def _by_weight(groups: Groups, values: Callable[[str], Tensor]) -> dict[str, Elimination]:
    """By the sum of values that are given for every weight of a tensor, over all weights that a unit holds.

    They add up: a module's harm is the sum over all its weights. Biases and norms do not count.
    """
    harms = {name: torch.zeros(group.size, dtype=torch.double) for name, group in groups.items()}
    for name, layout in groups.tensors.items():
        if not layout.is_parameter or len(layout.dims) < 2:
            continue
        each = values(name)
        for coarse in layout.needs:
            harms[coarse] += each.sum()
        for index, dim in enumerate(layout.dims):
            along = each.movedim(index, 0).flatten(1).sum(1)
            for group in {axis.group for axis in dim if axis.group is not None}:
                harms[group] += _by_unit(along, dim, group)
    return {name: Elimination.by_harm(harm) for name, harm in harms.items()}


def _weight(model: PreTrainedModel, path: str) -> Tensor:
    """What a module multiplies its inputs by, [O, F]."""
    weight: Tensor = model.get_parameter(f"{path}.weight")
    return weight.flatten(1)


def _positions(site: Site, group: str, unit: int) -> Tensor:
    """The inputs that belong to a unit."""
    positions = kept_positions(site.dim, {group: [unit]})
    assert positions is not None
    return positions


def _by_unit(along: Tensor, dim: Dim, group: str) -> Tensor:
    """Sums over the positions of each unit, [size], of values along a dimension, [length]."""
    sizes = [axis.size for axis in dim]
    index = next(i for i, axis in enumerate(dim) if axis.group == group)
    return along.reshape(sizes).movedim(index, 0).reshape(sizes[index], -1).sum(1)


SCORES: Mapping[str, Score] = MappingProxyType(
    {
        score.name: score
        for score in (
            Score("magnitude", frozenset(), magnitude, "uniform"),
            Score("wanda", frozenset({"activations"}), wanda, "uniform"),
            Score("fisher", frozenset({"gates"}), fisher),
            Score("obs", frozenset({"gram", "metric"}), obs, judges_width=False),
            Score("taylor", frozenset({"slopes"}), taylor),
            Score("hessian", frozenset({"weights"}), hessian),
            Score("mope", frozenset({"ablations"}), mope),
            Score("latent", frozenset({"ablations"}), latent, "modules", judges_width=False),
            Score("layerdrop", frozenset(), layerdrop, "layers", judges_width=False),
            Score("depth", frozenset({"depth"}), depth, "layers", judges_width=False),
            Score("random", frozenset(), random, "uniform"),
        )
    }
)
"""Every score by its name."""
