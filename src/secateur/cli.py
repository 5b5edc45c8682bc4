"""The command line: parse, call, print; the work is done elsewhere, and imported when a command runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from secateur import __version__
from secateur.errors import SecateurError

if TYPE_CHECKING:
    from secateur.evaluation.results import Evaluation
    from secateur.recognizer import Recognizer
    from secateur.speech.skips import SkipLog

STANDARD_OUTPUT = "-"
INTERRUPTED = 130  # 128 and the signal's number, as shells have it.

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Refusal(click.ClickException):
    """A request that cannot be met, in one sentence on standard error."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"secateur: {self.message}", file=file, err=file is None)


class Commands(click.Group):
    """Turns what users can put right into a sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SecateurError as error:
            raise Refusal(str(error)) from error
        except KeyboardInterrupt:
            click.echo("secateur: stopped by Ctrl-C before the end, so there is no result", err=True)
            ctx.exit(INTERRUPTED)


def _usable_device(_context: click.Context, _option: click.Parameter, name: str) -> str:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise SecateurError(
            f"PyTorch cannot compute on {name!r} here: give --device cpu, or cuda where it sees a GPU"
        ) from None
    return name


def _writable_file(_context: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    """Refuse before the work rather than after it."""
    if name is not None and name != STANDARD_OUTPUT:
        path = Path(name).absolute()
        if path.is_dir() or not path.parent.is_dir():
            raise SecateurError(f"{name} cannot be written: give a file in a folder that exists")
    return name


def _model_options(command: _Command) -> _Command:
    """What every command that loads a model takes."""
    for option in reversed(
        (
            click.option(
                "--device",
                default="cpu",
                callback=_usable_device,
                help="Where the model computes: cpu, cuda, ...",
            ),
            click.option(
                "--dtype",
                type=click.Choice(["float32", "float64", "bfloat16", "float16"]),
                help="Precision of the weights; the checkpoint's own by default.",
            ),
            click.option(
                "--threads",
                type=click.IntRange(1),
                help="Threads of PyTorch; as many as there are cores by default.",
            ),
            click.option(
                "--json",
                "json_file",
                metavar="FILE",
                callback=_writable_file,
                help="Write the figures to FILE; - is standard output, and nothing else goes there.",
            ),
            click.option("--quiet", "-q", is_flag=True, help="No progress bar."),
        )
    ):
        command = option(command)
    return command


_batch_seconds = click.option(
    "--batch-seconds",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds of audio, padding included, that the model is given at once.",
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="secateur")
def main() -> None:
    """Prune trained speech recognisers.

    MODEL is a .nemo archive, a folder with a transformers or Secateur checkpoint, or the name of one on the hub.
    """


@main.command()
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
@_model_options
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
    """Show the size, the work and the time of each part of MODEL."""
    from secateur.progress import ProgressBar
    from secateur.reporting.inspection import inspection_table
    from secateur.structure.inspect import inspect

    recognizer = _load(model, device, dtype, threads)
    with ProgressBar("inspecting", quiet=quiet):
        inspection = inspect(recognizer, seconds=seconds, batch=batch, measure=measure)
    _finish({"model": model, **inspection.to_json()}, json_file, inspection_table(inspection, depth))


@main.command()
@click.argument("model")
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help="Transcribed speech, see above.",
)
@click.option("--limit", type=click.IntRange(1), help="Only the first utterances.")
@click.option(
    "--normalise",
    type=click.Choice(["none", "basic", "english"]),
    default="basic",
    show_default=True,
    help="What is not counted as an error: nothing; case and punctuation; spelling of numbers and the like, too.",
)
@click.option(
    "--utterances",
    metavar="FILE.jsonl",
    callback=_writable_file,
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
@_batch_seconds
@_model_options
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
    """Measure how well and how fast MODEL hears DATA.

    DATA is transcribed speech: a LibriSpeech folder, a NeMo manifest, a Lhotse cut set, or a folder of audio with
    .txt files beside it.
    """
    from secateur.evaluation.comparison import compare
    from secateur.evaluation.evaluate import evaluate
    from secateur.progress import ProgressBar
    from secateur.reporting.evaluation import comparison_text, evaluation_table
    from secateur.speech.corpus import open_corpus
    from secateur.speech.skips import SkipLog

    corpus = open_corpus(data, limit=limit)

    def run(name: str) -> Evaluation:
        recognizer, skips = _load(name, device, dtype, threads), SkipLog()
        with ProgressBar("evaluating", quiet=quiet) as progress:
            evaluation = evaluate(
                recognizer,
                corpus,
                batch_seconds=batch_seconds,
                normalise=normalise,
                skips=skips,
                progress=progress,
            )
        _tell(skips)
        return evaluation

    first = run(model)
    if utterances is not None:
        first.write_jsonl(utterances)
    figures, shown = {"model": model, **first.to_json()}, [evaluation_table(model, first, worst)]
    if against is not None:
        second = run(against)
        comparison = compare(first, second)
        figures |= {"against": {"model": against, **second.to_json()}, "comparison": comparison.to_json()}
        shown += [evaluation_table(against, second, worst), comparison_text(comparison)]
    _finish(figures, json_file, *shown)


@main.command()
@click.argument("model")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@_batch_seconds
@_model_options
def transcribe(
    model: str,
    files: tuple[str, ...],
    batch_seconds: float,
    device: str,
    dtype: str | None,
    threads: int | None,
    json_file: str | None,
    quiet: bool,
) -> None:
    """Print what MODEL hears in each FILE.

    A FILE is audio of any length, a folder of it, or a manifest.
    """
    from secateur.progress import ProgressBar
    from secateur.speech.corpus import Corpus, open_corpus
    from secateur.speech.skips import SkipLog
    from secateur.transcription import transcribe

    corpora = [open_corpus(file) for file in files]
    corpus = Corpus(lambda: chain.from_iterable(each.entries() for each in corpora))
    recognizer, skips = _load(model, device, dtype, threads), SkipLog()
    with ProgressBar("transcribing", quiet=quiet) as progress:
        heard = transcribe(recognizer, corpus, batch_seconds=batch_seconds, skips=skips, progress=progress)
    _tell(skips)
    alone = len(heard) == 1
    lines = [transcript.text if alone else f"{each.path}: {transcript.text}" for each, transcript in heard]
    figures = [{"path": str(each.path), **transcript.to_json()} for each, transcript in heard]
    _finish(figures, json_file, *lines)


@main.command()
@click.argument("model")
@click.option("--data", required=True, help="Speech to prune on; transcripts are not needed.")
@click.option(
    "--keep", required=True, metavar="BUDGET", help="What may stay: params=50%,macs=50%,latency=60%."
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False),
    help="Folder for the result: new, empty, or of an earlier one.",
)
@click.option("--valid", metavar="DATA", help="Transcribed speech to measure before and after on.")
@click.option("--limit", type=click.IntRange(1), help="Measure on the first so many utterances of --valid.")
@click.option(
    "--method",
    type=click.Choice(["learned", "oneshot"]),
    default="learned",
    show_default=True,
    help="How to prune.",
)
@click.option(
    "--score",
    type=click.Choice(["obs", "fisher", "wanda", "magnitude"]),
    default="obs",
    show_default=True,
    help="What decides which units go.",
)
@click.option("--uniform", is_flag=True, help="Keep the same fraction of every group of units.")
@click.option(
    "--score-minutes",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Audio that the score looks at.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Audio that what is left is refitted on; 0: it is not.",
)
@click.option(
    "--multiple-of",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Hold the numbers of units to multiples of this.",
)
@click.option(
    "--min-heads", type=click.IntRange(0), default=0, show_default=True, help="Heads that every layer keeps."
)
@click.option("--width", is_flag=True, help="Prune the residual width too.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is drawn.")
@_model_options
def prune(
    model: str,
    data: str,
    keep: str,
    out: str,
    valid: str | None,
    limit: int | None,
    method: str,
    score: str,
    uniform: bool,
    score_minutes: float,
    minutes: float,
    multiple_of: int,
    min_heads: int,
    width: bool,
    seed: int,
    device: str,
    dtype: str | None,
    threads: int | None,
    json_file: str | None,
    quiet: bool,
) -> None:
    """Make MODEL smaller and faster, and write the result to a folder."""
    from secateur.progress import ProgressBar
    from secateur.pruning.budget import Budget
    from secateur.pruning.oneshot import OneShot
    from secateur.pruning.prune import PruneSettings, prune
    from secateur.reporting.pruning import pruning_table
    from secateur.speech.skips import SkipLog

    Budget.parse(keep)
    settings = PruneSettings(
        model=model,
        data=data,
        keep=keep,
        valid=valid,
        valid_limit=limit,
        method=method,
        oneshot=OneShot(score, score_minutes, minutes, uniform, seed),
        multiple_of=multiple_of,
        min_heads=min_heads,
        width=width,
    )
    recognizer, skips = _load(model, device, dtype, threads), SkipLog()
    with ProgressBar("pruning", quiet=quiet) as progress:
        pruned = prune(settings, out, recognizer=recognizer, skips=skips, progress=progress)
    _tell(skips)
    _finish(pruned.report, json_file, pruning_table(pruned.report), f"The pruned model is in {out}.")


def _load(model: str, device: str, dtype: str | None, threads: int | None) -> Recognizer:
    import torch
    from transformers.utils import logging

    from secateur.recognizer import load

    # transformers reports on its own loading; what matters of it comes back as errors.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    return load(model, device=device, dtype=getattr(torch, dtype) if dtype else None)


def _tell(skips: SkipLog) -> None:
    if skips.skipped:
        click.echo(f"secateur: {skips.summary()}", err=True)


def _finish(figures: object, json_file: str | None, *shown: object) -> None:
    """Show results to people and write them for programs; not both on standard output."""
    from rich.console import Console

    if json_file != STANDARD_OUTPUT:
        # Where nobody looks, nothing should be wrapped.
        console = Console(width=None if sys.stdout.isatty() else 200)
        for each in shown:
            if isinstance(each, str):
                click.echo(each)
            else:
                console.print(each)
    if json_file is None:
        return
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    if json_file == STANDARD_OUTPUT:
        click.echo(text)
        return
    try:
        Path(json_file).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise SecateurError(f"cannot write {json_file}: {error.strerror or error}") from error
