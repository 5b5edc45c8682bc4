"""`secateur compare`."""

from __future__ import annotations

from pathlib import Path

import click

from secateur.cli.options import (
    Folder,
    load_recognizer,
    loop_options,
    model_options,
    names,
    seed_option,
    speech_options,
    structure_options,
)
from secateur.cli.output import drawn_at, finish, say, tell_skips
from secateur.errors import SecateurError

PAGE = "compare.html"


@click.command(short_help="Compare pruning methods at the same work.")
@click.argument("model")
@click.option("--data", required=True, metavar="DATA", help="Speech to prune on; transcripts are not needed.")
@click.option(
    "--valid",
    required=True,
    metavar="DATA",
    help="Transcribed speech to choose checkpoints by and to measure on.",
)
@click.option(
    "--test", metavar="DATA", help="Transcribed speech to measure on, with which nothing is decided."
)
@click.option(
    "--limit", type=click.IntRange(1), help="Measure on the first N utterances of --valid and --test only."
)
@click.option(
    "--keep",
    required=True,
    multiple=True,
    metavar="BUDGETS",
    help="What may stay, of parameters and of MACs: 70%,50%,30%. Or one budget with limits of its own: "
    "params=50%,latency=60%. May be given several times.",
)
@click.option(
    "--methods",
    default="all",
    show_default=True,
    callback=names,
    metavar="NAMES",
    help="all, which is 14 runs of --minutes for each budget, or some of: search; a score of `secateur prune --score`; scratch; torch-pruning.",
)
@click.option(
    "--out",
    required=True,
    type=Folder(),
    help="Folder for the results: a new one, or that of a comparison to go on with.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="Time of every run: scoring, search, refitting and recovery in all.  [default: 45]",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help="Gradient steps of every run, in whatever time, instead of --minutes.",
)
@loop_options()
@speech_options
@structure_options
@seed_option
@model_options
def compare(
    model: str,
    data: str,
    valid: str,
    test: str | None,
    limit: int | None,
    keep: tuple[str, ...],
    methods: tuple[str, ...],
    out: str,
    minutes: float | None,
    steps: int | None,
    batch_seconds: float,
    augment: str,
    precision: str,
    score_minutes: float,
    refit_minutes: float,
    refit_steps: int,
    multiple_of: int,
    min_heads: int,
    width: bool,
    whole: tuple[str, ...],
    seed: int,
    device: str,
    dtype: str | None,
    threads: int | None,
    json_file: str | None,
    quiet: bool,
) -> None:
    """Prune MODEL by every method, with the same speech, time and budgets, and show what each is worth.

    Only what decides the cut differs. Whichever score that is, what is left is refitted and recovered by
    distillation in the same way, even where the score's authors do neither. `obs` decides as `secateur prune` does by default, in one stride; `search` learns
    gates from there in a part of the same time. `scratch` keeps the same fraction of everything, drawn at random, and refits
    nothing: a narrower model, trained anew.
    `torch-pruning` is that library (an extra, `rivals`), which is let prune feed-forward units only; recovery is the same.

    Given again, the command goes on where it was stopped, and with other methods or budgets it adds them.
    """
    from secateur.progress import ProgressBar
    from secateur.pruning.compare import CompareSettings, compare
    from secateur.pruning.learning.learned import Learned
    from secateur.pruning.oneshot import OneShot
    from secateur.pruning.planning.scope import Scope
    from secateur.reporting.page import comparison_page
    from secateur.reporting.rivals import rivals_table
    from secateur.speech.skips import SkipLog

    if minutes is not None and steps is not None:
        raise SecateurError("--minutes and --steps both say how long a run is: give one of them")
    settings = CompareSettings(
        model,
        data,
        valid,
        keep,
        methods,
        test,
        limit,
        OneShot(
            score_minutes=score_minutes,
            reconstruct_minutes=refit_minutes,
            reconstruct_steps=refit_steps,
            seed=seed,
        ),
        Learned(
            minutes=Learned().minutes if minutes is None else minutes,
            steps=steps,
            batch_seconds=batch_seconds,
            augment=augment,
            precision=precision,
        ),
        scope=Scope(width, whole, multiple_of, min_heads),
    )
    skips = SkipLog()
    try:
        recognizer = load_recognizer(model, device, dtype, threads)
        with ProgressBar("comparing", quiet=quiet) as progress:
            comparison = compare(
                settings,
                out,
                recognizer=recognizer,
                skips=skips,
                progress=progress,
                tell=say,
            )
    except KeyboardInterrupt:
        if not Path(out).is_dir():
            raise
        raise KeyboardInterrupt(
            f"stopped; what was done is kept in {out}, and the same command goes on from there"
        ) from None
    tell_skips(skips)
    done = [row for row in comparison.rows if row.error is None]
    if not done:
        raise SecateurError(
            f"no method came to a result; {comparison.rows[0].method}: {comparison.rows[0].error}"
        )
    times = {row.name: row.time["median"] for row in done if row.time}
    finish(
        comparison.to_json(),
        json_file,
        rivals_table(comparison),
        f"All runs and their figures are in {out}.",
        drawn_at(Path(out) / PAGE, lambda: comparison_page([Path(out) / row.name for row in done], times)),
    )
