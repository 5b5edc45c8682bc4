"""`secateur prune`: settings come from a run.yaml or are the defaults, and what the command line says takes precedence."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from secateur.cli.options import (
    Folder,
    check_beside,
    given,
    load_recognizer,
    loop_options,
    model_options,
    names,
    seed_option,
    speech_options,
    structure_options,
)
from secateur.cli.output import drawn, finish, resumable, say, tell_skips
from secateur.errors import SecateurError

if TYPE_CHECKING:
    from secateur.pruning.settings import PruneSettings

SETTINGS = {
    "model": "model",
    "data": "data",
    "keep": "keep",
    "teacher": "teacher",
    "valid": "valid",
    "limit": "valid_limit",
    "method": "method",
    "score": "oneshot.score",
    "score_minutes": "oneshot.score_minutes",
    "trials": "oneshot.trials",
    "refit_minutes": "oneshot.reconstruct_minutes",
    "refit_steps": "oneshot.reconstruct_steps",
    "uniform": "oneshot.uniform",
    "seed": "oneshot.seed",
    "minutes": "learned.minutes",
    "steps": "learned.steps",
    "phases": "learned.phases",
    "strides": "learned.strides",
    "batch_seconds": "learned.batch_seconds",
    "augment": "learned.augment",
    "precision": "learned.precision",
    "multiple_of": "scope.multiple_of",
    "min_heads": "scope.min_heads",
    "width": "scope.width",
    "whole": "scope.whole",
}
"""Options that decide a run, and their names in `PruneSettings`."""

REQUIRED = ("model", "data", "keep")

SCORES = (
    "obs",
    "fisher",
    "wanda",
    "magnitude",
    "taylor",
    "hessian",
    "mope",
    "latent",
    "layerdrop",
    "depth",
    "random",
)
"""The names of `secateur.pruning.scoring.scores.SCORES`, whose file loads PyTorch."""


@click.command(short_help="Make MODEL smaller and faster.")
@click.argument("model", required=False)
@click.option("--data", metavar="DATA", help="Speech to prune on; transcripts are not needed.")
@click.option(
    "--keep",
    metavar="BUDGET",
    help="What may stay: params=50%,macs=50%,latency=60%, or params=6.5M,macs=250M,latency=40ms; 50% is of both parameters and MACs.",
)
@click.option(
    "--out",
    required=True,
    type=Folder(),
    help="Folder for the result: new, empty, or with an earlier result, which is replaced.",
)
@click.option(
    "--config",
    metavar="RUN.YAML",
    help="Repeat the run of that run.yaml; MODEL and options that are given take precedence.",
)
@click.option(
    "--valid",
    metavar="DATA",
    help="Transcribed speech to measure on before and after, and to choose checkpoints by.",
)
@click.option("--limit", type=click.IntRange(1), help="Measure on the first N utterances of --valid only.")
@click.option(
    "--method",
    type=click.Choice(["learned", "oneshot"]),
    default="learned",
    show_default=True,
    help="How to prune: with training, or with refitting alone.",
)
@click.option(
    "--teacher",
    metavar="MODEL",
    help="Learned: distil from that model; for a MODEL that was pruned from it before.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=45.0,
    show_default=True,
    help="Learned: time that its phases are planned to fit into.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help="Learned: steps of search and recovery together, instead of --minutes.",
)
@click.option(
    "--phases",
    default="start,reconstruct,recover",
    show_default=True,
    callback=names,
    help="Learned: the phases to run, out of start (scores), search, reconstruct (refits) and recover.",
)
@click.option(
    "--strides",
    type=click.IntRange(1),
    help="Learned: in how many to go down to the budget, each with all phases.  [default: 2 where no more than half may stay, else 1]",
)
@loop_options(prefix="Learned: ")
@click.option(
    "--score",
    type=click.Choice(SCORES),
    default="obs",
    show_default=True,
    help="What decides which units go, and where a search begins. latent removes whole modules, layerdrop and depth whole layers.",
)
@click.option("--uniform", is_flag=True, help="Keep the same fraction of every group of units.")
@click.option(
    "--trials",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Number of other ways to share the budget between parts of the model; all are tried, the best is kept.",
)
@speech_options
@structure_options
@seed_option
@click.option(
    "--tensorboard",
    metavar="DIR",
    type=Folder(),
    help="Learned: write its curves there, for TensorBoard.",
)
@model_options
@click.pass_context
def prune(
    context: click.Context,
    /,
    out: str,
    config: str | None,
    tensorboard: str | None,
    device: str,
    dtype: str | None,
    threads: int | None,
    json_file: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Make MODEL smaller and faster, and write the result to a folder.

    MODEL, --data and --keep are needed unless --config has them; `secateur --help` says what MODEL and DATA may be. For example:

    \b
    secateur prune model.nemo --data speech/ --keep params=70% --method oneshot --out smaller

    A run of the learned method that was stopped goes on when the same command is given again.
    """  # noqa: D301 - the character by which click knows a paragraph that is not to be wrapped
    from secateur.progress import ProgressBar
    from secateur.pruning.planning.budget import Budget
    from secateur.pruning.prune import prune
    from secateur.reporting.pruning import pruning_table
    from secateur.reporting.tensorboard import curves
    from secateur.speech.skips import SkipLog

    asked = {SETTINGS[name]: value for name, value in given(context, options).items()}
    settings = _settings(context, config, asked)
    Budget.parse(settings.keep)
    check_beside(tensorboard, out)
    with (
        resumable(out) if settings.method == "learned" else nullcontext(),
        curves(tensorboard, say) if tensorboard is not None else nullcontext() as log,
    ):
        recognizer, skips = load_recognizer(str(settings.model), device, dtype, threads), SkipLog()
        with ProgressBar("pruning", quiet=quiet) as progress:
            pruned = prune(
                settings, out, recognizer=recognizer, skips=skips, progress=progress, tell=say, log=log
            )
    tell_skips(skips)
    finish(
        pruned.report,
        json_file,
        pruning_table(pruned.report),
        drawn(out),
        f"The pruned model is in {out}.",
    )


def _settings(context: click.Context, config: str | None, given: dict[str, Any]) -> PruneSettings:
    """Those of the file, or the defaults, and above them what was given on the command line."""
    from secateur.pruning.learning.learned import TRAINED
    from secateur.pruning.settings import PruneSettings

    if config is not None:
        base = PruneSettings.from_yaml(config)
    else:
        for parameter in context.command.params:
            if parameter.name in REQUIRED and parameter.name not in given:
                raise click.MissingParameter(ctx=context, param=parameter)
        base = PruneSettings(*(given[name] for name in REQUIRED))
    if "learned.minutes" in given:
        if "learned.steps" in given:
            raise SecateurError("--minutes and --steps both say how long the phases are: give one of them")
        given = given | {"learned.steps": None}
    settings = base.changed(given)
    if settings.method == "oneshot":
        _refuse_learned(context, "is for --method learned, and the method is oneshot")
    elif not TRAINED.intersection(settings.learned.phases):
        _refuse_learned(context, "is for training, and none of --phases trains", ("phases", "minutes"))
    if settings.searches and "start" not in settings.learned.phases:
        for name in ("score", "trials"):
            if f"oneshot.{name}" in given:
                raise SecateurError(
                    f"--{name} decides where the search begins, in the phase start: add it to --phases, or leave --{name} out"
                )
    if "valid_limit" in given and settings.valid is None:
        raise SecateurError("--limit is for --valid: give both, or neither")
    return settings


def _refuse_learned(context: click.Context, why: str, but: Collection[str] = ()) -> None:
    """Refuse options that would not be heeded where nothing is trained, ``but`` these."""
    for option in context.command.params:
        name = option.name or ""
        idle = name in ("tensorboard", "teacher") or SETTINGS.get(name, "").startswith("learned.")
        if idle and name not in but and context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise SecateurError(f"{option.opts[0]} {why}: leave it out")
