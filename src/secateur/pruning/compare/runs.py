"""The verb: prune by every method to every budget, one run after the other, and measure what comes out."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from secateur.errors import NoResultError, SecateurError, reason
from secateur.evaluation.evaluate import evaluate
from secateur.evaluation.forward import time_forward
from secateur.evaluation.results import Evaluation
from secateur.progress import ProgressBar
from secateur.pruning.compare import outsider
from secateur.pruning.compare.record import RECORD, Comparison, Known, Row, write
from secateur.pruning.compare.scores import shared
from secateur.pruning.compare.settings import METHODS, CompareSettings, run_name
from secateur.pruning.learning.pace import Speech, pace
from secateur.pruning.prune import Given, prune, workspace_of
from secateur.pruning.settings import PruneSettings
from secateur.recognizer import Recognizer, load
from secateur.runs import environment
from secateur.speech.corpus import open_corpus
from secateur.speech.pool import SpeechPool
from secateur.speech.skips import SkipLog
from secateur.structure.checkpoint import check_free
from secateur.structure.counting import weights_digest
from secateur.timing import threads
from secateur.training.workspace import Workspace, differences, told

SCORED = "scores"
"""What the folder of scores is called, in that of the comparison."""


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
    recognizer = recognizer or load(settings.model)
    machine = environment(recognizer.model)
    weights = weights_digest(recognizer.model)
    known = Known.read(out / RECORD, settings, machine, weights)
    asked = [(method, budget) for budget in settings.budgets for method in settings.methods]
    runs = _runs(asked, known, out)
    for method, budget in runs:
        _refuse_others(out / run_name(method, budget), settings.run(method, budget))
    for speech in (settings.data, settings.valid, settings.test):
        if speech is not None:
            open_corpus(speech)
    same = _Shared(settings, recognizer, weights, SkipLog() if skips is None else skips, progress, tell)
    unpruned, rows, speed = known.unpruned, list[Row](), known.pace

    def comparison() -> Comparison:
        """As far as it has come."""
        known_rows = [*rows, *known.after(runs[len(rows) :])]
        return Comparison(settings.plain(), unpruned, known_rows, machine, weights, speed)

    def same_pace(recognizer: Recognizer, speech: Speech) -> float:
        """As it was measured first, so that all runs score, refit and validate on as much speech."""
        nonlocal speed
        if speed is None:
            speed = pace(recognizer, speech)
            write(comparison(), out / RECORD)
        return speed

    if not unpruned:
        # First, so that speech which cannot be scored is refused before the work.
        unpruned = {"valid": _figures(same.before.to_json())}
        if settings.test is not None:
            progress.begin("unpruned on test")
            heard = evaluate(
                same.recognizer, settings.test, limit=settings.limit, progress=progress, tell=tell
            )
            unpruned["test"] = _figures(heard.to_json())
        write(comparison(), out / RECORD)
    for number, (method, budget) in enumerate(runs, start=1):
        folder = out / run_name(method, budget)
        row = known.row(method, budget)
        if row is None or ((method, budget) in asked if row.error else not folder.is_dir()):
            if tell is not None:
                tell(f"{number} of {len(runs)}: {method}, {budget}")
            row = _row(method, budget, folder, settings, same, same_pace)
        rows.append(row)
        write(comparison(), out / RECORD)
    return comparison()


class _Shared:
    """What is the same for all runs, made when it is first needed."""

    def __init__(
        self,
        settings: CompareSettings,
        recognizer: Recognizer,
        weights: str,
        skips: SkipLog,
        progress: ProgressBar,
        tell: Callable[[str], object] | None,
    ) -> None:
        self.settings, self.recognizer, self.weights = settings, recognizer, weights
        # So that what cannot be pruned, or kept whole, is refused before the work.
        settings.scope.groups(recognizer.model)
        self.skips, self.progress, self.tell = skips, progress, tell

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
    there = [run for run in (*_done(out), *known.failed) if run[0] in METHODS]
    budgets = list(dict.fromkeys(budget for _, budget in [*asked, *there]))
    return sorted({*asked, *there}, key=lambda run: (budgets.index(run[1]), METHODS.index(run[0])))


def _done(out: Path) -> Iterator[tuple[str, str]]:
    """Methods and budgets of the runs whose results are there."""
    for file in sorted(out.glob("*/run.yaml")):
        method = file.parent.name.partition("_")[0]
        if method in METHODS:
            budget = PruneSettings.from_yaml(file).keep
            if run_name(method, budget) == file.parent.name:
                yield method, budget


def _refuse_others(folder: Path, settings: PruneSettings) -> None:
    """Refuse a folder that holds anything but this run, finished or not."""
    if Workspace.place(folder).exists():
        # Refuses by itself.
        workspace_of(settings, folder).release()
    run = folder / "run.yaml"
    if not run.is_file():
        check_free(folder)
        return
    others = list(differences(PruneSettings.from_yaml(run).plain(), settings.plain()))
    if others:
        raise SecateurError(
            f"{folder} holds a run with other settings ({told(others)}): give the same ones, or another folder"
        )


def _row(
    method: str,
    budget: str,
    folder: Path,
    settings: CompareSettings,
    same: _Shared,
    pace: Callable[[Recognizer, Speech], float],
) -> Row:
    """Prune, where that is not done yet, and measure."""
    if not (folder / "run.yaml").is_file():
        # What fails here fails for all, so it is no row's error.
        dense, pool, before = same.recognizer, same.pool, same.before
        about = {"dtype": str(dense.model.dtype), "weights": same.weights, "speech": pool.said} | {
            name: settings.plain()[name] for name in ("model", "data", "scope")
        }
        try:
            prune(
                settings.run(method, budget),
                folder,
                recognizer=dense,
                given=Given(
                    pool,
                    before,
                    pace,
                    outsider.decide if method == outsider.NAME else shared(folder.parent / SCORED, about),
                ),
                skips=same.skips,
                progress=same.progress,
                tell=same.tell,
            )
        except NoResultError as error:
            return Row(method, budget, error=str(error))
        finally:
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
        test = _figures(heard.to_json())
    same.progress.begin("timing")
    return Row(
        method,
        budget,
        kept={name: report["kept"][name] for name in ("params", "macs_per_second")},
        valid=_figures(report["after"]),
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


def _figures(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Of an evaluation as JSON has it."""
    return {name: value for name, value in evaluation.items() if name != "worst"}
