"""Plans on trial: each is carried out and refitted on some minutes of speech, and compared with the unpruned model on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from secateur.pruning.distillation import Distillation, Distiller, Taught
from secateur.pruning.refitting.reconstruction import reconstruct
from secateur.recognizer import Recognizer
from secateur.speech.audio import Waveform
from secateur.speech.sampling import first_batches
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model

REFIT_SECONDS, JUDGED_SECONDS = 600.0, 300.0
"""Speech that a plan is refitted on, and speech that it is judged by; where there is less, a third is for judging."""


class Trials:
    """How far a plan's outputs diverge from the unpruned model's, frames of speech before blanks, once it is refitted.

    That needs no transcripts and no training. It says which of two plans is better refitted; after long training little of the
    difference is left (docs/notes/learned.md).

    Args:
        teacher: the unpruned recogniser.
        speech: batches of waveforms, in an order that is as good as random; the first ones are heard.
        seed: of what refitting draws.
    """

    def __init__(self, teacher: Recognizer, speech: Sequence[Sequence[Waveform]], seed: int) -> None:
        self.teacher, self.seed = teacher, seed
        total = sum(len(wave) for batch in speech for wave in batch)
        judged = first_batches(speech, min(JUDGED_SECONDS * teacher.sample_rate, total / 3))
        refit = first_batches(speech[len(judged) :], REFIT_SECONDS * teacher.sample_rate)
        with torch.no_grad():
            self._judged = [teacher.prepare(batch) for batch in judged]
            # Of a single batch there is no other part.
            self._refit = [teacher.prepare(batch) for batch in refit] or self._judged
        self._taught: list[Taught] = []

    def __call__(self, plan: PruningPlan) -> float:
        """The divergence in nats, by the mean over frames."""
        student = slice_model(self.teacher.model, plan)
        reconstruct(student, self.teacher.model, plan, self._refit, seed=self.seed)
        smaller = self.teacher.with_model(student)
        distiller = Distiller(self.teacher, smaller, Distillation(hidden=0.0), plan.kept.get("width"))
        if not self._taught:
            self._taught = [replace(distiller.teach(inputs), streams=[]) for inputs in self._judged]
        frames = [int(inputs["attention_mask"].sum()) for inputs in self._judged]
        with torch.no_grad():
            divergences = [
                distiller(inputs, taught=taught)[1]["output"]
                for inputs, taught in zip(self._judged, self._taught, strict=True)
            ]
        return float(np.average(divergences, weights=frames))
