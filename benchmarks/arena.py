"""The arena: every method at every budget, a row of `secateur compare` at a time, each a result of its own.

Pruned on `fit` as untranscribed audio, decided on `valid`, measured on `test` too. A row that has a result of the same settings is skipped unless
--again, and one that was stopped goes on where it was: all rows take hours, which may be spent on several days and machines.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.record import (
    OUT,
    Figures,
    argument_parser,
    is_recorded,
    model_file,
    parse,
    record,
    seeded,
    speech,
)
from secateur.errors import SecateurError
from secateur.progress import ProgressBar
from secateur.pruning.compare import CompareSettings, compare, run_name
from secateur.pruning.compare.runs import SCORED
from secateur.pruning.compare.settings import METHODS, read_budgets
from secateur.pruning.learning.learned import Learned
from secateur.pruning.oneshot import OneShot
from secateur.pruning.settings import PruneSettings
from secateur.training.workspace import Workspace

PREFIX = "arena_"
"""What the names of the rows' results begin with."""


def settings_of(method: str, budget: str, options: argparse.Namespace) -> CompareSettings:
    """A comparison of one method at one budget."""
    return CompareSettings(
        model_file(),
        speech("fit"),
        speech("valid"),
        (budget,),
        (method,),
        speech("test"),
        options.limit,
        OneShot(
            reconstruct_minutes=options.refit_minutes,
            reconstruct_steps=options.refit_steps,
            seed=options.seed,
        ),
        Learned(minutes=options.minutes, steps=options.steps),
    )


def measure_row(method: str, budget: str, folder: Path, options: argparse.Namespace) -> Figures:
    """Prune by the method, and measure; what cannot be done says why."""
    settings = settings_of(method, budget, options)
    if options.again:
        made = folder / run_name(method, budget)
        for old in (made, Workspace.place(made), folder / SCORED):
            shutil.rmtree(old, ignore_errors=True)
    with ProgressBar(method) as progress:
        comparison = compare(settings, folder, progress=progress)
    row = next(row for row in comparison.rows if (row.method, row.budget) == (method, budget))
    run, report = settings.run(method, budget), folder / row.name / "report.json"
    known = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    return {
        "settings": told(run),
        "used": known.get("used"),
        "unpruned": comparison.unpruned,
        "row": asdict(row),
    }


def told(run: PruneSettings) -> Figures:
    """What a row's result says of how it was made."""
    return {name: run.plain()[name] for name in ("oneshot", "learned")}


def is_done(file: Path, made: Figures) -> bool:
    """Whether a row has been recorded that was made so; one that came to nothing is tried again."""
    return (
        is_recorded(file, settings=made)
        and not json.loads(file.read_text(encoding="utf-8"))["figures"]["row"]["error"]
    )


def comparable(results: Sequence[Figures], seed: int = 0) -> list[Figures]:
    """Of rows' results, as they lie in their files, those of a seed that were made as the newest of the first seed was."""

    def work(result: Figures) -> Figures:
        """What was the same for all methods."""
        settings = result["figures"]["settings"]
        same = {
            name: value
            for name, value in settings["oneshot"].items()
            if name not in ("score", "uniform", "seed")
        }
        return same | {name: value for name, value in settings["learned"].items() if name != "phases"}

    first = [result for result in results if not result["seed"]]
    newest = max(first, key=lambda result: str(result["date"]), default=None)
    made = [result for result in results if result["seed"] == seed]
    return [result for result in made if newest is not None and work(result) == work(newest)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the rows that are missing."""
    parser = argument_parser(__doc__)
    parser.add_argument("--keep", nargs="+", default=["50%", "70%", "30%"], help="of parameters and MACs")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--minutes", type=float, default=16.0, help="of scoring, refitting and training")
    parser.add_argument("--steps", type=int, help="of training, instead of --minutes")
    parser.add_argument("--refit-minutes", type=float, default=15.0, help="audio to refit on")
    parser.add_argument("--refit-steps", type=int, default=100, help="of gradient, for each layer by itself")
    parser.add_argument("--again", action="store_true", help="measure rows anew that have a result")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", type=Path, help="folder for the pruned models")
    options = parse(parser, arguments)
    models = options.models or OUT / ("arena" if options.limit is None else "trials/arena")
    for budget in read_budgets(options.keep):
        for method in options.methods:
            name = seeded(PREFIX + run_name(method, budget), options.seed)
            made = told(settings_of(method, budget, options).run(method, budget))
            if not options.again and is_done(options.results / f"{name}.json", made):
                continue
            folder = models / f"seed{options.seed}"
            try:
                measure = partial(measure_row, method, budget, folder, options)
                record(name, measure, options, benchmark="benchmarks.arena", seed=options.seed)
            except SecateurError as error:
                raise SystemExit(f"{name}: {error}") from None


if __name__ == "__main__":
    main()
