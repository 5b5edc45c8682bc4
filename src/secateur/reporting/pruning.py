"""What came of pruning, for the terminal: figures before and after, and what is left of each kind of unit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from secateur.reporting.numbers import short


def pruning_table(report: dict[str, Any]) -> RenderableType:
    """What `rich` prints of a report of `secateur.pruning.prune`."""
    table = Table.grid(padding=(0, 3))
    table.add_row("", "before", "after", "kept", style="bold")
    for row in _figures(report):
        table.add_row(*row)
    parts: list[RenderableType] = [table]
    if "comparison" in report:
        change = 100 * report["comparison"]["difference"]
        low, high = (100 * edge for edge in report["comparison"]["bootstrap"]["interval"])
        parts.append(
            Text(
                f"The word error rate changed by {change:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})."
            )
        )
    return Group(*parts)


def _figures(report: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    before, after = report["before"], report["after"]

    def kept(name: str) -> str:
        return f"{after[name] / before[name]:.1%}"

    yield "parameters", short(before["params"]), short(after["params"]), kept("params")
    name = "macs_per_second"
    yield "MACs per second of audio", short(before[name]), short(after[name]), kept(name)
    if "latency" in before:
        was, now = (f"{1000 * side['latency']:.1f} ms" for side in (before, after))
        yield "forward pass, predicted", was, now, kept("latency")
    if "forward" in report:
        was, now = (f"{1000 * report['forward'][side]['median']:.1f} ms" for side in ("before", "after"))
        seconds = report["forward"].get("seconds")
        of_audio = "" if seconds is None else f" of {seconds:g} s of audio"
        yield f"forward pass{of_audio}, measured", was, now, f"{report['forward']['ratio']['median']:.1%}"
    if "wer" in before:
        yield "WER", f"{before['wer']:.2%}", f"{after['wer']:.2%}", ""
        yield "real-time factor", f"{before['rtf']:.4f}", f"{after['rtf']:.4f}", ""
