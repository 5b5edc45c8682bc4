"""The page of a training: what was asked and what came out, how it was learned, and what is heard worst."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secateur.reporting.history import phases
from secateur.reporting.quotes import Quote, quotes, recordings
from secateur.reporting.rendering import render
from secateur.reporting.result import Training

QUOTES = 6
"""Of the utterances with the most errors, how many are shown."""


def training_page(training: Training) -> str:
    """The page of one training, as HTML.

    Raises:
        SecateurError: the report lacks what every page shows.
    """
    report, figures = training.report, training.figures
    return render(
        "training.html",
        training=training,
        report=report,
        settings=training.settings,
        figures=figures,
        seconds=_seconds(training),
        parts=[
            (title, _parts(report.get("kinds") or [], name))
            for title, name in (("Parameters", "params"), ("Multiply-accumulates", "macs"))
        ],
        phases=phases(report.get("history") or {}, {}),
        kept=report.get("kept_step"),
        quotes=_quotes(training),
        command=training.command("train"),
    )


def _seconds(training: Training) -> float | None:
    """How long the steps took, over all runs if it was stopped in between."""
    phase = sum(float(seconds) for seconds in training.report.get("phase_seconds", {}).values())
    return phase or None


def _parts(kinds: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """What each kind of part has of a figure, of all and of the largest."""
    values = {str(kind["kind"]): float(kind[name]) for kind in kinds if kind[name]}
    whole, most = sum(values.values()), max(values.values(), default=1.0)
    return [
        {"kind": kind, "value": value, "share": value / whole, "at": round(100 * value / most, 2)}
        for kind, value in values.items()
    ]


def _quotes(training: Training) -> list[Quote]:
    rows = [
        row | {"hypotheses": [row["hypothesis"]], "errors": [row["errors"]]}
        for row in training.figures.get("worst", [])[:QUOTES]
    ]
    valid = training.settings.get("valid")
    return quotes(rows, {} if valid is None or not rows else recordings(str(valid), rows))
