"""The verb: prune a recogniser to a budget, measure it before and after, keep the result in a folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secateur.errors import SecateurError
from secateur.evaluation.comparison import Comparison, compare
from secateur.evaluation.evaluate import evaluate
from secateur.evaluation.forward import time_forward
from secateur.evaluation.results import Evaluation
from secateur.models.precision import cast
from secateur.progress import ProgressBar
from secateur.pruning.distillation import check_teacher
from secateur.pruning.learning.learned import TRAINED
from secateur.pruning.learning.method import Decide, LearnedMethod
from secateur.pruning.learning.pace import Speech, in_time
from secateur.pruning.learning.pace import pace as measured_pace
from secateur.pruning.learning.strides import Stride, strides
from secateur.pruning.learning.validation import set_aside, validation
from secateur.pruning.oneshot import OneShot, prune_oneshot
from secateur.pruning.planning.allocation import check_possible
from secateur.pruning.planning.budget import Budget, format_amount
from secateur.pruning.report import learned_figures, made_report, write_beside
from secateur.pruning.settings import PruneSettings
from secateur.recognizer import Recognizer, load
from secateur.runs import Stopwatch, environment
from secateur.speech.batching import BATCH_SECONDS
from secateur.speech.corpus import Corpus, open_corpus
from secateur.speech.pool import SpeechPool
from secateur.speech.sampling import sample_batches, sample_pool
from secateur.speech.skips import SkipLog
from secateur.structure.checkpoint import check_free, save_pruned
from secateur.structure.cost import CostModel, mac_cost, parameter_cost
from secateur.structure.counting import weights_digest
from secateur.structure.groups import Groups
from secateur.structure.plan import PruningPlan
from secateur.training.phase import Log
from secateur.training.workspace import Workspace

ONE_BY_ONE = 1e-3
"""Seconds of a batch that no two utterances fit into."""

ROUNDS = 10
"""Forward passes of the unpruned and the pruned model, in turns, that are timed."""

UNTRAINED = ("learned.batch_seconds", "learned.precision", "learned.rate")
"""Settings that may be others when a run goes on, as long as it has not trained."""

UNREFITTED = ("oneshot.reconstruct_minutes", "oneshot.reconstruct_steps")
"""Those that may be others as long as it has neither trained nor refitted."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What came of a run.

    Attributes:
        recognizer: the pruned recogniser.
        plan: what was kept.
        report: figures before and after, ready for `json.dumps`.
    """

    recognizer: Recognizer
    plan: PruningPlan
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Given:
    """What a run would make by itself, where others with the same model and the same speech have made it.

    Attributes:
        pool: the speech of ``settings.data``, for a method that trains on all of it.
        before: how the unpruned recogniser hears ``settings.valid``.
        pace: says how fast the unpruned recogniser is, for a run by the clock.
        decide: does the phase ``start`` of the learned method.
    """

    pool: SpeechPool | None = None
    before: Evaluation | None = None
    pace: Callable[[Recognizer, Speech], float] = measured_pace
    decide: Decide | None = None


def prune(
    settings: PruneSettings,
    out: str | Path | None = None,
    *,
    recognizer: Recognizer | None = None,
    given: Given | None = None,
    skips: SkipLog | None = None,
    progress: ProgressBar | None = None,
    tell: Callable[[str], object] | None = None,
    log: Log | None = None,
) -> Pruned:
    """Prune a recogniser and write the result.

    What the learned method has done is kept in ``OUT.unfinished`` until the result is there, so that the same call goes on
    after it was stopped.

    >>> pruned = prune(PruneSettings("model.nemo", data="speech/", keep="params=50%,macs=50%"), out="smaller")
    >>> pruned.recognizer.transcribe("meeting.wav").text

    Args:
        settings: of the run.
        out: a new or empty folder, or one with an earlier result, which is replaced; None: nothing is written.
        recognizer: the recogniser that ``settings.model`` names, where it is loaded already.
        given: what other runs have made already.
        skips: collects what cannot be read of the speech that it is pruned on, and gives up past its limit.
        progress: told about the work as it goes.
        tell: called with a sentence for the user about what the progress bar does not show.
        log: given each row of the learned method's history as it comes, and the phase that it is of.

    Raises:
        SecateurError: something that is asked for is not there, not sound, or not possible. There is no result then, unless the sentence
            says so: what was pruned in one shot is written though it could not be measured.
    """
    if out is not None:
        check_free(Path(out))
    progress = progress or ProgressBar("pruning", quiet=True)
    skips = SkipLog() if skips is None else skips
    given = given or Given()
    clock = Stopwatch()
    budget = Budget.parse(settings.keep)
    data = open_corpus(settings.data)
    valid = None if settings.valid is None else open_corpus(settings.valid, limit=settings.valid_limit)
    with workspace_of(settings, out) as workspace:
        if workspace.resumes and tell is not None:
            tell(f"going on with the run in {workspace.folder}")
        with clock.time("load"):
            dense = recognizer or load(settings.model)
            groups = settings.scope.groups(dense.model)
            teacher = None if settings.teacher is None else _teacher(settings.teacher, dense)
            if teacher is not None:
                workspace.same("the teacher", lambda: weights_digest(teacher.model))
            costs = costs_of(budget, groups, dense, settings.audio_seconds)
            check_possible(groups, costs, budget, _may_go(settings, groups))
            learns = settings.method != "oneshot"
            way = strides(budget, costs, settings.learned, width=settings.scope.width) if learns else []
        before = None
        if valid is not None:
            # First, so that speech which cannot be scored is refused before the work.
            with clock.time("evaluate"):
                progress.begin("evaluating before")
                before = given.before or evaluate(dense, valid, progress=progress, tell=tell)
        task = _Task(settings, dense, groups, costs, budget, data, skips, progress, clock)
        if learns:
            plan, smaller, told = task.learn(way, workspace, valid, before, teacher, given, log, tell)
        else:
            plan, smaller, told = task.prune_oneshot()
        told |= {"environment": environment(dense.model)}

        def result(heard: Comparison | None, **measured: Any) -> Pruned:
            report = made_report(settings, budget, groups, plan, costs, heard)
            report |= told | measured | {"skipped": skips.skipped, "wall_seconds": clock.seconds}
            if out is not None:
                progress.begin("writing")
                save_pruned(
                    smaller.model,
                    plan,
                    out,
                    beside=lambda folder: write_beside(folder, smaller, settings, report),
                )
            return Pruned(smaller, plan, report)

        heard = None
        try:
            if valid is not None and before is not None:
                with clock.time("evaluate"):
                    progress.begin("evaluating after")
                    heard = compare(evaluate(smaller, valid, progress=progress), before)
            with clock.time("time"):
                progress.begin("timing")
                timings = time_forward(dense, smaller, seconds=settings.audio_seconds, rounds=ROUNDS)
        except BaseException as error:
            if out is None or settings.method != "oneshot":
                raise
            # There is nothing to go on from, and the model is worth more than its figures.
            result(heard)
            if not isinstance(error, (SecateurError, KeyboardInterrupt)):
                raise
            raise type(error)(
                f"{str(error) or 'stopped'}; the pruned model is in {out} all the same, without all of its figures"
            ) from None
        forward = {name: asdict(timings.of(name)) for name in ("before", "after")}
        forward["ratio"] = asdict(timings.ratio("after", "before"))
        return result(heard, forward={"seconds": settings.audio_seconds, **forward})


@dataclass(frozen=True)
class _Task:
    """What is to be pruned, to what, on what; each method returns the plan, the pruned recogniser, and what it has to report."""

    settings: PruneSettings
    dense: Recognizer
    groups: Groups
    costs: Mapping[str, CostModel]
    budget: Budget
    data: Corpus
    skips: SkipLog
    progress: ProgressBar
    clock: Stopwatch

    def prune_oneshot(self) -> tuple[PruningPlan, Recognizer, dict[str, Any]]:
        settings, rate = self.settings, self.dense.sample_rate
        with self.clock.time("read"):
            self.progress.begin("reading speech")
            minutes, batch_seconds = sampled(settings.oneshot, self.dense)
            sample = sample_batches(
                self.data, minutes, rate, batch_seconds, seed=settings.oneshot.seed, skips=self.skips
            )
        with self.clock.time("prune"):
            plan, smaller = prune_oneshot(
                _in_full(self.dense),
                self.groups,
                self.costs,
                self.budget,
                sample,
                settings.oneshot,
                self.progress.stage,
            )
            cast(smaller.model, self.dense.model.dtype)
        heard = sum(len(wave) for batch in sample for wave in batch) / rate
        return plan, smaller, {"audio_seconds": round(heard, 1)}

    def learn(
        self,
        way: Sequence[Stride],
        workspace: Workspace,
        valid: Corpus | None,
        before: Evaluation | None,
        teacher: Recognizer | None,
        given: Given,
        log: Log | None,
        tell: Callable[[str], object] | None,
    ) -> tuple[PruningPlan, Recognizer, dict[str, Any]]:
        settings = self.settings
        dense = _in_full(self.dense)
        with self.clock.time("read"):
            self.progress.begin("reading speech")
            everything = given.pool or SpeechPool.read(
                self.data,
                dense.sample_rate,
                skips=self.skips,
                progress=self.progress.advance,
            )
            workspace.same("the model", lambda: f"{weights_digest(dense.model)} in {dense.model.dtype}")
            workspace.same("the speech", lambda: everything.said)
            # Batches have other lengths on a CPU.
            workspace.same("the kind of device", lambda: dense.model.device.type)
            rest, held = set_aside(everything, valid, settings.learned, settings.oneshot.seed)
            if settings.learned.validates and valid is None and held is None:
                way = [replace(stride, learned=replace(stride.learned, validations=0)) for stride in way]
                if tell is not None:
                    tell(
                        f"{len(everything)} utterances are too few to set some aside, and none are transcribed to validate on: "
                        "what training ends with is kept"
                    )
            minutes, batch_seconds = sampled(settings.oneshot, dense)
            sample = sample_pool(rest, minutes, batch_seconds, seed=settings.oneshot.seed)
        # What is validated on: transcribed speech, which may have other lengths, or a part of this.
        lengths = np.array([row.seconds for row in before.rows]) if before else everything.seconds
        with self.clock.time("prune"):
            smaller, groups, costs = dense, self.groups, self.costs
            plan, runs = PruningPlan.keep(groups, {}), list[LearnedMethod]()
            fitted = [
                in_time(
                    settings.oneshot,
                    stride.learned,
                    # As it was found first: what is done was done on so much speech.
                    lambda: workspace.figure("pace", lambda: given.pace(dense, sample)),
                    float(lengths.mean()),
                    tell,
                )
                for stride in way
            ]
            if not any(learned.validates for _, learned in fitted):
                # What was set aside for it may be trained on after all.
                rest = everything
            for number, (stride, (oneshot, learned)) in enumerate(zip(way, fitted, strict=True), start=1):
                if tell is not None and len(way) > 1:
                    tell(f"stride {number} of {len(way)}, to {_figures(stride.budget)}")
                if held is not None and learned.validates:
                    self.progress.begin("hearing what is set aside")
                validate = validation(learned, valid, held, teacher or dense, settings.oneshot.seed)
                run = LearnedMethod(
                    smaller,
                    groups,
                    costs,
                    stride.budget,
                    rest,
                    sample,
                    oneshot,
                    replace(learned, minutes=stride.until),
                    workspace,
                    self.progress,
                    decide=None if runs else given.decide,
                    teacher=teacher or (dense if runs else None),
                    validate=validate,
                    log=log,
                    stride=stride.before,
                    spent=runs[-1].schedule.spent if runs else 0.0,
                    dense_costs={name: cost.dense for name, cost in self.costs.items()},
                )
                taken, smaller = run.run()
                plan = plan.then(taken, self.groups)
                runs.append(run)
                if stride.before:
                    groups = settings.scope.groups_left(smaller.model, plan, self.groups)
                    costs = costs_of(self.budget, groups, smaller, settings.audio_seconds)
            cast(smaller.model, self.dense.model.dtype)
        told = {
            "audio_seconds": round(float(everything.seconds.sum()), 1),
            "held_out": len(everything) - len(rest),
        }
        return plan, smaller, told | learned_figures(runs)


def _figures(budget: Budget) -> str:
    """A budget of absolute limits as a sentence has it."""
    return ", ".join(f"{name}={format_amount(name, limit.amount)}" for name, limit in budget.bounds.items())


def workspace_of(settings: PruneSettings, out: str | Path | None) -> Workspace:
    """Where a method that takes long keeps what it has done; the errors are those of `Workspace.of`."""
    if settings.method == "oneshot" or out is None:
        return Workspace(None)
    place = Workspace.place(Path(out))
    # Of the stride that is being made: those before it are done.
    now = ("", f"-{1 + len([*place.glob('recover-*[0-9].pt')])}")
    made = {path.name for path in place.glob("*.pt")}
    trained = any(
        f"{phase}{end}.pt" in made for phase in TRAINED for each in now for end in (each, f"{each}.so-far")
    )
    refitted = any(f"{stage}{each}.pt" in made for stage in ("approach", "reconstruct") for each in now)
    # What a GPU has no room for, and a training that came to nothing, must not cost what was done before.
    free = () if trained else UNTRAINED if refitted else UNTRAINED + UNREFITTED
    return Workspace.of(Path(out), settings.plain(), free=free)


def _may_go(settings: PruneSettings, groups: Groups) -> Collection[str]:
    """The groups that a plan may take from, at most."""
    phases = settings.learned.phases
    by_gates = settings.method == "learned" and "search" in phases and "start" not in phases
    return groups if by_gates else settings.oneshot.judged(groups)


def _in_full(recognizer: Recognizer) -> Recognizer:
    """The recogniser, or a copy in full precision of one whose weights are in half: small changes of them are lost in that."""
    if recognizer.model.dtype not in (torch.float16, torch.bfloat16):
        return recognizer
    full = recognizer.copy()
    cast(full.model, torch.float32)
    return full


def _teacher(model: str | Path, dense: Recognizer) -> Recognizer:
    """What is distilled from, where that is not what is pruned."""
    teacher = load(
        model, device=dense.model.device, dtype=torch.promote_types(dense.model.dtype, torch.float32)
    )
    check_teacher(teacher, dense)
    return teacher


def sampled(oneshot: OneShot, recognizer: Recognizer) -> tuple[float, float]:
    """Speech to score and refit on: its minutes, and the seconds of a batch."""
    minutes = max(oneshot.score_minutes, oneshot.reconstruct_minutes)
    return minutes, BATCH_SECONDS if recognizer.pads_cleanly else ONE_BY_ONE


def costs_of(budget: Budget, groups: Groups, dense: Recognizer, seconds: float) -> dict[str, CostModel]:
    """Parameters and multiply-accumulates, which are cheap to know, and latency where it is limited."""
    costs: dict[str, CostModel] = {
        "params": parameter_cost(groups),
        "macs": mac_cost(groups, dense.model, seconds),
    }
    if "latency" in budget.bounds:
        from secateur.structure.latency import latency_cost

        costs["latency"] = latency_cost(groups, dense.model, seconds)
    return costs
