"""The one-shot method: score on a few minutes of audio, slice, refit what is left in closed form; no gradient step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from secateur.errors import SecateurError
from secateur.pruning.allocation import allocate
from secateur.pruning.budget import Budget
from secateur.pruning.curves import CostModel
from secateur.pruning.reconstruction import reconstruct
from secateur.pruning.rotation import rotate_heads
from secateur.pruning.scores import SCORES, Elimination, Scores
from secateur.pruning.statistics import collect
from secateur.recognizer import Recognizer, Waveform
from secateur.structure.groups import Groups
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model

# A softer distribution than the model's own, so that frames it is sure of count; and speech before blanks.
TEMPERATURE = 2.0
SPEECH_WEIGHT = 5.0
# Speech that shows which directions inside the heads matter.
ROTATE_SECONDS = 120.0
# With 0.3 of it too few dimensions stay (docs/notes/oneshot.md).
WIDTH_HARM = 3.0


@dataclass(frozen=True, slots=True)
class OneShot:
    """Settings of the method.

    Attributes:
        score: what decides, one of `scores.SCORES`.
        score_minutes: audio that it looks at.
        reconstruct_minutes: audio that the remaining weights are refitted on; none with 0.
        uniform: keep the same fraction of every group; the score only chooses which units.
        seed: of everything that is drawn.
    """

    score: str = "obs"
    score_minutes: float = 10.0
    reconstruct_minutes: float = 60.0
    uniform: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise SecateurError(f"there is no score {self.score!r}; choose one of {', '.join(SCORES)}")


class Stages(Protocol):
    """Told which stage of the work has begun, and how much of it is done."""

    def __call__(self, stage: str, done: float, /) -> object: ...


def prune_oneshot(
    recognizer: Recognizer,
    groups: Groups,
    costs: Mapping[str, CostModel],
    budget: Budget,
    speech: Sequence[Sequence[Waveform]],
    settings: OneShot,
    progress: Stages,
    *,
    audio_seconds: float = 10.0,
) -> tuple[PruningPlan, Recognizer]:
    """Decide on a plan and carry it out; the recogniser that is given stays as it is.

    Args:
        recognizer: the unpruned recogniser; the teacher.
        groups: its groups that may be pruned.
        costs: its costs; at least those that the budget limits.
        budget: what must hold.
        speech: batches of waveforms of similar lengths, in an order that is as good as random.
        settings: of the method.
        progress: told about the work as it goes.
        audio_seconds: length of the utterance that multiply-accumulates are counted for.

    Returns:
        The plan, and the pruned recogniser.
    """
    score = SCORES[settings.score]
    wanted = settings.score_minutes * 60
    heard = [wave for batch in speech for wave in batch]
    heard = first_seconds(heard, wanted, recognizer.sample_rate)
    total = sum(map(len, heard)) / recognizer.sample_rate
    seconds = 0.0

    def scored(more: float) -> None:
        nonlocal seconds
        seconds += more
        progress("scoring", seconds / total)

    teacher = recognizer
    shares: dict[str, Tensor] = {}
    if settings.score == "obs":
        progress("rotating", 0.0)
        teacher, shares = rotate_heads(
            recognizer, first_seconds(heard, ROTATE_SECONDS, recognizer.sample_rate)
        )
    statistics = collect(
        teacher,
        groups,
        heard,
        kinds=score.needs,
        temperature=TEMPERATURE,
        speech_weight=SPEECH_WEIGHT,
        seed=settings.seed,
        progress=scored,
    )
    progress("allocating", 0.0)
    scores = with_widths(groups, score(teacher.model, groups, statistics), shares)
    plan = allocate(groups, scores, costs, budget, uniform=settings.uniform, audio_seconds=audio_seconds)
    del statistics
    progress("slicing", 0.0)
    student = slice_model(teacher.model, plan)
    if settings.reconstruct_minutes:
        with torch.inference_mode():
            batches = [recognizer.prepare(batch) for batch in speech]
        reconstruct(
            student,
            teacher.model,
            plan,
            batches,
            seed=settings.seed,
            progress=lambda done: progress("reconstructing", done),
        )
    return plan, Recognizer(student, recognizer.features, recognizer.tokenizer)


def with_widths(groups: Groups, scores: Scores, shares: Mapping[str, Tensor]) -> Scores:
    """Scores for the query/key widths of rotated heads too.

    Each dimension does the harm of losing all heads times its share in the energy of the logits, and `WIDTH_HARM`.
    """
    widths = {}
    for name, branch in groups.branches.items():
        heads, width = f"{name}.heads", f"{name}.query_key"
        if branch.path in shares and heads in scores and width in groups:
            harm = WIDTH_HARM * shares[branch.path] * scores[heads].rise.sum()
            widths[width] = Elimination.by_harm(harm)
    return {**scores, **widths}


def first_seconds(waveforms: Sequence[Waveform], seconds: float, sample_rate: int) -> list[Waveform]:
    """As many of the first waveforms as reach that many seconds."""
    chosen: list[Waveform] = []
    for wave in waveforms:
        if seconds <= 0:
            break
        chosen.append(wave)
        seconds -= len(wave) / sample_rate
    return chosen
