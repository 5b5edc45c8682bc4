"""Latency of a plan on this device, from times measured on the model's own parts at several widths.

The forward pass is the sum of its parts, as `part_times` shares it out. With n the number of units kept of each group, a
part p takes

    t_p(n) = held_p(n) a_p + present_p(n) (b_p - a_p) + f_p(work_p(n))    seconds.

work_p is the multiply-accumulates that stay in the part; present_p is 1 as long as it has a unit left, held_p as long as its layer is
there. a_p is the time of what is left of it when it is gone, b_p its time with one unit of each group: what starting it takes. f_p rises from 0 there, straight from one measured
width to the next. Work and presence are sums of products as in `cost`, hence one formula for plans and for probabilities.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

import secateur
from secateur.files import cache_folder
from secateur.structure.cost import (
    Products,
    Term,
    counts_of,
    mac_terms,
    parameter_terms,
)
from secateur.structure.counting import macs_by_module, noise_input
from secateur.structure.groups import Group, Groups
from secateur.structure.part_times import (
    KeptTimes,
    Measure,
    PartTimes,
    device_name,
    measure_parts,
    parts_by_module,
)
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model
from secateur.timing import threads

WIDTHS = (1, 0.74, 0.49, 0.37, 0.24, 0.12, 0)
"""Fractions of the units of every group that the parts are measured at; 0 stands for one unit of each.

They are no round ones: matrix products are quicker at round sizes than at those that a plan comes to.
"""


@dataclass(frozen=True)
class Conditions:
    """What a latency is for; under other conditions it is measured anew.

    Attributes:
        seconds: length of the utterances.
        batch: utterances at once.
        threads: threads that PyTorch computes with.
        device: the processor, by name.
        dtype: precision of the weights.
        torch: version of PyTorch.
        attention: implementation of attention.
    """

    seconds: float
    batch: int
    threads: int
    device: str
    dtype: str
    torch: str
    attention: str


@dataclass(frozen=True)
class Part:
    """A stretch of the forward pass.

    Attributes:
        name: as in `part_times`.
        work: the multiply-accumulates in it, or where there are none, its parameters.
        needs: the groups without any unit of which it is gone.
        make: equal for parts that are built alike, and hence take the same time for the same work.
    """

    name: str
    work: tuple[Term, ...]
    needs: tuple[str, ...]
    make: Hashable


class Latency:
    """Seconds of a forward pass as a function of how many units of each group are kept; a cost like `cost.Cost`.

    Attributes:
        dense: seconds with nothing removed.
        per: 1, as limits are of the same seconds.
        conditions: what it is for.
    """

    per = 1.0

    def __init__(
        self,
        groups: Groups,
        parts: Sequence[Part],
        plans: Sequence[PruningPlan],
        times: Sequence[PartTimes],
        conditions: Conditions,
    ) -> None:
        """``times`` are those of the parts under each of the plans."""
        self.groups = groups
        self.conditions = conditions
        self._work = Products(groups, [part.work for part in parts])
        self._present = Products(groups, [[(1, (), part.needs)] for part in parts])
        # What is left of a module that goes, goes with its layer.
        layers = [tuple(need for need in part.needs if need in groups.layers) for part in parts]
        self._held = Products(groups, [[(1, (), needs)] for needs in layers])
        counts = [counts_of(groups, plan.counts()) for plan in plans]
        works = torch.stack([self._work(each) for each in counts], dim=1).tolist()
        presents = torch.stack([self._present(each) for each in counts], dim=1).tolist()
        # Of parts built alike, one may be held where another shrinks.
        kinds = [
            (part.make, tuple(work), tuple(present))
            for part, work, present in zip(parts, works, presents, strict=True)
        ]
        alike: dict[Hashable, list[str]] = {}
        for part, kind in zip(parts, kinds, strict=True):
            alike.setdefault(kind, []).append(part.name)

        # [parts, nodes]: where the segments of each curve start, the time there, and how it rises from there.
        shape = len(parts), len(plans)
        self._gone = torch.zeros(len(parts), dtype=torch.double)
        self._nodes = torch.full(shape, torch.inf, dtype=torch.double)
        self._times = torch.zeros(shape, dtype=torch.double)
        self._slopes = torch.zeros(shape, dtype=torch.double)
        for row, kind in enumerate(kinds):
            seconds = [fmean(of_plan[name] for name in alike[kind]) for of_plan in times]
            self._gone[row], x, y = _curve(works[row], presents[row], seconds)
            self._nodes[row, : len(x)], self._times[row, : len(x)] = x, y
            if len(x) > 1:
                slopes = y.diff() / x.diff()
                # Expected work that was summed up from probabilities may lie a rounding error past the last node.
                self._slopes[row, : len(x)] = torch.cat([slopes, slopes[-1:]])
        self.dense = self({})

    def __call__(self, kept: Mapping[str, int]) -> float:
        """The seconds when that many units of each group are kept; groups that are not listed are whole."""
        return float(self.of(counts_of(self.groups, kept)))

    def of(self, counts: Tensor) -> Tensor:
        """The seconds, a scalar, for the number of units kept of each group, [groups], in the order of the groups.

        For expected numbers, in float64, it is what the expected work takes, and differentiable.
        """
        counts = counts.double()
        gone, nodes, times, slopes = (
            each.to(counts.device) for each in (self._gone, self._nodes, self._times, self._slopes)
        )
        work, present, held = self._work(counts), self._present(counts), self._held(counts)
        # At a node the segment that ends there counts: its slope is what removing a unit saves.
        segment = (torch.searchsorted(nodes, work.detach()[:, None]) - 1).clamp(min=0)
        start, time, slope = (each.gather(1, segment)[:, 0] for each in (nodes, times, slopes))
        least = times[:, 0]
        more = time - least + slope * (work - start).clamp(min=0)
        return (held * gone + present * (least - gone) + more).sum()


def latency_cost(
    groups: Groups,
    model: PreTrainedModel,
    seconds: float = 10.0,
    *,
    batch: int = 1,
    thread_count: int | None = None,
    rounds: int = 7,
    folder: Path | None = None,
    measure: Measure = measure_parts,
) -> Latency:
    """Latency of the model on the device where it is, measured now or, under the same conditions, before.

    While it is measured, copies of all `WIDTHS` are in memory: about three times the model, beside itself.

    Args:
        groups: the model's groups.
        model: in evaluation mode.
        seconds: length of the utterances.
        batch: utterances at once.
        thread_count: threads that PyTorch computes with; None: as many as it has.
        rounds: how often each width is timed.
        folder: where measured times are kept; None: in the user's cache.
        measure: takes the times.

    Raises:
        ValueError: a batch, a number of threads or a number of rounds below one.
    """
    if batch < 1 or rounds < 1:
        raise ValueError(f"{rounds} rounds of {batch} utterances leave nothing to measure")
    counted = macs_by_module(model, seconds)
    modules, plans = parts_by_module(groups, model), _plans(groups)
    parts = _parts(groups, model, modules, counted)
    with threads(thread_count):
        conditions = Conditions(
            seconds=seconds,
            batch=batch,
            threads=torch.get_num_threads(),
            device=device_name(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            torch=torch.__version__,
            attention=str(model.config._attn_implementation),
        )
        architecture = {
            "family": groups.family.name,
            "fingerprint": groups.fingerprint,
            # They tell strides, which the shapes of parameters do not.
            "macs": counted[""],
            "plans": [plan.counts() for plan in plans],
            # The models' code.
            "secateur": secateur.__version__,
            "transformers": transformers.__version__,
        }
        kept = KeptTimes(folder or cache_folder("latency"), asdict(conditions) | architecture)
        times: Sequence[PartTimes] | None = kept.read([part.name for part in parts], len(plans))
        if times is None:
            models = [slice_model(model, plan) if plan.kept else model for plan in plans]
            times = measure(models, modules, noise_input(model, seconds, batch), rounds)
            kept.write(times)
    return Latency(groups, parts, plans, times, conditions)


def _plans(groups: Groups) -> list[PruningPlan]:
    """What is measured: every group at each of `WIDTHS`, and the last without the modules that may go."""
    units = {name: group for name, group in groups.items() if name not in {*groups.branches, *groups.layers}}
    kept = [{name: range(_units_at(width, group)) for name, group in units.items()} for width in WIDTHS]
    may_go = [name for name in groups.branches if groups[name].min_units == 0]
    bare = {**kept[-1], **dict.fromkeys(may_go, range(0))}
    return [PruningPlan.keep(groups, each) for each in [*kept, bare]]


def _units_at(width: float, group: Group) -> int:
    """The number of units nearest to a fraction of a group that may be kept, one at least.

    Heads whose values are as wide as their queries are computed by another kernel than those of plans, in which the two differ.
    """
    counts = [n for n in group.counts() if n > 0]
    nearest = min(counts, key=lambda n: abs(n - width * group.size))
    if group.kind == "value width" and nearest < group.size:
        return max((n for n in counts if n < nearest), default=nearest)
    return nearest


def _parts(
    groups: Groups, model: PreTrainedModel, modules: Mapping[str, str], counted: Mapping[str, int]
) -> list[Part]:
    """The parts of the forward pass; ``modules`` are those of `parts_by_module`."""

    def home(path: str) -> str:
        while path not in modules:
            path = path.rpartition(".")[0]
        return path

    macs: dict[str, list[Term]] = {}
    parameters: dict[str, list[Term]] = {}
    make: dict[str, list[Hashable]] = {}
    for path, name in modules.items():
        make.setdefault(name, []).append(type(model.get_submodule(path)).__name__)
    for path, terms in mac_terms(groups, counted).items():
        macs.setdefault(modules[home(path)], []).extend(terms)
    for name, term in parameter_terms(groups).items():
        parameters.setdefault(modules[home(name)], []).append(term)
    for name, layout in groups.tensors.items():
        path = home(name)
        shape = tuple(tuple(axis.size for axis in dim) for dim in layout.dims)
        make[modules[path]].append((name.removeprefix(path), shape))

    def needs(name: str) -> tuple[str, ...]:
        if name in groups.branches:
            return (*groups[name].inside, name, *groups.branches[name].units)
        return (name,) if name in groups.layers else ()

    return [
        Part(name, tuple(macs.get(name, parameters.get(name, []))), needs(name), tuple(make[name]))
        for name in dict.fromkeys(modules.values())
    ]


def _curve(
    works: Sequence[int], presents: Sequence[int], seconds: Sequence[float]
) -> tuple[float, Tensor, Tensor]:
    """The time of a part when it is gone, and nodes of its time by its work: never falling in that order."""
    gone = [time for time, present in zip(seconds, presents, strict=True) if not present]
    at: dict[int, list[float]] = {}
    for work, present, time in zip(works, presents, seconds, strict=True):
        if present:
            at.setdefault(work, []).append(time)
    x = sorted(at)
    times = np.array([fmean(gone or [0.0]), *(fmean(at[work]) for work in x)])
    # Midway between the lowest curve above that never falls and the highest such curve below.
    above, below = np.maximum.accumulate(times), np.minimum.accumulate(times[::-1])[::-1]
    first, *y = ((above + below) / 2).tolist()
    return first, torch.tensor(x, dtype=torch.double), torch.tensor(y, dtype=torch.double)
