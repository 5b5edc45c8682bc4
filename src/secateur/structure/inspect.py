"""Look inside a recogniser: what each part of its model has, does and takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import nn

from secateur.errors import SecateurError
from secateur.structure import counting
from secateur.timing import clocked
from secateur.timing import threads as torch_threads

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KINDS = ("front-end", "feed-forward", "attention", "convolution", "norms", "head", "other")
"""What the parts of a speech encoder are for."""

# The names of modules in transformers' speech encoders. What a part of a kind holds is of that kind too, except that
# a norm is a norm everywhere behind the front-end.
_KIND_OF_NAME = {
    "subsampling": "front-end",
    "feature_extractor": "front-end",
    "feature_projection": "front-end",
    "pos_conv_embed": "front-end",
    "feed_forward": "feed-forward",
    "feed_forward1": "feed-forward",
    "feed_forward2": "feed-forward",
    "ffn1": "feed-forward",
    "ffn2": "feed-forward",
    "self_attn": "attention",
    "attention": "attention",
    "conv": "convolution",
    "conv_module": "convolution",
    "ctc_head": "head",
    "lm_head": "head",
}
_WARM_UP_RUNS = 2


@dataclass(frozen=True)
class Part:
    """A module of the model and what it costs, all that it holds included.

    Attributes:
        name: as in ``model.named_modules()``.
        kind: one of `KINDS`.
        params: trainable numbers.
        macs: multiply-accumulates for one utterance of the inspected length.
        ms: median milliseconds in its forward pass, for the whole batch; None where it was not measured.
        children: the parts it holds.
    """

    name: str
    kind: str
    params: int
    macs: int
    ms: float | None
    children: tuple[Part, ...] = ()

    def walk(self) -> Iterator[Part]:
        """This part, then all parts in it, depth first."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class Inspection:
    """What a model is made of.

    Attributes:
        architecture: the model's class.
        seconds: length of the utterance that multiply-accumulates and time are for.
        batch: how many such utterances were heard at once when time was measured.
        threads: how many threads PyTorch had then.
        root: the model as a tree of parts.
    """

    architecture: str
    seconds: float
    batch: int
    threads: int
    root: Part

    @property
    def params(self) -> int:
        """Trainable numbers of the model."""
        return self.root.params

    @property
    def macs_per_second(self) -> float:
        """Multiply-accumulates for a second of audio, at the inspected length, with which attention's grow."""
        return self.root.macs / self.seconds

    @property
    def kinds(self) -> dict[str, Part]:
        """The whole model shared out among the kinds; each part gives its kind what its children do not hold."""
        kinds = {kind: Part(kind, kind, 0, 0, None if self.root.ms is None else 0.0) for kind in KINDS}
        for part in self.root.walk():
            sofar = kinds[part.kind]
            own_ms = (part.ms or 0.0) - sum(child.ms or 0.0 for child in part.children)
            kinds[part.kind] = replace(
                sofar,
                params=sofar.params + part.params - sum(child.params for child in part.children),
                macs=sofar.macs + part.macs - sum(child.macs for child in part.children),
                ms=None if sofar.ms is None else sofar.ms + own_ms,
            )
        return {kind: part for kind, part in kinds.items() if part.params or part.macs or part.ms}

    def to_json(self) -> dict[str, object]:
        """All figures, ready for `json.dumps`: kinds sum up to the model; parts, depth first, contain each other."""
        return {
            "architecture": self.architecture,
            "params": self.params,
            "macs_per_second": self.macs_per_second,
            "seconds": self.seconds,
            "batch": self.batch,
            "threads": self.threads,
            "ms": self.root.ms,
            "kinds": [self._row(part) for part in self.kinds.values()],
            "parts": [self._row(part) for part in self.root.walk() if part is not self.root],
        }

    def _row(self, part: Part) -> dict[str, object]:
        return {
            "name": part.name,
            "kind": part.kind,
            "params": part.params,
            "params_share": share(part.params, self.root.params),
            "macs": part.macs,
            "macs_share": share(part.macs, self.root.macs),
            "ms": part.ms,
            "ms_share": share(part.ms, self.root.ms),
        }


def share(part: float | None, whole: float | None) -> float | None:
    """The fraction that a part is of the whole; None where one of them was not measured."""
    if part is None or whole is None:
        return None
    return part / whole if whole else 0.0


def inspect(
    model: PreTrainedModel,
    *,
    seconds: float = 10.0,
    threads: int | None = None,
    batch: int = 1,
    measure: bool = True,
    runs: int = 9,
    progress: Callable[[float], object] | None = None,
) -> Inspection:
    """Count parameters and multiply-accumulates of every part of a model, and measure its time.

    Time is that of the model's forward pass on noise, features not included; each part's is the median over runs.

    Args:
        model: what to look into, in evaluation mode, on the device where it is.
        seconds: length of the utterance.
        threads: for PyTorch while time is measured; None leaves what is set.
        batch: utterances at once while time is measured.
        measure: measure time at all.
        runs: forward passes that are timed.
        progress: told the share of the forward passes that are done, after each.

    Raises:
        SecateurError: the utterance is too short to give the model one frame.
        ValueError: a batch or a number of runs below one.
    """
    if batch < 1 or runs < 1:
        raise ValueError(f"{runs} runs of {batch} utterances leave nothing to measure")
    if not 0 < seconds < math.inf:
        raise SecateurError(f"{seconds:g} s of audio cannot be heard: give a finite length above 0")
    macs = counting.macs_by_module(model, seconds)
    with torch_threads(threads):
        used = torch.get_num_threads()
        milliseconds = _milliseconds(model, seconds, batch, runs, progress or float) if measure else {}
    root = _part(model, "", "other", macs, milliseconds)
    return Inspection(type(model).__name__, seconds, batch, used, root)


def _part(
    module: nn.Module, name: str, kind: str, macs: Mapping[str, int], milliseconds: Mapping[str, float]
) -> Part:
    """The tree below a module; what has neither parameters nor multiply-accumulates is left out of it."""
    prefix = f"{name}." if name else ""
    below = [
        _part(child, prefix + key, _kind(key, child, kind), macs, milliseconds)
        for key, child in module.named_children()
    ]
    children = tuple(part for part in below if part.params or part.macs)
    # Lists of modules are never called themselves: theirs is what their members take.
    measured = [part.ms for part in children if part.ms is not None]
    return Part(
        name=name,
        kind=kind,
        params=counting.parameters(module),
        macs=macs.get(name, sum(part.macs for part in children)),
        ms=milliseconds.get(name, sum(measured) if measured else None),
        children=children,
    )


def _kind(key: str, module: nn.Module, inherited: str) -> str:
    if inherited == "front-end":
        return inherited
    if "norm" in key or isinstance(module, (nn.LayerNorm, nn.BatchNorm1d, nn.GroupNorm)):
        return "norms"
    return _KIND_OF_NAME.get(key, inherited) if inherited == "other" else inherited


def _milliseconds(
    model: PreTrainedModel, seconds: float, batch: int, runs: int, progress: Callable[[float], object]
) -> dict[str, float]:
    """Median milliseconds of every module's forward pass, on noise."""
    inputs = counting.noise_input(model, seconds, batch)
    rounds: list[dict[str, float]] = []
    with torch.inference_mode():
        for done in range(1, 1 + _WARM_UP_RUNS + runs):
            with clocked(dict(model.named_modules()), model.device) as spent:
                model(**inputs)
            rounds.append(spent)
            progress(done / (_WARM_UP_RUNS + runs))
    return {name: 1e3 * median(spent[name] for spent in rounds[_WARM_UP_RUNS:]) for name in rounds[-1]}
