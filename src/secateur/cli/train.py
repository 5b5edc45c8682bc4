"""`secateur train`: settings come from a run.yaml or are the defaults, and what the command line says goes above them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from secateur.cli.options import (
    Folder,
    check_beside,
    given,
    loop_options,
    prepare,
    seed_option,
    training_options,
)
from secateur.cli.output import drawn, finish, resumable, say, tell_skips
from secateur.errors import SecateurError

if TYPE_CHECKING:
    from secateur.supervised.settings import TrainSettings

RENAMED = {"limit": "valid_limit"}
"""Options whose names in `TrainSettings` are others."""


@click.command(short_help="Train a small Conformer-CTC.")
@click.option("--data", metavar="DATA", help="Transcribed speech to train on.")
@click.option("--out", required=True, type=Folder(), help="Folder for the result: new or empty.")
@click.option(
    "--config",
    metavar="RUN.YAML",
    help="Repeat the run of that run.yaml; options that are given take precedence.",
)
@click.option("--valid", metavar="DATA", help="Transcribed speech to measure on: in between and after.")
@click.option("--limit", type=click.IntRange(1), help="Measure on the first N utterances of --valid only.")
@click.option("--init", metavar="MODEL", help="Go on from that Conformer instead of random weights.")
@click.option(
    "--size",
    type=click.Choice(["tiny", "small"]),
    default="tiny",
    show_default=True,
    help="Dimensions: 2.8 or 13 million parameters.",
)
@click.option("--layers", type=click.IntRange(1), help="Instead of the size's.")
@click.option("--width", type=click.IntRange(2), help="Of the residual stream, instead of the size's.")
@click.option("--heads", type=click.IntRange(1), help="Of each attention, instead of the size's.")
@click.option(
    "--vocabulary",
    type=click.IntRange(2),
    help="Pieces of words to write with, at most.  [default: 256, or those of --init]",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Time that the training is planned to fit into.",
)
@click.option("--steps", type=click.IntRange(1), help="Steps of training, instead of --minutes.")
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=1.5e-3,
    show_default=True,
    help="Peak learning rate.",
)
@click.option(
    "--average",
    is_flag=True,
    help="Stay at that rate, and keep the means of the weights over the last three quarters of the steps: they are easier to prune.",
)
@click.option(
    "--optimizer",
    type=click.Choice(["muon", "adamw"]),
    help="Optimiser of the matrices of linear layers.  [default: muon; adamw with --init]",
)
@loop_options(60.0)
@click.option(
    "--dropout",
    type=click.FloatRange(0, 1, max_open=True),
    help="Rate after every module and on attention weights.  [default: 0, or that of --init]",
)
@seed_option
@click.option(
    "--tensorboard",
    metavar="DIR",
    type=Folder(),
    help="Write the curves there, for TensorBoard.",
)
@training_options
@click.pass_context
def train(
    context: click.Context,
    /,
    out: str,
    config: str | None,
    tensorboard: str | None,
    device: str,
    threads: int | None,
    json_file: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Make a Conformer-CTC recogniser from transcribed speech alone, and write it to a folder.

    A run that was stopped goes on when the same command is given again.
    """
    from secateur.progress import ProgressBar
    from secateur.reporting.tensorboard import curves
    from secateur.speech.skips import SkipLog
    from secateur.supervised.train import train

    asked = {RENAMED.get(name, name): value for name, value in given(context, options).items()}
    settings = _settings(context, config, asked)
    check_beside(tensorboard, out)
    prepare(threads)
    skips = SkipLog()
    with (
        resumable(out),
        curves(tensorboard, say) if tensorboard is not None else nullcontext() as log,
        ProgressBar("training", quiet=quiet) as progress,
    ):
        report = train(settings, out, device=device, skips=skips, progress=progress, tell=say, log=log).report
    tell_skips(skips)
    finish(report, json_file, _told(report), drawn(out), f"The trained model is in {out}.")


def _settings(context: click.Context, config: str | None, given: dict[str, Any]) -> TrainSettings:
    """Those of the file, or the defaults, and above them what was given on the command line."""
    from secateur.supervised.settings import TrainSettings

    if "minutes" in given:
        if "steps" in given:
            raise SecateurError("--minutes and --steps both say how long the training is: give one of them")
        given = given | {"steps": None}
    if config is not None:
        settings = TrainSettings.from_yaml(config).changed(given)
    elif "data" in given:
        settings = TrainSettings(**given)
    else:
        missing = next(each for each in context.command.params if each.name == "data")
        raise click.MissingParameter(ctx=context, param=missing)
    if "valid_limit" in given and settings.valid is None:
        raise SecateurError("--limit is for --valid: give both, or neither")
    if settings.init is not None:
        for name in ("size", "layers", "width", "heads"):
            if name in given:
                raise SecateurError(
                    f"--{name} is for random weights, and {settings.init}, which training begins with, has its own: leave one of them out"
                )
    return settings


def _told(report: dict[str, Any]) -> str:
    """What came of it, in a line or two."""
    from secateur.reporting.numbers import short

    told = (
        f"{short(report['params'])} parameters, trained for {report['steps']} steps on "
        f"{report['audio_seconds'] / 3600:.2f} hours of speech."
    )
    if "valid" in report:
        told += f"\nWER {report['valid']['wer']:.2%} on {report['valid']['utterances']} utterances."
    return told
