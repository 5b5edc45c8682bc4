"""Pages to look at: one of a run, one of several runs side by side; a file each, which asks the network for nothing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import jinja2

from secateur import __version__
from secateur.errors import SecateurError, reason
from secateur.files import whole
from secateur.reporting import chart, numbers
from secateur.reporting.architecture import picture
from secateur.reporting.chart import Chart, Dot
from secateur.reporting.quotes import Quote, quotes, recordings
from secateur.reporting.result import COSTS, REPORT, Result, sound

PAGE = "report.html"
"""What the page of a run is called, in the run's folder."""

SIGNIFICANT = 0.05

NARROW = "\N{NARROW NO-BREAK SPACE}"
"""Between a number and its unit, which stay together."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

TITLES = {
    "WER": "Validation WER",
    "output": "Loss: output distributions",
    "hidden": "Loss: residual streams",
    "task": "Loss: CTC",
    "params": "Expected parameters",
    "macs": "Expected MACs",
    "latency": "Expected latency",
}
"""What the figures of a learned run's history are called; others go by their own names."""


def run_page(folder: str | Path) -> str:
    """The page of one run, as HTML.

    Raises:
        SecateurError: the folder holds no result, or a damaged one.
    """
    result = Result.read(folder)
    with sound(result.folder / REPORT):
        limits = result.limits()
        return _render(
            "run.html",
            result=result,
            report=result.report,
            limits=limits,
            picture=picture(result.report["units"]),
            test=_test(result),
            errors=_errors(result),
            phases=_phases(result, limits),
            looks=_looks(result),
            quotes=_quotes(result),
            command=f"secateur prune --config {shlex.quote(str(result.folder / 'run.yaml'))} --out again",
        )


def comparison_page(folders: Sequence[str | Path]) -> str:
    """The page of several runs, as HTML.

    Raises:
        SecateurError: one of the folders holds no result or a damaged one, or there are too many.
    """
    if len(folders) > len(LETTERS):
        raise SecateurError(f"{len(folders)} results are too many for one page: give at most {len(LETTERS)}")
    results = [Result.read(folder) for folder in folders]
    pictures = []
    for result in results:
        with sound(result.folder / REPORT):
            pictures.append(picture(result.report["units"]))
            result.limits()
    runs = list(zip(LETTERS, results, pictures, strict=False))
    return _render(
        "comparison.html",
        runs=runs,
        unpruned=_unpruned(results),
        speech=_same(results, ("words", "utterances", "normalise")),
        charts=_trade_offs(results),
    )


def write_page(page: str, out: str | Path) -> None:
    """Write a page; the file appears whole or not at all.

    Raises:
        SecateurError: it cannot be written.
    """
    try:
        with whole(Path(out)) as partial:
            partial.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SecateurError(
            f"{out} cannot be written: {reason(error)}; name another file with --out"
        ) from None


def _render(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("secateur.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "short": lambda number: numbers.short(number).replace(" ", NARROW),
        "percent": lambda *given: numbers.percent(*given).replace(" ", NARROW),
        "brief": lambda fraction: _percent(fraction).replace(" ", NARROW),
        "points": numbers.signed_points,
        "chance": numbers.chance,
        "duration": lambda seconds: numbers.duration(seconds).replace(" ", "\N{NO-BREAK SPACE}"),
    }
    environment.globals |= {"version": __version__, "field": chart}
    try:
        return environment.get_template(template).render(values)
    except jinja2.UndefinedError as error:
        raise SecateurError(
            f"a {REPORT} is not as `secateur prune` writes it ({reason(error)}): run that again"
        ) from None


def _test(result: Result) -> dict[str, Any] | None:
    """What the paired tests say of the two word error rates."""
    if "comparison" not in result.report:
        return None
    found = result.report["comparison"]
    bootstrap, pairs = found["bootstrap"], found["mapsswe"]
    low, high = (float(end) for end in bootstrap["interval"])
    return {
        "difference": float(found["difference"]),
        "low": low,
        "high": high,
        "bootstrap": float(bootstrap["p"]),
        "pairs": float(pairs["p"]),
        "segments": int(pairs["segments"]),
        "significant": max(bootstrap["p"], pairs["p"]) < SIGNIFICANT,
    }


def _errors(result: Result) -> list[dict[str, Any]]:
    """Both word error rates with their intervals, in percent of the widest."""
    if not result.heard:
        return []
    sides = [(name, result.report[name]) for name in ("before", "after")]
    most = max(side["wer_interval"][1] for _, side in sides) or 1.0
    return [
        {
            "name": name,
            "wer": float(side["wer"]),
            "interval": [float(end) for end in side["wer_interval"]],
            "at": [round(100 * value / most, 2) for value in (side["wer"], *side["wer_interval"])],
        }
        for name, side in sides
    ]


def _phases(result: Result, limits: dict[str, float]) -> list[tuple[str, list[Chart]]]:
    """Charts of the history of a learned run, phase by phase."""
    phases = []
    for phase, rows in (result.report.get("history") or {}).items():
        names = dict.fromkeys(name for row in rows for name in row if name != "step")
        charts = []
        for name in sorted(names, key=lambda name: list(TITLES).index(name) if name in TITLES else 99):
            points = [(float(row["step"]), float(row[name])) for row in rows if name in row]
            # A loss that is no number has no place on a chart.
            points = [point for point in points if isfinite(point[1])]
            if not points:
                continue
            fraction = name in COSTS or name == "WER"
            charts.append(
                chart.curve(
                    TITLES.get(name, name),
                    points,
                    _percent if fraction else _plain,
                    zero=not fraction,
                    limit=limits.get(COSTS[name]) if name in COSTS else None,
                )
            )
        phases.append((phase, charts))
    return phases


def _looks(result: Result) -> int | None:
    """On how many utterances at most the model was measured in between, where that is known."""
    learned = result.settings.get("learned")
    count = learned.get("valid_utterances") if isinstance(learned, dict) else None
    return None if count is None or result.settings.get("valid") is None else int(count)


def _quotes(result: Result) -> list[Quote]:
    rows = result.report.get("changed") or []
    if not rows:
        return []
    valid = result.settings.get("valid")
    return quotes(rows, {} if valid is None else recordings(str(valid), rows))


def _trade_offs(results: Sequence[Result]) -> list[Chart]:
    """Word error rate against each cost that is known of all."""
    heard = [(letter, result) for letter, result in zip(LETTERS, results, strict=False) if result.heard]
    if not heard:
        return []
    charts = []
    for name, cost in (("params", "parameters"), ("macs_per_second", "MACs per second of audio")):
        dots = [_dot(letter, result.report["after"], name, result.name) for letter, result in heard]
        unpruned = _unpruned([result for _, result in heard])
        if unpruned is not None:
            dots.insert(0, _dot("", unpruned, name, "unpruned", kind="unpruned"))
        charts.append(chart.trade_off(f"WER against {cost}", cost, dots, (_short, _percent)))
    return charts


def _dot(letter: str, side: dict[str, Any], name: str, called: str, kind: str = "") -> Dot:
    low, high = (float(end) for end in side["wer_interval"])
    text = f"{called}: WER {numbers.percent(side['wer'], 2)}, {numbers.short(side[name])}"
    return Dot(float(side[name]), float(side["wer"]), text, letter, (low, high), kind)


def _unpruned(results: Sequence[Result]) -> dict[str, Any] | None:
    """The figures that all had before, if these were the same."""
    if not _same(results, ("params", "macs_per_second", "wer", "words")):
        return None
    found: dict[str, Any] = results[0].report["before"]
    return found


def _same(results: Sequence[Result], names: Sequence[str]) -> bool:
    """Whether all runs agree on these figures from before."""
    return len({tuple(str(result.report["before"].get(name)) for name in names) for result in results}) == 1


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _plain(value: float) -> str:
    return f"{value:.3g}"


def _short(value: float) -> str:
    return numbers.short(value) if value else "0"
