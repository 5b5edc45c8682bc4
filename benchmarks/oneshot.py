"""Pruning in one shot to several budgets, beside magnitude pruning without refitting.

Pruned on `fit` as untranscribed audio, measured on `valid`. A row whose result exists is skipped unless --again. With
--publish its model is measured on `test` too, once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from benchmarks.record import OUT, Figures, argument_parser, model_file, parse, record, scores, speech
from secateur import PruneSettings, evaluate, load, prune
from secateur.pruning.compare import run_name
from secateur.pruning.oneshot import OneShot

BUDGETS = ("params=70%", "params=50%", "params=50%,macs=50%", "params=70%,macs=70%", "macs=50%")
METHODS = ("oneshot", "thorough", "magnitude")
"""The command's defaults; refitting on all of the speech, with five times the steps; the smallest magnitudes, and nothing refitted."""


def settings_of(method: str, options: argparse.Namespace) -> OneShot:
    """Of one of the methods."""
    if method == "magnitude":
        return OneShot(score="magnitude", reconstruct_minutes=0, seed=options.seed)
    chosen = OneShot(trials=options.trials, seed=options.seed)
    if method == "thorough":
        chosen = replace(chosen, reconstruct_minutes=260.0, reconstruct_steps=1000)
    if options.minutes is None:
        return chosen
    return replace(chosen, score_minutes=options.minutes, reconstruct_minutes=options.minutes)


def prune_row(budget: str, method: str, folder: Path, options: argparse.Namespace) -> Figures:
    """Prune, and measure on `valid`."""
    oneshot = settings_of(method, options)
    settings = PruneSettings(
        str(model_file()), data=str(speech("fit")), keep=budget, method="oneshot", oneshot=oneshot
    )
    pruned = prune(settings, folder)
    report = pruned.report
    return {
        "budget": budget,
        "method": method,
        "settings": asdict(oneshot),
        "kept": report["kept"],
        "after": report["after"],
        "fit_seconds": report["audio_seconds"],
        "wall_seconds": report["wall_seconds"],
        "valid": scores(evaluate(pruned.recognizer, speech("valid"), limit=options.limit)),
    }


def test_row(folder: Path, options: argparse.Namespace) -> Figures:
    """Measure a pruned model on `test`."""
    return scores(evaluate(load(folder), speech("test"), limit=options.limit))


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the rows that are missing."""
    parser = argument_parser(__doc__)
    parser.add_argument("--budgets", nargs="+", default=BUDGETS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=("oneshot", "magnitude"))
    parser.add_argument("--trials", type=int, default=0, help="plans to try beside the first")
    parser.add_argument("--publish", action="store_true", help="measure on test too")
    parser.add_argument("--again", action="store_true", help="measure rows anew that have a result")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="with --limit: audio to prune on")
    parser.add_argument("--models", type=Path, help="folder for the pruned models")
    options = parse(parser, arguments)
    if options.minutes is not None and options.limit is None:
        parser.error("--minutes is for trials: give --limit too")
    models = options.models or OUT / ("models" if options.limit is None else "trials/models")

    here = {"options": options, "benchmark": "benchmarks.oneshot", "seed": options.seed}
    for budget in options.budgets:
        for method in options.methods:
            name = run_name(method, budget)
            folder = models / name
            result, tested = (options.results / f"{name}{end}.json" for end in ("", "_test"))
            if options.again or not result.exists():
                record(name, partial(prune_row, budget, method, folder, options), **here)
                tested.unlink(missing_ok=True)
            if options.publish and not tested.exists():
                record(f"{name}_test", partial(test_row, folder, options), **here)


if __name__ == "__main__":
    main()
