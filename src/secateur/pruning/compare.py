"""The comparison: every method with the same speech, time, budgets, refitting and recovery, measured alike."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secateur.errors import SecateurError, reason
from secateur.evaluation.evaluate import evaluate
from secateur.evaluation.results import Evaluation
from secateur.evaluation.timing import interleave, threads
from secateur.files import whole
from secateur.progress import ProgressBar
from secateur.pruning.budget import Budget
from secateur.pruning.learned import PHASES, Learned
from secateur.pruning.oneshot import OneShot
from secateur.pruning.prune import prune
from secateur.pruning.scores import SCORES
from secateur.pruning.settings import PruneSettings
from secateur.recognizer import Recognizer, load
from secateur.runs import environment, plain
from secateur.speech.corpus import open_corpus
from secateur.speech.pool import SpeechPool
from secateur.speech.skips import SkipLog
from secateur.structure.checkpoint import check_free
from secateur.structure.groups import find_groups
from secateur.training.workspace import Workspace, differences

LEARNED, SCRATCH = "learned", "scratch"

METHODS = (LEARNED, *SCORES, SCRATCH)
"""What can be compared: the learned method with all its phases; each score, whose plan is refitted and recovered; and the
same fraction of every group, with units drawn at random and nothing refitted, recovered: a narrower model, trained anew."""

ALL = "all"

RECORD = "compare.json"
"""What the record of a comparison is called, in its folder."""

_MEASURED = ("model", "valid", "test", "limit", "audio_seconds", "rounds")
"""Settings that figures depend on beyond the run."""


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """Everything that decides a comparison.

    Attributes:
        model: what is pruned.
        data: speech that it is pruned on; transcripts are not needed.
        valid: transcribed speech that runs choose among their checkpoints by, and are measured on.
        budgets: as `read_budgets` reads them.
        methods: which of `METHODS`, or `ALL`.
        test: transcribed speech that what came out is measured on, and nothing else is done with; None: it is not.
        limit: take the first so many utterances of ``valid`` and ``test``; None: all.
        oneshot: how much speech to score and refit on, and the seed; methods choose the score.
        learned: length of every run, and how everything is trained; each method has the phases that it has.
        audio_seconds: length of the utterance that multiply-accumulates and time are for.
        multiple_of: hold the numbers of units to multiples of this.
        min_heads: heads that every attention module keeps.
        width: offer the residual width too.
        rounds: forward passes of the unpruned and the pruned model, in turns, that are timed.

    Raises:
        SecateurError: a method or a budget makes no sense, or there is none.
    """

    model: str | Path
    data: str | Path
    valid: str | Path
    budgets: tuple[str, ...]
    methods: tuple[str, ...] = (ALL,)
    test: str | Path | None = None
    limit: int | None = None
    oneshot: OneShot = field(default_factory=OneShot)
    learned: Learned = field(default_factory=Learned)
    audio_seconds: float = 10.0
    multiple_of: int = 1
    min_heads: int = 0
    width: bool = False
    rounds: int = 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "budgets", read_budgets(self.budgets))
        object.__setattr__(self, "methods", _read_methods(self.methods))

    def run(self, method: str, budget: str) -> PruneSettings:
        """The settings of one run."""
        score, left_out = method, {"search"}
        if method == LEARNED:
            score, left_out = self.oneshot.score, set()
        elif method == SCRATCH:
            score, left_out = "random", {"search", "reconstruct"}
        phases = tuple(phase for phase in PHASES if phase not in left_out)
        return PruneSettings(
            self.model,
            self.data,
            budget,
            valid=self.valid,
            valid_limit=self.limit,
            oneshot=replace(self.oneshot, score=score),
            learned=replace(self.learned, phases=phases),
            audio_seconds=self.audio_seconds,
            multiple_of=self.multiple_of,
            min_heads=self.min_heads,
            width=self.width,
        )

    def plain(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        return plain(self)


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one method at one budget.

    Attributes:
        method: one of `METHODS`.
        budget: that was asked for.
        error: why there is no result; None where there is one, and then all that follows is given.
        kept: fractions of parameters and multiply-accumulates that are left.
        valid: figures on ``valid``, as `Evaluation.to_json` has them but for the worst utterances.
        test: the same on ``test``, where there is one.
        difference: the change of the word error rate on ``valid``, and whether it is more than chance.
        time: of a forward pass, for each second that the unpruned model takes: median and quartiles over rounds in which
            both took turns, in one thread, on one utterance of noise.
        steps: of gradient, by phase.
        seconds: wall-clock time by stage and by phase. Those of stages are of the process that ended the run, and of them
            ``prune`` is all phases; those of phases are of whichever process, and of them ``refit`` is a part of ``search``.
    """

    method: str
    budget: str
    error: str | None = None
    kept: Mapping[str, float] = field(default_factory=dict)
    valid: Mapping[str, Any] | None = None
    test: Mapping[str, Any] | None = None
    difference: Mapping[str, Any] | None = None
    time: Mapping[str, float] | None = None
    steps: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the folder of the run is called: ``wanda_params50_macs50``."""
        return run_name(self.method, self.budget)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of all methods at all budgets.

    Attributes:
        settings: as JSON has them.
        unpruned: figures of the unpruned model: on ``valid`` and, where there is one, on ``test``.
        rows: by budget, and then by method.
        environment: versions and the machine.
    """

    settings: Mapping[str, Any]
    unpruned: Mapping[str, Mapping[str, Any]]
    rows: Sequence[Row]
    environment: Mapping[str, str] = field(default_factory=environment)

    def to_json(self) -> dict[str, Any]:
        """All of it, ready for `json.dumps`."""
        return {
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "unpruned": dict(self.unpruned),
            "rows": [{"folder": row.name, **asdict(row)} for row in self.rows],
        }


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

    ``out`` gets a folder for each run, as `prune` writes it, and `RECORD`, which is written anew after each. A run
    that is there is not done again, one that was stopped goes on where it was, and what an earlier call with the same
    settings but for methods and budgets left there is part of the comparison. A method that cannot meet a budget gets
    a row that says why.

    >>> compare(CompareSettings("model.nemo", "speech/", "valid/", ("50%",), ("wanda", "learned")), "arena").rows

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
    known = _Known.read(out / RECORD, settings)
    runs = _runs(settings, known.rows, out)
    for method, budget in runs:
        _refuse_others(out / run_name(method, budget), settings.run(method, budget))
    for speech in (settings.data, settings.valid, settings.test):
        if speech is not None:
            open_corpus(speech)
    same = _Same(settings, recognizer, SkipLog() if skips is None else skips, progress)
    unpruned, rows = known.unpruned, []
    if not unpruned:
        # First, so that speech which cannot be scored is refused before the work.
        unpruned = {"valid": _figures(same.before)}
        if settings.test is not None:
            progress.begin("unpruned on test")
            unpruned["test"] = _figures(
                evaluate(same.recognizer, settings.test, limit=settings.limit, progress=progress)
            )
    for number, (method, budget) in enumerate(runs, start=1):
        folder = out / run_name(method, budget)
        row = known.rows.get((method, budget))
        if row is None or not folder.is_dir():
            if tell is not None:
                tell(f"{number} of {len(runs)}: {method}, {budget}")
            row = _row(method, budget, folder, settings, same, tell)
        rows.append(row)
        _write(Comparison(settings.plain(), unpruned, [*rows, *known.after(runs[number:])]), out / RECORD)
    return Comparison(settings.plain(), unpruned, rows)


def read_budgets(texts: Iterable[str]) -> tuple[str, ...]:
    """Budgets as `Budget` writes them, each once.

    ``"70%,50%"`` are two, of which each holds parameters and multiply-accumulates to the same fraction;
    ``"params=50%,latency=60%"`` is one.

    Raises:
        SecateurError: there is none, or one does not read like that.
    """
    found = []
    for text in texts:
        for part in [text] if "=" in text else text.split(","):
            fraction = part.strip()
            if "=" not in part and not re.fullmatch(r"[\d.]+%|0?\.\d+|1(\.0*)?", fraction):
                raise SecateurError(
                    f"{fraction!r} is no fraction to keep; give 50%, or limits such as params=50%,latency=60%"
                )
            whole_budget = part if "=" in part else f"params={fraction},macs={fraction}"
            found.append(str(Budget.parse(whole_budget)))
    if not found:
        raise SecateurError("there is no budget to compare at; give one such as 50%")
    return tuple(dict.fromkeys(found))


def run_name(method: str, budget: str) -> str:
    """``wanda``, ``params=50%,macs=50%`` -> ``wanda_params50_macs50``."""
    return f"{method}_" + budget.replace("=", "").replace("%", "").replace(",", "_")


def _read_methods(names: Iterable[str]) -> tuple[str, ...]:
    """Methods in the order of `METHODS`, each once."""
    names = tuple(names)
    for name in names:
        if name not in (ALL, *METHODS):
            raise SecateurError(f"there is no method {name!r}; choose {ALL}, or among {', '.join(METHODS)}")
    if not names:
        raise SecateurError(f"there is no method to compare; choose {ALL}, or among {', '.join(METHODS)}")
    return tuple(name for name in METHODS if ALL in names or name in names)


class _Same:
    """What is the same for all runs, made when it is first needed."""

    def __init__(
        self,
        settings: CompareSettings,
        recognizer: Recognizer | None,
        skips: SkipLog,
        progress: ProgressBar,
    ) -> None:
        self.settings, self.given, self.skips, self.progress = settings, recognizer, skips, progress

    @cached_property
    def recognizer(self) -> Recognizer:
        recognizer = self.given or load(self.settings.model)
        # So that a model which cannot be pruned is refused before the work.
        find_groups(recognizer.model)
        return recognizer

    @cached_property
    def pool(self) -> SpeechPool:
        self.progress.begin("reading speech")
        return SpeechPool.read(open_corpus(self.settings.data), self.recognizer.sample_rate, skips=self.skips)

    @cached_property
    def before(self) -> Evaluation:
        self.progress.begin("unpruned on valid")
        return evaluate(
            self.recognizer, self.settings.valid, limit=self.settings.limit, progress=self.progress
        )


@dataclass(frozen=True)
class _Known:
    """What an earlier call found out: figures of the unpruned model, and rows by method and budget."""

    unpruned: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    rows: Mapping[tuple[str, str], Row] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path, settings: CompareSettings) -> _Known:
        """Read a record. One that is not there, damaged or of other speech tells nothing: its runs are measured anew."""
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            asked = settings.plain()
            if any(record["settings"][name] != asked[name] for name in _MEASURED):
                return cls()
            found = [Row(**{name: row[name] for name in Row.__dataclass_fields__}) for row in record["rows"]]
            return cls(
                dict(record["unpruned"]), {(row.method, row.budget): row for row in found if not row.error}
            )
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def after(self, runs: Iterable[tuple[str, str]]) -> list[Row]:
        """Rows of runs whose turn is still to come."""
        return [self.rows[run] for run in runs if run in self.rows]


def _runs(
    settings: CompareSettings, known: Mapping[tuple[str, str], Row], out: Path
) -> list[tuple[str, str]]:
    """Methods and budgets, those that are there already included."""
    asked = [(method, budget) for budget in settings.budgets for method in settings.methods]
    there = [run for run in known if run[0] in METHODS and (out / run_name(*run)).is_dir()]
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


def _row(
    method: str,
    budget: str,
    folder: Path,
    settings: CompareSettings,
    same: _Same,
    tell: Callable[[str], object] | None,
) -> Row:
    """Prune, where that is not done yet, and measure."""
    if not (folder / "run.yaml").is_file():
        # What fails here fails for all, so it is no row's error.
        dense, pool, before = same.recognizer, same.pool, same.before
        try:
            prune(
                settings.run(method, budget),
                folder,
                recognizer=dense,
                pool=pool,
                before=before,
                skips=same.skips,
                progress=same.progress,
                tell=tell,
            )
        except SecateurError as error:
            return Row(method, budget, error=str(error))
        # Teacher, student and moments of a run refer to each other.
        gc.collect()
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
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
    samples = round(settings.audio_seconds * dense.sample_rate)
    noise = np.random.default_rng(0).normal(scale=0.1, size=samples).astype(np.float32)
    inputs = dense.prepare([noise])
    with threads(1), torch.inference_mode():
        timings = interleave(
            {"dense": partial(dense.model, **inputs), "pruned": partial(pruned.model, **inputs)},
            rounds=settings.rounds,
            device=dense.model.device,
        )
    return asdict(timings.ratio("pruned", "dense"))


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    return {name: value for name, value in evaluation.to_json().items() if name != "worst"}


def _write(comparison: Comparison, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as partial_file:
            text = json.dumps(comparison.to_json(), indent=2, ensure_ascii=False)
            partial_file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise SecateurError(f"{file} cannot be written: {reason(error)}; choose another folder") from None
