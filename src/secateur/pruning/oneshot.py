"""The one-shot method: score on a few minutes of audio, slice, refit what is left layer by layer; nothing is trained end to end."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.errors import SecateurError
from secateur.pruning.planning.allocation import allocate
from secateur.pruning.planning.budget import Budget
from secateur.pruning.planning.elimination import Elimination, Scores
from secateur.pruning.planning.weighting import USUAL, Weighting, by_trial, numbers, weighted
from secateur.pruning.refitting.reconstruction import reconstruct
from secateur.pruning.scoring.rotation import rotate_heads
from secateur.pruning.scoring.scores import SCORES
from secateur.pruning.scoring.statistics import collect
from secateur.pruning.trials import Trials
from secateur.recognizer import Recognizer
from secateur.runs import check_not_negative, check_seed
from secateur.speech.audio import Waveform
from secateur.speech.sampling import first, first_batches
from secateur.structure.cost import CostModel
from secateur.structure.groups import Groups
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model

# A softer distribution than the model's own, so that frames it is sure of count; and speech before blanks.
TEMPERATURE = 2.0
SPEECH_WEIGHT = 5.0
# Speech that shows which directions inside the heads matter.
ROTATE_SECONDS = 120.0
# Of the harm that its share of the logits' energy ascribes to a dimension of a head (docs/notes/oneshot.md).
WIDTH_HARM = 1.0


@dataclass(frozen=True, slots=True)
class OneShot:
    """Settings of the method.

    Attributes:
        score: what decides, one of `scores.SCORES`.
        score_minutes: audio that it looks at.
        trials: further plans to try, each of which divides the budget differently between the parts of the model. All are refitted on
            ten minutes, and the one that then diverges least is taken.
        reconstruct_minutes: audio that the remaining weights are refitted on; none with 0.
        reconstruct_steps: of gradient on it, for each layer by itself, after refitting in closed form.
        uniform: keep the same fraction of every group; the score only chooses which units.
        seed: of everything that is drawn.
    """

    score: str = "obs"
    score_minutes: float = 20.0
    trials: int = 0
    reconstruct_minutes: float = 60.0
    reconstruct_steps: int = 200
    uniform: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise SecateurError(f"there is no score {self.score!r}; choose one of {', '.join(SCORES)}")
        sharing = SCORES[self.score].sharing
        if self.trials < 0 or (self.trials and (self.shares_evenly or sharing == "layers")):
            raise SecateurError(
                f"there can be no {self.trials} trials; give 0 or more, and none where all groups keep the same fraction or layers go in order"
            )
        if not (0 < self.score_minutes < math.inf and 0 <= self.reconstruct_minutes < math.inf):
            raise SecateurError(
                f"{self.score_minutes:g} minutes to score on and {self.reconstruct_minutes:g} to refit on make no sense; "
                "give a finite number above 0, and one of 0 or more"
            )
        if self.uniform and sharing in ("modules", "layers"):
            raise SecateurError(
                f"the score {self.score} removes whole {sharing}, of which there is no fraction to keep: leave uniform out"
            )
        check_not_negative(self, "reconstruct_steps")
        check_seed(self.seed)

    @property
    def shares_evenly(self) -> bool:
        """Whether all groups keep the same fraction."""
        return self.uniform or SCORES[self.score].sharing == "uniform"

    def judged(self, groups: Groups) -> Collection[str]:
        """The groups that its plans may take from, at most."""
        return SCORES[self.score].judged(groups)

    @property
    def minutes_scored(self) -> float:
        """Audio that the score looks at; none where it looks at weights alone."""
        return self.score_minutes if SCORES[self.score].needs else 0.0


class Stages(Protocol):
    """Told which stage of the work has begun, and how much of it is done."""

    def __call__(self, stage: str, done: float, /) -> object: ...


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What units are worth.

    Attributes:
        teacher: the unpruned recogniser, its heads rotated where single dimensions of theirs are judged: what the scores are of.
        scores: of its groups.
    """

    teacher: Recognizer
    scores: Scores

    def state(self, recognizer: Recognizer) -> dict[str, Any]:
        """All of it in tensors and plain values, beside the unpruned recogniser that it is of."""
        rotated = self.teacher is not recognizer
        return {
            "teacher": self.teacher.model.state_dict() if rotated else {},
            "scores": {name: (list(each.order), each.rise) for name, each in self.scores.items()},
        }

    @classmethod
    def of(cls, state: Mapping[str, Any], recognizer: Recognizer) -> Judgement:
        """What `state` was made from."""
        teacher = recognizer
        if state["teacher"]:
            teacher = recognizer.copy()
            teacher.model.load_state_dict(state["teacher"])
        scores = {name: Elimination(tuple(order), rise) for name, (order, rise) in state["scores"].items()}
        return Judgement(teacher, scores)


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What scores lead to.

    Attributes:
        judgement: what units are worth.
        plan: what should stay of the teacher.
        minutes: of speech that were scored on, at most.
    """

    judgement: Judgement
    plan: PruningPlan
    minutes: float = 0.0

    def state(self, recognizer: Recognizer) -> dict[str, Any]:
        """All of it in tensors and plain values, beside the unpruned recogniser that it is of."""
        return self.judgement.state(recognizer) | {"plan": self.plan.to_json(), "minutes": self.minutes}

    @classmethod
    def of(cls, state: Mapping[str, Any], recognizer: Recognizer, groups: Groups) -> Decision:
        """What `state` was made from."""
        plan = PruningPlan.from_json(state["plan"]).resolved(groups)
        return cls(Judgement.of(state, recognizer), plan, state["minutes"])


def prune_oneshot(
    recognizer: Recognizer,
    groups: Groups,
    costs: Mapping[str, CostModel],
    budget: Budget,
    speech: Sequence[Sequence[Waveform]],
    settings: OneShot,
    progress: Stages,
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

    Returns:
        The plan, and the pruned recogniser.
    """
    decision = decide(recognizer, groups, costs, budget, speech, settings, progress)
    return decision.plan, carry_out(decision.plan, decision.judgement.teacher, speech, settings, progress)


def decide(
    recognizer: Recognizer,
    groups: Groups,
    costs: Mapping[str, CostModel],
    budget: Budget,
    speech: Sequence[Sequence[Waveform]],
    settings: OneShot,
    progress: Stages,
) -> Decision:
    """Score units and allocate the budget; the arguments are those of `prune_oneshot`."""
    judgement = judge(recognizer, groups, speech, settings, progress)
    plan = share_out(judgement, groups, costs, budget, speech, settings, progress)
    return Decision(judgement, plan, settings.minutes_scored)


def share_out(
    judgement: Judgement,
    groups: Groups,
    costs: Mapping[str, CostModel],
    budget: Budget,
    speech: Sequence[Sequence[Waveform]],
    settings: OneShot,
    progress: Stages,
) -> PruningPlan:
    """Allocate the budget by what units are worth, trying several ways where that is asked for.

    The arguments are those of `prune_oneshot` and what `judge` made of them.
    """
    progress("allocating", 0.0)

    def plan(weighting: Weighting) -> PruningPlan:
        return allocate(
            groups,
            weighted(groups, judgement.scores, weighting),
            costs,
            budget,
            uniform=settings.shares_evenly,
        )

    usual = USUAL if SCORES[settings.score].sharing == "weighed" else {}
    if not settings.trials:
        return plan(usual)
    trials = Trials(judgement.teacher, speech, settings.seed)
    tried = 0

    def measure(weighting: Weighting) -> float:
        nonlocal tried
        progress("trying", tried / (1 + settings.trials))
        tried += 1
        return trials(plan(weighting))

    return plan(by_trial(measure, usual, numbers(groups, judgement.scores), settings.trials))


def judge(
    recognizer: Recognizer,
    groups: Groups,
    speech: Sequence[Sequence[Waveform]],
    settings: OneShot,
    progress: Stages,
) -> Judgement:
    """Score units, whatever the budget; the arguments are those of `prune_oneshot`."""
    score = SCORES[settings.score]
    heard = [wave for batch in speech for wave in batch]
    heard = first(heard, settings.score_minutes * 60 * recognizer.sample_rate, len)
    total = sum(map(len, heard)) / recognizer.sample_rate
    seconds = 0.0

    def scored(more: float) -> None:
        nonlocal seconds
        seconds += more
        progress("scoring", seconds / total)

    teacher = recognizer
    shares: dict[str, Tensor] = {}
    if score.rotates:
        progress("rotating", 0.0)
        teacher, shares = rotate_heads(recognizer, first(heard, ROTATE_SECONDS * recognizer.sample_rate, len))
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
    return Judgement(teacher, with_widths(groups, score(teacher.model, groups, statistics), shares))


def carry_out(
    plan: PruningPlan,
    teacher: Recognizer,
    speech: Sequence[Sequence[Waveform]],
    settings: OneShot,
    progress: Stages,
    *,
    sliced: PreTrainedModel | None = None,
) -> Recognizer:
    """Slice by a plan, and refit what is left.

    Args:
        plan: what stays.
        teacher: what is refitted towards.
        speech: as `prune_oneshot` takes it.
        settings: how much of it to refit on.
        progress: told about the work.
        sliced: what the plan left, if it is not what it leaves of the teacher; refitted in place.
    """
    progress("slicing", 0.0)
    student = slice_model(teacher.model, plan) if sliced is None else sliced
    if settings.reconstruct_minutes:
        wanted = settings.reconstruct_minutes * 60 * teacher.sample_rate
        with torch.no_grad():
            batches = [teacher.prepare(batch) for batch in first_batches(speech, wanted)]
        reconstruct(
            student,
            teacher.model,
            plan,
            batches,
            steps=settings.reconstruct_steps,
            seed=settings.seed,
            progress=lambda done: progress("refitting", done),
        )
    return teacher.with_model(student)


def with_widths(groups: Groups, scores: Scores, shares: Mapping[str, Tensor]) -> Scores:
    """Scores for the query/key widths of rotated heads too, where the score itself says nothing of them.

    Each dimension does the harm of losing all heads times its share in the energy of the logits, and `WIDTH_HARM`.
    """
    widths = {}
    for name, branch in groups.branches.items():
        heads, width = f"{name}.heads", f"{name}.query_key"
        if branch.path in shares and heads in scores and width in groups and width not in scores:
            harm = WIDTH_HARM * shares[branch.path] * scores[heads].rise.sum()
            widths[width] = Elimination.by_harm(harm)
    return {**scores, **widths}
