"""What each part of the learned method is worth: a run of the same minutes without it, on `valid`.

All runs begin with the same scores and, where they can, the same refitted weights, which are made once; what these took counts for
each of them. A run that has a result of the same settings is skipped unless --again; one that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

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
from secateur import PruneSettings
from secateur.progress import ProgressBar
from secateur.pruning.compare import run_name
from secateur.pruning.learning.learned import PHASES, Learned
from secateur.pruning.oneshot import OneShot
from secateur.pruning.prune import Given, prune
from secateur.training.workspace import FIGURES, SETTINGS, Workspace

KEEP = "params=50%,macs=50%"

WITH_SEARCH = {"learned.phases": PHASES}
CTC = {"learned.distillation.task": 0.3}

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "without_layerwise_distillation": {"learned.distillation.hidden": 0.0},
    "plain_divergence": {"learned.distillation.speech_weight": 0.0},
    "without_augmentation": {"learned.augment": "none"},
    "with_ctc_on_transcripts": CTC,
    "with_ctc_on_what_the_teacher_heard": CTC | {"learned.transcripts": False},
    "without_refitting": {"learned.phases": ("start", "recover")},
    "in_two_strides": {"learned.strides": 2},
    "without_front_end_groups": {"scope.whole": ("subsampling.*",)},
    "with_search": WITH_SEARCH,
    "with_search_and_coarse_gates": WITH_SEARCH | {"learned.coarse": True},
    # At this rate gates can close within the two fifths of the time that the search has.
    "with_search_from_open_gates": {
        "learned.phases": ("reconstruct", "search", "recover"),
        "learned.gate_rate": 0.1,
    },
}


def settings_of(changes: Mapping[str, Any], options: argparse.Namespace) -> PruneSettings:
    """The settings of a run."""
    base = PruneSettings(
        str(model_file()),
        data=str(speech("fit")),
        keep=options.keep,
        valid=str(speech("valid")),
        valid_limit=options.limit,
        oneshot=OneShot(seed=options.seed),
        # One, so that the first phases of nearly all are the same.
        learned=Learned(minutes=options.minutes, steps=options.steps, strides=1),
    )
    return base.changed(changes)


def shared_stages(settings: PruneSettings, default: PruneSettings) -> list[str]:
    """The stages of the default run that are those of this one too."""
    phases = settings.learned.phases
    asked = (settings.scope, settings.learned.strides)
    if asked != (default.scope, default.learned.strides) or "start" not in phases:
        return []
    plans_alike = "reconstruct" in phases and "search" not in phases
    return ["start", "reconstruct"] if plans_alike else ["start"]


def is_made_so(folder: Path, settings: PruneSettings) -> bool:
    """Whether a workspace has these settings."""
    file = folder / SETTINGS
    return file.exists() and json.loads(file.read_text(encoding="utf-8")) == settings.plain()


def told(settings: PruneSettings) -> Figures:
    """What a run's result says of how it was made."""
    plain = settings.plain()
    return {"settings": plain["learned"], "oneshot": plain["oneshot"]}


def prune_variant(name: str, folder: Path, options: argparse.Namespace) -> Figures:
    """Prune, and measure on `valid`."""
    default, settings = settings_of({}, options), settings_of(VARIANTS[name], options)
    place, stash = Workspace.place(folder), folder.with_name("stages")
    if (options.again and settings == default) or (stash.exists() and not is_made_so(stash, default)):
        shutil.rmtree(stash, ignore_errors=True)
    if not place.exists():
        Workspace.of(folder, settings.plain()).release()
        for stage in shared_stages(settings, default):
            if (stash / f"{stage}.pt").exists():
                shutil.copy2(stash / f"{stage}.pt", place)

    def keep(phase: str, _: Mapping[str, float]) -> None:
        if phase == "recover" and settings == default and not stash.exists():
            shutil.copytree(place, stash, ignore=shutil.ignore_patterns("*.so-far.pt", ".*"))

    figures = stash / FIGURES
    # So that all score, refit and validate on as much speech.
    known = json.loads(figures.read_text(encoding="utf-8")).get("pace") if figures.exists() else None
    given = None if known is None else Given(pace=lambda *_: known)
    with ProgressBar(name) as progress:
        report = prune(settings, folder, given=given, progress=progress, log=keep).report
    return {
        "changes": VARIANTS[name],
        **told(settings),
        "kept": report["kept"],
        "units": report["units"],
        "history": report["history"],
        "recovered_parts": report["recovered_parts"],
        "phase_seconds": report["phase_seconds"],
        "used": report["used"],
        "valid": {name: value for name, value in report["after"].items() if name != "worst"},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the runs that are missing."""
    parser = argument_parser(__doc__)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--keep", default=KEEP, help="the budget of all runs")
    parser.add_argument("--minutes", type=float, default=20.0, help="of each run, scores and all")
    parser.add_argument("--steps", type=int, help="of search and recovery, instead of --minutes")
    parser.add_argument("--again", action="store_true", help="measure runs anew that have a result")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", type=Path, help="folder for the pruned models")
    options = parse(parser, arguments)
    models = options.models or OUT / ("ablation" if options.limit is None else "trials/ablation")
    for variant in options.variants:
        name = variant if options.keep == KEEP else run_name(variant, options.keep)
        name = seeded(f"ablation_{name}", options.seed)
        made = told(settings_of(VARIANTS[variant], options))
        if options.again or not is_recorded(options.results / f"{name}.json", **made):
            measure = partial(prune_variant, variant, models / f"seed{options.seed}" / variant, options)
            record(name, measure, options, benchmark="benchmarks.ablation", seed=options.seed)


if __name__ == "__main__":
    main()
