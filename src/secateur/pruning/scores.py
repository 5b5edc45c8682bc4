"""Scores: in which order a group's units go, and how much harm the loss of each is estimated to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.pruning.statistics import Kind, LayerStatistics, Statistics, consumers
from secateur.structure.axes import Dim, kept_positions, size
from secateur.structure.groups import Groups, Site


@dataclass(frozen=True, eq=False)
class Elimination:
    """The units of a group in the order in which they go.

    Attributes:
        order: every unit, the first to go first.
        rise: the estimated harm that each of these removals adds, [size], in float64 and not negative.
    """

    order: tuple[int, ...]
    rise: Tensor

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.rise))):
            raise ValueError("an elimination takes every unit of its group, once")
        if not bool(torch.isfinite(self.rise).all()) or bool((self.rise < 0).any()):
            raise ValueError("an elimination's harms are finite and not negative")

    @classmethod
    def by_harm(cls, harm: Tensor) -> Elimination:
        """The least harmful first, when the harm of each unit, [size], does not depend on what else is gone."""
        rise, order = harm.double().cpu().sort(stable=True)
        return cls(tuple(order.tolist()), rise)


Scores = Mapping[str, Elimination]
"""Eliminations by group; groups that a score does not speak of stay whole."""


@dataclass(frozen=True)
class Score:
    """A way to tell what a model needs least.

    >>> score = SCORES["fisher"]
    >>> scores = score(model, groups, collect(recognizer, groups, waveforms, kinds=score.needs))

    Attributes:
        name: as users choose it.
        needs: statistics that must have been gathered.
        estimate: from the model, its groups and the statistics to an elimination for each group it can judge.
    """

    name: str
    needs: frozenset[Kind]
    estimate: Callable[[PreTrainedModel, Groups, Statistics], dict[str, Elimination]]

    def __call__(self, model: PreTrainedModel, groups: Groups, statistics: Statistics) -> Scores:
        with torch.no_grad():
            return self.estimate(model, groups, statistics)


def magnitude(model: PreTrainedModel, groups: Groups, _: Statistics) -> dict[str, Elimination]:
    """By the L2 norm of all weights of a unit, in what makes it and in what consumes it (Han et al. 2015, arXiv 1506.02626).

    The harm is the norm's square, which adds up: a module's is that of all its weights. Biases and norms do not count.
    """
    harms = {name: torch.zeros(group.size, dtype=torch.double) for name, group in groups.items()}
    for name, layout in groups.tensors.items():
        if not layout.is_parameter or len(layout.dims) < 2:
            continue
        square = model.get_parameter(name).double().square().cpu()
        for coarse in layout.needs:
            harms[coarse] += square.sum()
        for index, dim in enumerate(layout.dims):
            along = square.movedim(index, 0).flatten(1).sum(1)
            for group in {axis.group for axis in dim if axis.group is not None}:
                harms[group] += _by_unit(along, dim, group)
    return {name: Elimination.by_harm(harm) for name, harm in harms.items()}


def wanda(model: PreTrainedModel, groups: Groups, statistics: Statistics) -> dict[str, Elimination]:
    """By |W_oj| ||x_j||, summed over the outputs o of the consumer and the inputs j of a unit.

    From Sun et al. 2023 (arXiv 2306.11695), who compare single weights; sums of them judge structures. The norm of the
    j-th input is over what the layer was given for one output frame, so that it does not grow with the audio. Groups
    that no weight consumes (modules, layers, the query/key width) are not judged.
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
    arXiv 1801.05787; Molchanov et al. 2019, arXiv 1906.10771), in nats per frame, for every kind of group. It knows
    nothing of what remaining units make up for, and a whole module is a long way to go on a tangent.
    """
    return {name: Elimination.by_harm(statistics.gates[name] / 2) for name in groups}


def obs(model: PreTrainedModel, groups: Groups, statistics: Statistics) -> dict[str, Elimination]:
    """Optimal brain surgeon within each consumer: remove units one after the other, refit those that stay at every step.

    Units that no single layer consumes, such as the query/key width, are not judged and stay, and neither are modules
    and layers. See `surgeon_order`. Harms are nats per frame, as `fisher`'s, but only for what refitting cannot make up
    for, so that they are smaller.
    """
    scores = {}
    reads = consumers(groups)
    for name, group in groups.items():
        if name not in reads:
            continue
        site = next(site for site in group.sites if site.side == "input")
        weight = _weight(model, site.module)
        has_bias = model.get_submodule(site.module).bias is not None
        blocks = torch.stack([_positions(site, name, unit) for unit in range(group.size)])
        taps = weight.shape[1] // size(site.dim)
        blocks = (blocks[..., None] * taps + torch.arange(taps)).flatten(1)
        scores[name] = surgeon_order(weight, statistics.layers[site.module], blocks, has_bias=has_bias)
    return scores


def surgeon_order(
    weight: Tensor,
    statistics: LayerStatistics,
    blocks: Tensor,
    *,
    has_bias: bool,
    ridge: float = 1e-3,
    share: int = 24,
) -> Elimination:
    """Backward elimination of input blocks of a linear layer, the rest of its weights refitted in closed form.

    With the Fisher information of the weights as the Kronecker product of the inputs' second moments H and the output
    metric M, and V = M^(1/2) W, removing the inputs B does the harm

        1/2 tr(V_B [(H^-1)_BB]^-1 V_B'),

    after which V -= V_B [(H^-1)_BB]^-1 (H^-1)_B: and H^-1 -= (H^-1)_:B [(H^-1)_BB]^-1 (H^-1)_B:. From LeCun et al. 1990
    and Hassibi et al. 1993, by blocks as in Frantar & Alistarh 2023 (arXiv 2301.00774) and Kurtic et al. 2023 (arXiv
    2302.04089). A bias is one more input, which stays: then H is the covariance.

    Args:
        weight: [O, F].
        statistics: of the layer, with gram and metric.
        blocks: inputs of each unit, [units, inputs of a unit].
        has_bias: whether the layer has a bias to refit.
        ridge: added to H, as a fraction of its mean diagonal.
        share: of the units left, one in ``share`` goes at each step, at least one.
    """
    assert statistics.gram is not None
    assert statistics.metric is not None
    hessian = statistics.gram
    if has_bias:
        hessian = hessian - torch.outer(statistics.mean, statistics.mean)
    level = ridge * hessian.diagonal().mean().clamp(min=1e-20)
    hessian = hessian + level * torch.eye(len(hessian), dtype=hessian.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian)).float()
    strength, directions = torch.linalg.eigh(statistics.metric)
    root = strength.clamp(min=0).sqrt()[:, None] * directions.T
    values = (root @ weight.double().cpu()).float()

    units, width = torch.arange(len(blocks)), blocks.shape[1]
    # From here on the inputs of a unit stand together, and what is gone is cut away.
    values, inverse = values[:, blocks.flatten()], inverse[blocks.flatten()][:, blocks.flatten()]
    order: list[int] = []
    rise: list[Tensor] = []
    while len(units):
        each = torch.arange(len(units))
        own = inverse.view(len(units), width, len(units), width)[each, :, each]
        read = values.view(-1, len(units), width).permute(1, 2, 0)
        harm = (read * torch.linalg.solve(own, read)).sum((1, 2)).clamp(min=0).double()
        harm, chosen = harm.topk(max(1, len(units) // share), largest=False)
        going = torch.zeros(len(units), dtype=torch.bool)
        going[chosen] = True
        gone, stay = (mask.repeat_interleave(width).nonzero()[:, 0] for mask in (going, ~going))

        across = inverse[gone]
        solved = torch.linalg.solve(across[:, gone], torch.cat([values[:, gone].T, across[:, stay]], dim=1))
        refit, spread = solved[:, : len(values)], solved[:, len(values) :]
        # Together they do more harm than each alone; the sum over the step is exact.
        together = (values[:, gone].T * refit).sum().double()
        order += units[chosen].tolist()
        rise.append(statistics.positions / 2 * harm * (together / harm.sum().clamp(min=1e-300)).clamp(min=0))
        values = values[:, stay] - refit.T @ across[:, stay]
        inverse = inverse[stay][:, stay] - across[:, stay].T @ spread
        units = units[~going]
    return Elimination(tuple(order), torch.cat(rise))


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
            Score("magnitude", frozenset(), magnitude),
            Score("wanda", frozenset({"activations"}), wanda),
            Score("fisher", frozenset({"gates"}), fisher),
            Score("obs", frozenset({"gram", "metric"}), obs),
        )
    }
)
"""Every score by its name."""
