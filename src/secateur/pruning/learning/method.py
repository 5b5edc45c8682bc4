"""The learned method: L0 gates under a hard budget, with layerwise distillation from the unpruned model.

Its phases, of which all but slicing can be left out, and ``start`` only beside a search:

    start        scores say which units can be spared, and so how plans go on the way down to the budget
    search       weights, gates and the budget's multipliers learn together, from half way on
    slice        the gates, or else the scores, become a plan that meets the budget exactly, and it is carried out
    reconstruct  what the plan leaves is refitted, layer by layer
    recover      the sliced model is distilled on

A search begins with what is left half way refitted, lightly; without a start it begins with open gates and the unpruned model.

Louizos et al. 2018 (arXiv 1712.01312) for the gates, Jiang et al. 2023 (arXiv 2305.19549) for all of it on speech.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.errors import NoResultError
from secateur.progress import ProgressBar
from secateur.pruning.distillation import Distiller, transcript_tokens
from secateur.pruning.learning.constraint import Constraints
from secateur.pruning.learning.gates import Gates
from secateur.pruning.learning.learned import Learned
from secateur.pruning.learning.mixing import PARTS, mix
from secateur.pruning.learning.objectives import Recovery, Search
from secateur.pruning.learning.rounding import round_to_plan
from secateur.pruning.learning.schedule import Schedule
from secateur.pruning.learning.start import BEGINS, RUNGS, SLOPE, opening, unslice
from secateur.pruning.oneshot import Decision, Judgement, OneShot, carry_out, decide, share_out
from secateur.pruning.planning.budget import Budget
from secateur.recognizer import Recognizer
from secateur.speech.audio import Waveform
from secateur.speech.augmentation import Augmentation
from secateur.speech.pool import SpeechPool
from secateur.structure.cost import CostModel
from secateur.structure.groups import Groups
from secateur.structure.masking import masked
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model
from secateur.timing import threads as using_threads
from secateur.training.feed import Batch, Feed
from secateur.training.phase import Log, run_phase
from secateur.training.precision import Working, lower, working_type
from secateur.training.trainer import Loop
from secateur.training.workspace import Workspace

TEACHING = 0.34
"""Share of a CPU's threads in which the teacher hears the next batches while the student learns from one."""

OTHER = 1 << 32
"""Between the seeds of two strides: more than any seed that is given."""

AVERAGE = 0.99
"""Part of the moving average of the weights that stays at a step of recovery."""


Decide = Callable[["LearnedMethod"], Decision]
"""What does the phase ``start`` of a run, which it is given: says what units are worth, and which of them stay."""


def by_scores(run: LearnedMethod) -> Decision:
    """The decision of a run by itself: scores, and the plan that they lead to."""
    return decide(
        run.recognizer, run.groups, run.costs, run.budget, run.speech, run.oneshot, run.progress.stage
    )


class LearnedMethod:
    """One run of the method.

    Args:
        recognizer: the unpruned recogniser, which stays as it is.
        groups: its groups that may be pruned.
        costs: its costs; at least those that the budget limits.
        budget: what must hold.
        pool: speech to train on.
        speech: speech to score and refit on, in batches, in an order that is as good as random.
        oneshot: settings of scores and reconstruction.
        settings: of the method, with a rate.
        workspace: keeps what is done.
        progress: told about the work as it goes.
        decide: does the phase ``start``.
        teacher: what search and recovery distil from; None: the unpruned recogniser.
        validate: word error rate of a recogniser; None: nothing is validated.
        log: given each row of the history as it comes, and the phase that it is of.
        stride: which the run is of several, from 1, where another follows; 0: none does.
        spent: seconds of ``settings.minutes`` that others have taken.
        dense_costs: of the model that the first stride began with, by name; None: it is this one.

    Attributes:
        suffix: what the names of its phases end with in the workspace and in logs; nothing where no other stride follows.
        history: by phase, figures of its steps.
        rate: peak learning rate that the weights have, or had when they were trained.
        schedule: has the seconds that each stage took.
        minutes_heard: of speech, by the stage that scored or refitted on them, at most: where there are not as many, on all there are.
        parts: of the way from the refitted weights to the recovered ones, with the error rate there; the result is where that is
            least. Nothing where there was no recovery, or no validation.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        groups: Groups,
        costs: Mapping[str, CostModel],
        budget: Budget,
        pool: SpeechPool,
        speech: Sequence[Sequence[Waveform]],
        oneshot: OneShot,
        settings: Learned,
        workspace: Workspace,
        progress: ProgressBar,
        *,
        decide: Decide | None = None,
        teacher: Recognizer | None = None,
        validate: Callable[[Recognizer], float] | None = None,
        log: Log | None = None,
        stride: int = 0,
        spent: float = 0.0,
        dense_costs: Mapping[str, float] | None = None,
    ) -> None:
        self.recognizer, self.groups, self.costs, self.budget = recognizer, groups, costs, budget
        self.pool, self.speech, self.oneshot, self.settings = pool, speech, oneshot, settings
        self.workspace, self.progress, self.validate = workspace, progress, validate
        self.decide, self.teacher, self.log = decide or by_scores, teacher, log
        self.suffix = f"-{stride}" if stride else ""
        # Each stride hears other batches.
        self.seed = oneshot.seed + stride * OTHER
        self.schedule = Schedule(settings, workspace, self.suffix)
        self.schedule.found(spent)
        self.history: dict[str, list[dict[str, float]]] = {}
        self.parts: dict[float, float] = {}
        self.minutes_heard: dict[str, float] = {}
        limits = budget.limits(costs)
        self.limited = list(limits)
        self.dtype = working_type(settings.precision, recognizer.model)
        self.targets = [limit / costs[name].dense for name, limit in limits.items()]
        self.dense_costs = dense_costs or {name: cost.dense for name, cost in costs.items()}
        assert settings.rate is not None
        self.rate = settings.rate

    def run(self) -> tuple[PruningPlan, Recognizer]:
        """Go through the phases, or through those that are left.

        Returns:
            The plan, and the pruned recogniser.
        """
        phases = self.settings.phases
        decision = self._start()
        plan, teacher = decision.plan, decision.judgement.teacher
        searched = None
        if "search" in phases:
            plan, searched = self._search(decision)
        student = self._reconstruct(plan, teacher, searched)
        if "recover" in phases:
            self._recover(plan, teacher, student)
        return plan, student

    @property
    def _plans_first(self) -> bool:
        """Whether scores make a plan before anything is trained."""
        return "start" in self.settings.phases or "search" not in self.settings.phases

    def _start(self) -> Decision:
        """Scores and the plan that they lead to. Without them, gates begin open."""
        if not self._plans_first:
            return Decision(Judgement(self.recognizer, {}), PruningPlan.keep(self.groups, {}))

        made = self.schedule.stage("start", lambda: self.decide(self).state(self.recognizer))
        decision = Decision.of(made, self.recognizer, self.groups)
        self.minutes_heard["start"] = decision.minutes
        return decision

    def _search(self, decision: Decision) -> tuple[PruningPlan, PreTrainedModel]:
        """The plan, and what it leaves of the weights that were learned with it."""
        teacher = decision.judgement.teacher
        begins = BEGINS if self._plans_first else 0.0
        student = self._approach(decision, begins) if begins else teacher.copy()

        def make() -> dict[str, Any]:
            gates = self._gates(decision).to(student.model.device)
            costs = {name: self.costs[name] for name in self.limited}
            working = Working(student.model, self.dtype)
            distiller = Distiller(self._at_work(self.teacher or teacher), student, self.settings.distillation)
            objective = Search(
                distiller,
                self._labels(),
                working,
                gates,
                costs,
                Constraints(self.targets),
                self.seed,
                self.dense_costs,
                begins,
            )
            parameters = [
                {"params": working.parameters(), "lr": self.rate},
                *gates.parameter_groups(self.settings.gate_rate),
            ]

            def rounded() -> PruningPlan:
                return round_to_plan(gates.log_alpha(), self.groups, self.costs, self.budget)

            def validate() -> float:
                """What would come out now; the masks stay where they are."""
                assert self.validate is not None
                unmasked = teacher.copy()
                unmasked.model.load_state_dict(working.state())
                return self.validate(self._sliced(rounded(), unmasked))

            # A budget that these gates cannot meet is refused before the search.
            rounded()
            with masked(student.model, self.groups, objective.masks):
                self._train("search", objective, parameters, validate)
            working.restore()
            plan = rounded()
            return {
                "model": slice_model(student.model, plan).state_dict(),
                "plan": plan.to_json(),
                "history": self.history["search"],
            }

        made = self.schedule.stage("search", make)
        self.history["search"] = made["history"]
        plan = PruningPlan.from_json(made["plan"]).resolved(self.groups)
        return plan, self._sliced(plan, teacher, made).model

    def _plan_at(self, decision: Decision, way: float) -> PruningPlan:
        """What the scores leave at a part of the way down to the budget, or beyond it."""
        if way == 1.0:
            return decision.plan
        budget = self.budget.part_way(self.costs, way)
        settings = replace(self.oneshot, trials=0)
        plan = share_out(
            decision.judgement, self.groups, self.costs, budget, self.speech, settings, self.progress.stage
        )
        return plan.resolved(self.groups)

    def _approach(self, decision: Decision, way: float) -> Recognizer:
        """The unpruned recogniser with what is left at a part of the way refitted; in closed form alone, as it is trained on."""
        teacher, plan = decision.judgement.teacher, self._plan_at(decision, way)
        whole = teacher.copy()

        def make() -> dict[str, Any]:
            minutes = min(self.oneshot.score_minutes, self.oneshot.reconstruct_minutes)
            oneshot = replace(self.oneshot, reconstruct_minutes=minutes, reconstruct_steps=0)
            refitted = carry_out(plan, teacher, self.speech, oneshot, self.progress.stage)
            return {"model": refitted.model.state_dict()}

        if "reconstruct" in self.settings.phases:
            made = self.schedule.stage("approach", make)
            unslice(whole.model, self._sliced(plan, teacher, made).model, self.groups, plan)
        return whole

    def _gates(self, decision: Decision) -> Gates:
        """Those of a search, where the scores have them or open."""
        gated = self._gated(decision)
        if not self._plans_first:
            return Gates(self.groups, gated)
        plans = {}
        for rung in RUNGS:
            try:
                plans[rung] = self._plan_at(decision, rung)
            except NoResultError:
                # Nothing is so small.
                break
        begin = opening(self.groups, decision.judgement.scores, plans, gated)
        return Gates(self.groups, gated, log_alpha=begin, slope=SLOPE)

    def _gated(self, decision: Decision) -> list[str]:
        """Groups that the search may take from."""
        coarse = self.groups.layers.keys() | self.groups.branches.keys()
        # A module that scores took away must be able to stay away; none else needs a gate of its own.
        gone = decision.plan.gone & decision.judgement.scores.keys()
        return [
            name
            for name, group in self.groups.items()
            if len(group.counts()) > 1 and (self.settings.coarse or name not in coarse or name in gone)
        ]

    def _reconstruct(
        self, plan: PruningPlan, teacher: Recognizer, sliced: PreTrainedModel | None = None
    ) -> Recognizer:
        """What the plan leaves, of the teacher or as it is given, refitted towards the teacher if there is that phase."""

        def make() -> dict[str, Any]:
            refit = "reconstruct" in self.settings.phases
            oneshot = self.oneshot if refit else replace(self.oneshot, reconstruct_minutes=0)
            student = carry_out(plan, teacher, self.speech, oneshot, self.progress.stage, sliced=sliced)
            return {"model": student.model.state_dict(), "minutes": oneshot.reconstruct_minutes}

        made = self.schedule.stage("reconstruct", make)
        self.minutes_heard["reconstruct"] = made["minutes"]
        return self._sliced(plan, teacher, made)

    def _recover(self, plan: PruningPlan, teacher: Recognizer, student: Recognizer) -> None:
        """Distil what is pruned, in place."""

        def make() -> dict[str, Any]:
            began = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
            working = Working(student.model, self.dtype)
            distiller = Distiller(
                self._at_work(self.teacher or teacher),
                student,
                self.settings.distillation,
                plan.kept.get("width"),
            )
            objective = Recovery(distiller, self._labels(), working)
            parameters = [{"params": working.parameters(), "lr": self.rate}]

            def validate() -> float:
                assert self.validate is not None
                return self.validate(student)

            self._train("recover", objective, parameters, validate)
            working.restore()
            parts = {} if self.validate is None else mix(began, student.model, validate)
            return {
                "model": student.model.state_dict(),
                "history": self.history["recover"],
                "parts": parts,
                "rate": self.rate,
            }

        made = self.schedule.stage("recover", make)
        self.parts = made["parts"]
        # It may be another one now.
        self.rate = made["rate"]
        self.history["recover"] = made["history"]
        student.model.load_state_dict(made["model"])

    def _train(
        self,
        phase: str,
        objective: Recovery,
        parameters: list[dict[str, Any]],
        validate: Callable[[], float],
    ) -> None:
        settings, recovers = self.settings, phase == "recover"
        last = recovers or "recover" not in settings.phases
        threads = torch.get_num_threads()
        # Small layers leave more threads idle than teacher and student do, side by side.
        ahead = round(TEACHING * threads) if self.recognizer.model.device.type == "cpu" else 0

        def validate_alone() -> float:
            with using_threads(threads):
                return validate()

        with using_threads(threads - ahead):
            done = run_phase(
                phase + self.suffix,
                objective,
                parameters,
                # The budget is met at the end of the search only, so that what came before tells nothing of it.
                Loop(
                    self.schedule.length(phase),
                    # Recovery begins by measuring what the search has come to.
                    validations=settings.validations if last else 0,
                    keeps_best=recovers,
                    validations_after=len(PARTS) if recovers else 0,
                    decays=last,
                    averages=AVERAGE if recovers else 0.0,
                ),
                partial(
                    Feed,
                    self.recognizer,
                    self.pool,
                    batch_seconds=settings.batch_seconds,
                    augmentation=Augmentation.of(settings.augment),
                    # Recovery hears other batches first than the search did.
                    seed=2 * self.seed + recovers,
                    teach=objective.distiller.teach if ahead else None,
                    threads=ahead or None,
                ),
                self.workspace,
                self.progress,
                validate=None if self.validate is None else validate_alone,
                log=self.log,
            )
        # The time that earlier runs took for the phase.
        self.schedule.found(done.before)
        self.history[phase] = done.history

    def _sliced(
        self, plan: PruningPlan, recognizer: Recognizer, made: Mapping[str, Any] | None = None
    ) -> Recognizer:
        """A recogniser of the sliced shape, with the weights that a stage made, where they are given."""
        model = slice_model(recognizer.model, plan)
        if made is not None:
            model.load_state_dict(made["model"])
        return recognizer.with_model(model)

    def _at_work(self, recognizer: Recognizer) -> Recognizer:
        """A copy of the recogniser in the precision that training computes in."""
        copied = recognizer.copy()
        if self.dtype is not None:
            lower(copied.model, self.dtype)
        return copied

    def _labels(self) -> Callable[[Batch], list[Tensor | None]] | None:
        """Token ids of transcripts, where the loss has a use for them."""
        if not (self.settings.distillation.task and self.settings.transcripts):
            return None
        tokenizer = self.recognizer.tokenizer

        def labels(batch: Batch) -> list[Tensor | None]:
            return [None if text is None else transcript_tokens(tokenizer, text) for text in batch.texts]

        return labels
