"""The figures of an evaluation and of a comparison, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from secateur.evaluation.comparison import Comparison
from secateur.evaluation.results import Evaluation, UtteranceResult
from secateur.progress import clock
from secateur.reporting.numbers import chance, counted, short, significant


def evaluation_table(model: str, evaluation: Evaluation, worst: int = 0) -> RenderableType:
    """What `rich` prints of one model: a line for each figure, then the ``worst`` utterances."""
    table = Table.grid(padding=(0, 2))
    for name, value in _figures(evaluation):
        table.add_row(name, value)
    parts: list[RenderableType] = [Text(model, style="bold"), table]
    for row in evaluation.worst(worst):
        parts += [Text(), *_utterance(row)]
    return Group(*parts, Text())


def comparison_text(comparison: Comparison, model: str, other: str) -> RenderableType:
    """What `rich` prints of two models: how much more or less the first one's WER is, and whether that is more than chance."""
    bootstrap, pairs = comparison.bootstrap, comparison.matched_pairs
    verdict = "more than chance" if significant(bootstrap.p, pairs.p) else "which may be chance"
    points = 100 * comparison.difference
    told = (
        f"{model} has {abs(points):.2f} points {'more' if points > 0 else 'less'} WER than {other}, {verdict}."
        if points
        else f"{model} and {other} have the same WER."
    )
    low, high = 100 * bootstrap.interval.low, 100 * bootstrap.interval.high
    return Group(
        Text(told, style="bold"),
        Text(f"95 % interval {low:+.2f} to {high:+.2f}; {chance(bootstrap.p)} by paired bootstrap,"),
        Text(f"{chance(pairs.p)} by matched pairs (MAPSSWE, {counted(pairs.segments, 'segment')})"),
    )


def _figures(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    words, interval = evaluation.words, evaluation.interval
    yield "WER", f"{evaluation.wer:.2%}  (95 % interval {interval.low:.2%} to {interval.high:.2%})"
    yield "CER", f"{evaluation.cer:.2%}"
    kinds = f"{words.substitutions} substituted, {words.deletions} deleted, {words.insertions} inserted"
    yield "word errors", f"{words.errors} of {words.reference}: {kinds}"
    yield "speech", f"{counted(evaluation.utterances, 'utterance')}, {clock(evaluation.audio_seconds)}"
    yield "real-time factor", f"{evaluation.rtf:.4f}  (model alone {evaluation.rtf_model:.4f})"
    if evaluation.peak_memory_mb is not None:
        yield "peak memory", f"{evaluation.peak_memory_mb:.0f} MB"
    yield "parameters", short(evaluation.params)
    yield "MACs", f"{short(evaluation.macs_per_second)} per second of audio"


def _utterance(row: UtteranceResult) -> Iterator[Text]:
    yield Text(f"{row.id}: word errors {row.words.errors} of {row.words.reference}", style="bold")
    yield Text(f"  said   {row.reference}")
    yield Text(f"  heard  {row.hypothesis}")
