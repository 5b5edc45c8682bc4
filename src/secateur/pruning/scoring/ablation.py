"""Ablation: how far a model's output moves when whole modules, layers or groups of units are switched off."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.recognizer import WINDOW_SECONDS, Recognizer
from secateur.speech.audio import Waveform
from secateur.speech.sampling import first
from secateur.structure.groups import Groups
from secateur.structure.masking import masked

SECONDS = 60.0
"""Speech that ablations are measured on: every one of them hears all of it."""


@dataclass(frozen=True, slots=True)
class Ablation:
    """What is lost with something.

    Attributes:
        divergence: Kullback-Leibler divergence from the output distribution with it to the one without it, in nats per
            output frame.
        mean: Euclidean distance between the mean logits, over all frames, with it and without it.
        deviation: the same for their standard deviations.
    """

    divergence: float
    mean: float
    deviation: float


class Ablator:
    """Compares a model that lacks something with the whole one, on the same speech and without transcripts.

    Utterances are heard one by one; those after the first `SECONDS` are not looked at.

    Args:
        recognizer: the whole model; it stays as it is.
        groups: its groups.
        waveforms: mono, at the recogniser's sampling rate; longer ones are cut into windows.
        temperature: of both output distributions.
        speech_weight: a frame counts 1 + speech_weight (1 - p(blank)) in the divergence, p being the whole model's.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        groups: Groups,
        waveforms: Iterable[Waveform],
        *,
        temperature: float = 1.0,
        speech_weight: float = 0.0,
    ) -> None:
        self.model, self.groups, self.temperature = recognizer.model, groups, temperature
        window = round(WINDOW_SECONDS * recognizer.sample_rate)
        self._inputs = [
            recognizer.prepare([waveform[start : start + window]])
            for waveform in first(waveforms, SECONDS * recognizer.sample_rate, len)
            for start in range(0, len(waveform), window)
        ]
        self._whole = self._logits() if self._inputs else torch.empty(0)
        self.frames = len(self._whole)
        if self.frames:
            self._weight = 1.0 + speech_weight * (1.0 - self._whole.softmax(-1)[:, recognizer.blank])

    def without(self, *names: str) -> Ablation:
        """What is lost when all units of these groups go."""
        device = self.model.device
        masks = {name: torch.zeros(self.groups[name].size, device=device) for name in names}
        with masked(self.model, self.groups, masks):
            logits = self._logits()
        whole, less = ((each / self.temperature).log_softmax(-1) for each in (self._whole, logits))
        divergence = (whole.exp() * (whole - less)).sum(-1)
        mean = logits.mean(0) - self._whole.mean(0)
        deviation = logits.std(0, correction=0) - self._whole.std(0, correction=0)
        return Ablation(
            max(0.0, float((self._weight * divergence).mean())), float(mean.norm()), float(deviation.norm())
        )

    @torch.no_grad()
    def _logits(self) -> Tensor:
        """Of all frames of all utterances, [frames, vocabulary], in float64 on the CPU."""
        return torch.cat([self.model(**inputs).logits[0].double().cpu() for inputs in self._inputs])


def ablatable(groups: Groups) -> list[str]:
    """Every module and layer, and every group of units that lies in no module."""
    return [
        name
        for name, group in groups.items()
        if name in groups.layers
        or name in groups.branches
        or not any(home in groups.branches for home in group.inside)
    ]


def ablate(ablator: Ablator, progress: Callable[[float], object] | None = None) -> dict[str, Ablation]:
    """What is lost with each of what is `ablatable`, when it alone goes.

    Args:
        ablator: of the model.
        progress: called after each with the share of the work that it was.
    """
    names = ablatable(ablator.groups)
    ablations = {}
    for name in names:
        ablations[name] = ablator.without(name)
        if progress is not None:
            progress(1 / len(names))
    return ablations


def remove_layers(ablator: Ablator, progress: Callable[[float], object] | None = None) -> dict[str, float]:
    """Take layers out one after the other, each time the one without which the outputs diverge least.

    Args:
        ablator: of the model.
        progress: called after each comparison with the share of the work that it was.

    Returns:
        By layer, in the order in which they go, the divergence when it and those before it are gone. N layers take
        N (N + 1) / 2 comparisons.
    """
    left = list(ablator.groups.layers)
    comparisons = len(left) * (len(left) + 1) // 2
    gone: dict[str, float] = {}
    while left:
        divergences = {}
        for name in left:
            divergences[name] = ablator.without(*gone, name).divergence
            if progress is not None:
                progress(1 / comparisons)
        first = min(left, key=divergences.__getitem__)
        gone[first] = divergences[first]
        left.remove(first)
    return gone
