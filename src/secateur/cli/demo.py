"""`secateur demo`: the embedded model halved, on synthetic speech; nothing else is needed."""

from __future__ import annotations

from pathlib import Path

import click

from secateur.cli.options import (
    Folder,
    given,
    json_option,
    prepare,
    quiet_option,
    threads_option,
    usable_device,
)
from secateur.cli.output import drawn, finish, resumable, say
from secateur.errors import SecateurError

MODELS = ("before", "after")


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@click.command(short_help="Halve a small model on synthetic speech.")
@click.option(
    "--out",
    type=Folder(),
    default="secateur-demo",
    show_default=True,
    help="Folder for the pruned model and the sentences.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    help="Time for the pruning itself; more gives a better model.",
)
@click.option("--steps", type=click.IntRange(1), help="Steps of training, instead of --minutes.")
@click.option(
    "--device",
    default=_best_device,
    callback=usable_device,
    help="Where the models compute; a GPU by default, where PyTorch sees one.",
)
@threads_option
@json_option
@quiet_option
@click.pass_context
def demo(
    context: click.Context,
    /,
    out: str,
    minutes: float,
    steps: int | None,
    device: str,
    threads: int | None,
    json_file: str | None,
    quiet: bool,
) -> None:
    """Show what Secateur does: halve a small model, on speech that is made on the spot.

    A demo that was stopped goes on when the same command is given again.
    """
    from secateur.demo.run import PRUNED, demo, settings
    from secateur.progress import ProgressBar
    from secateur.reporting.pruning import pruning_table
    from secateur.reporting.sentences import sentences_table

    if steps is not None and "minutes" in given(context, context.params):
        raise SecateurError("--minutes and --steps both say how long the pruning is: give one of them")
    prepare(threads)
    pruned, asked = Path(out) / PRUNED, settings(minutes, steps)
    with resumable(pruned), ProgressBar("demo", quiet=quiet) as progress:
        shown = demo(out, asked, device=device, progress=progress, tell=say)
    heard = [(sentence.file.name, sentence.said, sentence.heard) for sentence in shown.sentences]
    figures = shown.report | {
        "sentences": [
            {"file": str(each.file), "said": each.said} | dict(zip(MODELS, each.heard, strict=True))
            for each in shown.sentences
        ]
    }
    finish(
        figures,
        json_file,
        pruning_table(shown.report),
        "",
        sentences_table(heard, MODELS),
        "",
        f"The sentences are in {shown.sentences[0].file.parent}, the pruned model in {pruned}.",
        drawn(pruned),
    )
