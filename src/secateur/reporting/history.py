"""Charts of what a run learned: the figures of its history, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from secateur.progress import TARGET
from secateur.reporting.chart import Chart, Point, curve
from secateur.reporting.numbers import rounded_percent
from secateur.reporting.result import COSTS

TITLES = {
    "WER": "Validation WER",
    "loss": "Loss: CTC for a token",
    "output": "Loss: output distributions",
    "hidden": "Loss: residual streams",
    "task": "Loss: CTC",
    "params": "Expected parameters",
    "macs": "Expected MACs",
    "latency": "Expected latency",
}
"""What the figures of a history are called; others go by their own names."""


def phases(
    history: Mapping[str, Sequence[Mapping[str, Any]]], limits: Mapping[str, float]
) -> list[tuple[str, list[Chart]]]:
    """Charts of a report's ``history``, by what its phases are called in words.

    Args:
        history: by phase, figures of some steps, each with its ``step``.
        limits: what the budget allows, by the report's names of costs.
    """
    named = {phase: phase.partition("-") for phase in history}
    # The phases of all strides but the last are numbered.
    last = 1 + max((int(number) for _, _, number in named.values() if number), default=0)
    return [
        (f"{name}, stride {number or last} of {last}" if last > 1 else name, _charts(history[phase], limits))
        for phase, (name, _, number) in named.items()
    ]


def _charts(rows: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> list[Chart]:
    names = dict.fromkeys(
        name for row in rows for name in row if name != "step" and not name.startswith(TARGET)
    )
    charts = []
    for name in sorted(names, key=lambda name: list(TITLES).index(name) if name in TITLES else 99):
        points = _points(rows, name)
        if not points:
            continue
        fraction = name in COSTS or name == "WER"
        charts.append(
            curve(
                TITLES.get(name, name),
                points,
                rounded_percent if fraction else "{:.3g}".format,
                zero=not fraction,
                # It falls through orders of magnitude, and what matters is at the end.
                spread=name == "loss",
                limit=limits.get(COSTS[name]) if name in COSTS else None,
                target=_points(rows, TARGET + name),
            )
        )
    return charts


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    """A figure by step; one that is no number has no place on a chart."""
    points = [(float(row["step"]), float(row[name])) for row in rows if name in row]
    return [point for point in points if isfinite(point[1])]
