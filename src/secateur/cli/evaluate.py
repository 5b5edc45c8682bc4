"""`secateur evaluate`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from secateur.cli.options import (
    batch_seconds_option,
    check_apart,
    load_recognizer,
    model_options,
    writable_file,
)
from secateur.cli.output import finish, tell_skips

if TYPE_CHECKING:
    from secateur.evaluation.results import Evaluation


@click.command()
@click.argument("model")
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help="Transcribed speech.",
)
@click.option("--limit", type=click.IntRange(1), help="Measure on the first N utterances only.")
@click.option(
    "--normalise",
    type=click.Choice(["none", "basic", "english"]),
    default="basic",
    show_default=True,
    help="What is not counted as an error. none: nothing; basic: case and punctuation, and spaces where a script has none; english: also the spelling of numbers, "
    "contractions and titles.",
)
@click.option(
    "--utterances",
    metavar="FILE.jsonl",
    callback=writable_file,
    help="Write each utterance's result, a line each.",
)
@click.option(
    "--worst",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Show the N utterances with the most errors.",
)
@click.option("--against", metavar="MODEL2", help="Evaluate a second model and test whether the two differ.")
@batch_seconds_option
@model_options
def evaluate(
    model: str,
    data: str,
    limit: int | None,
    normalise: str,
    utterances: str | None,
    worst: int,
    against: str | None,
    batch_seconds: float,
    device: str,
    dtype: str | None,
    threads: int | None,
    json_file: str | None,
    quiet: bool,
) -> None:
    """Measure how well and how fast MODEL hears DATA, which is transcribed; `secateur --help` says what both may be."""
    from secateur.evaluation.comparison import compare
    from secateur.evaluation.evaluate import evaluate
    from secateur.progress import ProgressBar
    from secateur.recognizer import find
    from secateur.reporting.evaluation import comparison_text, evaluation_table
    from secateur.speech.corpus import open_corpus
    from secateur.speech.skips import SkipLog

    check_apart(("--utterances", utterances), ("--json", json_file))
    corpus = open_corpus(data, limit=limit)
    if against is not None:
        # Missed now rather than when the first model has heard everything.
        find(against)

    def run(name: str) -> Evaluation:
        recognizer, skips = load_recognizer(name, device, dtype, threads), SkipLog()
        with ProgressBar("evaluating", quiet=quiet) as progress:
            evaluation = evaluate(
                recognizer,
                corpus,
                batch_seconds=batch_seconds,
                normalise=normalise,
                skips=skips,
                progress=progress,
            )
        tell_skips(skips)
        return evaluation

    first = run(model)
    figures, shown = {"model": model, **first.to_json()}, [evaluation_table(model, first, worst)]
    try:
        if utterances is not None:
            first.write_jsonl(utterances)
        if against is not None:
            # The memory of the process at its largest is that of the first too.
            second = replace(run(against), peak_memory_mb=None)
            comparison = compare(first, second)
            figures |= {"against": {"model": against, **second.to_json()}, "comparison": comparison.to_json()}
            shown += [evaluation_table(against, second, worst), comparison_text(comparison, model, against)]
    finally:
        # What was measured took its time, whatever comes of the rest.
        finish(figures, json_file, *shown)
