"""`secateur inspect`."""

from __future__ import annotations

from functools import partial

import click

from secateur.cli.options import load_recognizer, model_options
from secateur.cli.output import finish
from secateur.errors import SecateurError


@click.command()
@click.argument("model")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Length of the audio.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Utterances at once when time is measured.",
)
@click.option(
    "--depth", type=click.IntRange(0), default=2, show_default=True, help="Levels of the tree to show."
)
@click.option("--measure/--no-measure", default=True, help="Measure time, besides counting.")
@model_options
def inspect(
    model: str,
    seconds: float,
    batch: int,
    depth: int,
    measure: bool,
    device: str,
    dtype: str | None,
    threads: int | None,
    json_file: str | None,
    quiet: bool,
) -> None:
    """Show the size, the work and the time of each part of MODEL, and whether it can be pruned."""
    from secateur.progress import ProgressBar
    from secateur.reporting.inspection import inspection_table
    from secateur.structure.groups import find_groups
    from secateur.structure.inspect import inspect

    if batch > 1 and not measure:
        raise SecateurError("--batch is for measured time: leave it out, or --no-measure")
    network = load_recognizer(model, device, dtype, threads).model
    with ProgressBar("inspecting", quiet=quiet) as progress:
        inspection = inspect(
            network,
            seconds=seconds,
            batch=batch,
            measure=measure,
            progress=partial(progress.stage, "timing"),
        )
    refused = None
    try:
        find_groups(network)
    except SecateurError as error:
        refused = str(error)
    finish(
        {"model": model, **inspection.to_json(), "prunable": refused is None},
        json_file,
        inspection_table(inspection, depth),
        "It can be pruned." if refused is None else f"It cannot be pruned: {refused}.",
    )
