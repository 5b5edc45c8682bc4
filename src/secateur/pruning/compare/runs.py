"""The verb: prune by every method to every budget, one run after the other, and measure what comes out."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from secateur.errors import NoResultError, SecateurError, reason
from secateur.evaluation.evaluate import evaluate
from secateur.evaluation.forward import time_forward
from secateur.evaluation.results import Evaluation
from secateur.evaluation.timing import threads
from secateur.progress import ProgressBar
from secateur.pruning.budget import Budget
from secateur.pruning.compare import outsider
from secateur.pruning.compare.record import RECORD, Comparison, Known, Row, write
from secateur.pruning.compare.scores import Judge
from secateur.pruning.compare.settings import METHODS, CompareSettings, run_name
from secateur.pruning.learned import Learned
from secateur.pruning.oneshot import OneShot
from secateur.pruning.pace import in_time
from secateur.pruning.prune import costs_of, prune, sampled
from secateur.pruning.settings import PruneSettings
from secateur.recognizer import Recognizer, load
from secateur.runs import environment
from secateur.speech.corpus import open_corpus
from secateur.speech.pool import SpeechPool
from secateur.speech.sampling import sample_pool
from secateur.speech.skips import SkipLog
from secateur.structure.checkpoint import check_free
from secateur.structure.cost import CostModel
from secateur.structure.groups import Groups, find_groups
from secateur.training.workspace import Workspace, differences

SCORED = "scores"
"""What the folder of scores is called, in that of the comparison."""

START = "start"
"""The phase of a run that scores decide, as the run's workspace calls it."""


def compare(
    settings: CompareSettings,
    out: str | Path,
    *,
    recognizer: Recognizer | None = None,
    skips: SkipLog | None = None,
    progress: ProgressBar | None = None,
    tell: Callable[[str], object] | None = None,
) -> Comparison:
    """Prune by every method to every budget, and measure what comes out.

    ``out`` gets a folder for each run, as `prune` writes it, `RECORD`, which is written anew after each, and what scores
    came to, which runs share. A run that is there is not done again, one that was stopped goes on where it was, and what an earlier call with the same
    settings but for methods and budgets left there is part of the comparison. A method that cannot meet a budget, or whose training
    comes to nothing, gets a row that says why, and is tried again when it is asked for again.

    >>> compare(CompareSettings("model.nemo", "speech/", "valid/", ("50%",), ("wanda", "obs")), "arena").rows

    Args:
        settings: of the comparison.
        out: a folder.
        recognizer: the recogniser that ``settings.model`` names, where it is loaded already.
        skips: collects what cannot be read of the speech that is pruned on, and gives up past its limit.
        progress: told about the work as it goes.
        tell: told which run has begun, in a sentence.

    Raises:
        SecateurError: what all runs need is not there or not sound, or ``out`` holds runs with other settings.
    """
    out = Path(out)
    progress = progress or ProgressBar("comparing", quiet=True)
    device = "cpu" if recognizer is None else str(recognizer.model.device)
    machine = environment() | {"device": device}
    known = Known.read(out / RECORD, settings, device)
    asked = [(method, budget) for budget in settings.budgets for method in settings.methods]
    runs = _runs(asked, known, out)
    for method, budget in runs:
        _refuse_others(out / run_name(method, budget), settings.run(method, budget))
    for speech in (settings.data, settings.valid, settings.test):
        if speech is not None:
            open_corpus(speech)
    same = _Shared(settings, recognizer, out / SCORED, SkipLog() if skips is None else skips, progress, tell)
    unpruned, rows = known.unpruned, []
    if not unpruned:
        # First, so that speech which cannot be scored is refused before the work.
        unpruned = {"valid": _figures(same.before)}
        if settings.test is not None:
            progress.begin("unpruned on test")
            unpruned["test"] = _figures(
                evaluate(same.recognizer, settings.test, limit=settings.limit, progress=progress, tell=tell)
            )
        write(Comparison(settings.plain(), unpruned, known.after(runs), machine), out / RECORD)
    for number, (method, budget) in enumerate(runs, start=1):
        folder = out / run_name(method, budget)
        row = known.row(method, budget)
        if row is None or ((method, budget) in asked if row.error else not folder.is_dir()):
            if tell is not None:
                tell(f"{number} of {len(runs)}: {method}, {budget}")
            row = _row(method, budget, folder, settings, same, tell)
        rows.append(row)
        write(
            Comparison(settings.plain(), unpruned, [*rows, *known.after(runs[number:])], machine),
            out / RECORD,
        )
    return Comparison(settings.plain(), unpruned, rows, machine)


class _Shared:
    """What is the same for all runs, made when it is first needed."""

    def __init__(
        self,
        settings: CompareSettings,
        recognizer: Recognizer | None,
        scored: Path,
        skips: SkipLog,
        progress: ProgressBar,
        tell: Callable[[str], object] | None,
    ) -> None:
        self.settings, self.given, self.scored = settings, recognizer, scored
        self.skips, self.progress, self.tell = skips, progress, tell

    @cached_property
    def recognizer(self) -> Recognizer:
        recognizer = self.given or load(self.settings.model)
        # So that a model which cannot be pruned is refused before the work.
        find_groups(recognizer.model)
        return recognizer

    @cached_property
    def groups(self) -> Groups:
        return self.settings.scope.groups(self.recognizer.model)

    def costs(self, budget: str) -> dict[str, CostModel]:
        """The costs that a budget limits, and those that are cheap to know."""
        return costs_of(Budget.parse(budget), self.groups, self.recognizer, self.settings.audio_seconds)

    @cached_property
    def pool(self) -> SpeechPool:
        self.progress.begin("reading speech")
        return SpeechPool.read(
            open_corpus(self.settings.data),
            self.recognizer.sample_rate,
            skips=self.skips,
            progress=self.progress.advance,
        )

    @cached_property
    def judge(self) -> Judge:
        """What the scores say, of the speech that each run by itself would draw."""
        oneshot = self.settings.oneshot
        minutes, batch_seconds = sampled(oneshot, self.recognizer)
        sample = sample_pool(self.pool, minutes, batch_seconds, seed=oneshot.seed)
        return Judge(self.recognizer, self.groups, sample, self.scored, self.progress.stage)

    def in_time(self, run: PruneSettings) -> PruneSettings:
        """A run's settings with as much speech to score, refit and validate on as leaves time to train: the same for all."""
        oneshot, learned = self._within
        return run.changed(
            {
                "oneshot.score_minutes": oneshot.score_minutes,
                "oneshot.reconstruct_minutes": oneshot.reconstruct_minutes,
                "learned.valid_utterances": learned.valid_utterances,
            }
        )

    @cached_property
    def _within(self) -> tuple[OneShot, Learned]:
        settings, seconds = self.settings, float(self.pool.seconds.mean())
        return in_time(
            settings.oneshot, settings.learned, self.recognizer, self.judge.speech, seconds, self.tell
        )

    @cached_property
    def before(self) -> Evaluation:
        self.progress.begin("unpruned on valid")
        return evaluate(
            self.recognizer,
            self.settings.valid,
            limit=self.settings.limit,
            progress=self.progress,
            tell=self.tell,
        )


def _runs(asked: Sequence[tuple[str, str]], known: Known, out: Path) -> list[tuple[str, str]]:
    """Methods and budgets, those that are there already included."""
    done = [run for run in known.runs if (out / run_name(*run)).is_dir()]
    there = [run for run in (*done, *known.failed) if run[0] in METHODS]
    budgets = list(dict.fromkeys(budget for _, budget in [*asked, *there]))
    return sorted({*asked, *there}, key=lambda run: (budgets.index(run[1]), METHODS.index(run[0])))


def _refuse_others(folder: Path, settings: PruneSettings) -> None:
    """Refuse a folder that holds anything but this run, finished or not."""
    if Workspace.place(folder).exists():
        # Refuses by itself.
        Workspace.of(folder, settings.plain())
    run = folder / "run.yaml"
    if not run.is_file():
        check_free(folder)
        return
    others = list(differences(PruneSettings.from_yaml(run).plain(), settings.plain()))
    if others:
        raise SecateurError(
            f"{folder} holds a run with other settings ({'; '.join(others)}): give the same ones, or another folder"
        )


def _begin(method: str, run: PruneSettings, folder: Path, same: _Shared) -> bool:
    """Do the first phase of a run, by what runs share; whether it was done in an earlier call."""
    if (Workspace.place(folder) / f"{START}.pt").exists():
        return True
    costs = same.costs(run.keep)
    if method == outsider.NAME:
        begun = outsider.start(
            same.recognizer, same.groups, costs, Budget.parse(run.keep), audio_seconds=run.audio_seconds
        )
    else:
        begun = same.judge.start(same.in_time(run), costs)
    Workspace.of(folder, run.plain()).stage(START, lambda: begun)
    return False


def _row(
    method: str,
    budget: str,
    folder: Path,
    settings: CompareSettings,
    same: _Shared,
    tell: Callable[[str], object] | None,
) -> Row:
    """Prune, where that is not done yet, and measure."""
    if not (folder / "run.yaml").is_file():
        # What fails here fails for all, so it is no row's error.
        dense, pool, before = same.recognizer, same.pool, same.before
        run = settings.run(method, budget)
        try:
            goes_on = _begin(method, run, folder, same)
            prune(
                run,
                folder,
                recognizer=dense,
                pool=pool,
                before=before,
                skips=same.skips,
                progress=same.progress,
                tell=tell if goes_on else None,
                within=same.in_time(run),
            )
        except NoResultError as error:
            return Row(method, budget, error=str(error))
        # Teacher, student and moments of a run refer to each other.
        gc.collect()
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SecateurError(
            f"{folder}/report.json cannot be read: {reason(error)}; delete the folder, and the run is made anew"
        ) from None
    dense = same.recognizer
    pruned = load(folder, device=str(dense.model.device), dtype=dense.model.dtype)
    test = None
    if settings.test is not None:
        same.progress.begin(f"{method} on test")
        heard = evaluate(pruned, settings.test, limit=settings.limit, progress=same.progress)
        heard.write_jsonl(folder / "test.jsonl")
        test = _figures(heard)
    same.progress.begin("timing")
    return Row(
        method,
        budget,
        kept={name: report["kept"][name] for name in ("params", "macs_per_second")},
        valid={name: value for name, value in report["after"].items() if name != "worst"},
        test=test,
        difference=report["comparison"],
        time=_time(dense, pruned, settings),
        steps={phase: int(rows[-1]["step"]) for phase, rows in report["history"].items() if rows},
        seconds=report["wall_seconds"] | report["phase_seconds"],
    )


def _time(dense: Recognizer, pruned: Recognizer, settings: CompareSettings) -> dict[str, float]:
    """How long the pruned model takes for each second of the unpruned one."""
    with threads(1):
        timings = time_forward(dense, pruned, seconds=settings.audio_seconds, rounds=settings.rounds)
    return asdict(timings.ratio("after", "before"))


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    return {name: value for name, value in evaluation.to_json().items() if name != "worst"}
