"""Pruning by the default method to several budgets: scores, refitting, recovery; on request a search between.

Pruned on `fit` as untranscribed audio, decided and measured on `valid`. A row whose result exists is skipped unless
--again; one that was stopped goes on where it was. With --publish its model is measured on `test` too, once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from benchmarks.oneshot import test_row
from benchmarks.record import OUT, Figures, argument_parser, model_file, parse, record, seeded, speech
from secateur import PruneSettings, prune
from secateur.progress import ProgressBar
from secateur.pruning.compare import run_name
from secateur.pruning.distillation import Distillation
from secateur.pruning.learning.learned import PHASES, Learned
from secateur.pruning.oneshot import OneShot
from secateur.structure.plan import PruningPlan

BUDGETS = ("params=50%,macs=50%", "params=70%,macs=70%", "params=30%,macs=30%")


def prune_row(budget: str, folder: Path, options: argparse.Namespace) -> Figures:
    """Prune, and measure on `valid`."""
    learned = Learned(
        minutes=options.minutes,
        steps=options.steps,
        phases=tuple(options.phases),
        strides=options.strides,
        distillation=replace(Distillation(), task=options.task),
        transcripts=False,
    )
    oneshot = OneShot(trials=options.trials, seed=options.seed)
    settings = PruneSettings(
        str(model_file()),
        data=",".join(str(speech(name)) for name in options.data),
        keep=budget,
        valid=str(speech("valid")),
        valid_limit=options.limit,
        oneshot=oneshot,
        learned=learned,
    )
    with ProgressBar("pruning") as progress:
        pruned = prune(settings, folder, progress=progress)
    report = pruned.report
    return {
        "budget": budget,
        "data": options.data,
        "settings": asdict(learned) | {"oneshot": asdict(oneshot)},
        "kept": report["kept"],
        "units": report["units"],
        "history": report["history"],
        "recovered_parts": report["recovered_parts"],
        "phase_seconds": report["phase_seconds"],
        "used": report["used"],
        "fit_seconds": report["audio_seconds"],
        "wall_seconds": report["wall_seconds"],
        "valid": {name: value for name, value in report["after"].items() if name != "worst"},
        "comparison": report["comparison"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the rows that are missing."""
    parser = argument_parser(__doc__)
    parser.add_argument("--budgets", nargs="+", default=BUDGETS)
    parser.add_argument("--data", nargs="+", choices=("fit", "unlabelled"), default=["fit"])
    parser.add_argument("--phases", nargs="*", choices=PHASES, default=Learned().phases)
    parser.add_argument(
        "--minutes", type=float, default=Learned().minutes, help="of start, search and recovery"
    )
    parser.add_argument("--steps", type=int, help="of search and recovery, instead of --minutes")
    parser.add_argument(
        "--task",
        type=float,
        default=Distillation().task,
        help="factor of CTC on what the unpruned model heard",
    )
    parser.add_argument("--strides", type=int, help="see secateur prune")
    parser.add_argument("--trials", type=int, default=0, help="plans to try beside the first")
    parser.add_argument(
        "--name",
        default="recovered",
        help="what the results' names begin with; with the search it is learned",
    )
    parser.add_argument("--publish", action="store_true", help="measure on test too")
    parser.add_argument("--again", action="store_true", help="measure rows anew that have a result")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", type=Path, help="folder for the pruned models")
    options = parse(parser, arguments)
    models = options.models or OUT / ("models" if options.limit is None else "trials/models")

    here = {"options": options, "benchmark": "benchmarks.learned", "seed": options.seed}
    for budget in options.budgets:
        name = seeded(run_name(options.name, budget), options.seed)
        folder = models / name
        result, tested = (options.results / f"{name}{end}.json" for end in ("", "_test"))
        if options.again or not result.exists():
            record(name, partial(prune_row, budget, folder, options), **here)
            tested.unlink(missing_ok=True)
            # Tests hold the real model to the invariants with it.
            plans = options.results / "plans"
            plans.mkdir(exist_ok=True)
            PruningPlan.load(folder / "plan.json").save(plans / f"{name}.json")
        if options.publish and not tested.exists():
            record(f"{name}_test", partial(test_row, folder, options), **here)


if __name__ == "__main__":
    main()
