"""The table of a comparison of methods, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from secateur.pruning.compare import Comparison

COLUMNS = ("params", "MACs", "time", "WER valid", "WER test", "recovery")


def rivals_table(comparison: Comparison) -> RenderableType:
    """What `rich` prints of a comparison of `secateur.pruning.compare`: a line for each method, budget by budget."""
    tested = "test" in comparison.unpruned
    columns = [name for name in COLUMNS if tested or name != "WER test"]
    table = Table("method", box=SIMPLE_HEAD, show_edge=False)
    for name in columns:
        table.add_column(name, justify="right")

    def add(method: str, cells: Mapping[str, str]) -> None:
        table.add_row(method, *(cells.get(name, "") for name in columns))

    add("unpruned", {f"WER {name}": _rate(figures) for name, figures in comparison.unpruned.items()})
    failures = []
    budget = None
    for row in comparison.rows:
        if row.budget != budget:
            budget = row.budget
            table.add_section()
            table.add_row(Text(budget, style="bold"))
        if row.error is not None:
            failures.append(Text(f"{row.method}, {row.budget}: {row.error}"))
            add(row.method, {"WER valid": "not possible"})
            continue
        add(
            row.method,
            {
                "params": f"{row.kept['params']:.1%}",
                "MACs": f"{row.kept['macs_per_second']:.1%}",
                "time": f"{row.time['median']:.0%}" if row.time else "",
                "WER valid": _rate(row.valid),
                "WER test": _rate(row.test),
                "recovery": f"{sum(took for name, took in row.seconds.items() if name.startswith('recover')) / 60:.1f} min",
            },
        )
    return Group(
        table, Text("WER with its 95 % interval; params, MACs and time of what they were."), *failures
    )


def _rate(figures: Mapping[str, Any] | None) -> str:
    """A word error rate and its interval, in percent: ``4.11 (3.66 to 4.59)``."""
    if figures is None:
        return ""
    low, high = (100 * end for end in figures["wer_interval"])
    return f"{100 * figures['wer']:.2f} ({low:.2f} to {high:.2f})"
