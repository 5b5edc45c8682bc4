"""Pages to look at: one of a run, one of several runs side by side; a file each, which asks the network for nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from secateur.reporting import chart, numbers
from secateur.reporting.architecture import picture
from secateur.reporting.chart import Chart, Dot, Format
from secateur.reporting.history import phases
from secateur.reporting.quotes import Quote, quotes, recordings
from secateur.reporting.rendering import render
from secateur.reporting.result import REPORT, Result, Training, read, sound
from secateur.reporting.training import training_page

PAGE = "report.html"
"""What the page of a run is called, in the run's folder."""


def run_page(folder: str | Path) -> str:
    """The page of one run, as HTML.

    Raises:
        SecateurError: the folder holds no result, or a damaged one.
    """
    run = read(folder)
    with sound(run.folder / REPORT):
        return training_page(run) if isinstance(run, Training) else _pruning_page(run)


def _pruning_page(result: Result) -> str:
    limits = result.limits()
    return render(
        "run.html",
        result=result,
        report=result.report,
        limits=limits,
        picture=picture(result.report["units"]),
        test=_test(result),
        errors=_errors(result),
        phases=phases(result.report.get("history") or {}, limits),
        looks=_looks(result),
        quotes=_quotes(result),
        command=result.command("prune"),
    )


def comparison_page(folders: Sequence[str | Path], times: Mapping[str, float] | None = None) -> str:
    """The page of several runs, as HTML.

    Args:
        folders: of the runs.
        times: of a forward pass, for each second that the unpruned model takes, by the name of the folder.

    Raises:
        SecateurError: one of the folders holds no result or a damaged one.
    """
    times = times or {}
    runs = [(letters, read(folder)) for letters, folder in zip(_letters(), folders, strict=False)]
    names = Counter(run.name for _, run in runs)
    pictures, shares = [], []
    for _, run in runs:
        with sound(run.folder / REPORT):
            # What was trained is whole.
            pictures.append(None if isinstance(run, Training) else picture(run.report["units"]))
            shares.append(_time(run, times))
            if isinstance(run, Result):
                run.limits()
    return render(
        "comparison.html",
        runs=[
            # Folders of one name are told apart by where they are.
            (letters, run, run.name if names[run.name] == 1 else str(run.folder), share, drawn)
            for (letters, run), share, drawn in zip(runs, shares, pictures, strict=True)
        ],
        unpruned=_unpruned([run for _, run in runs]),
        strides=len({run.report["before"]["params"] for _, run in runs if isinstance(run, Result)}) > 1,
        trained=[letters for letters, run in runs if isinstance(run, Training)],
        speech=_same([_measured(run) for _, run in runs if run.heard], ("words", "utterances", "normalise")),
        charts=_trade_offs(runs, times),
    )


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
        "significant": numbers.significant(bootstrap["p"], pairs["p"]),
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


def _looks(result: Result) -> int | None:
    """On how many utterances at most the model was measured in between, where it was and that is known."""
    history = result.report.get("history") or {}
    if not any("WER" in row for rows in history.values() for row in rows):
        return None
    learned = result.settings.get("learned")
    count = learned.get("valid_utterances") if isinstance(learned, dict) else None
    return None if count is None or result.settings.get("valid") is None else int(count)


def _quotes(result: Result) -> list[Quote]:
    rows = result.report.get("changed") or []
    if not rows:
        return []
    valid = result.settings.get("valid")
    return quotes(rows, {} if valid is None else recordings(str(valid), rows))


def _letters() -> Iterator[str]:
    """What runs are called in pictures: A to Z, then AA, AB and so on."""
    for length in count(1):
        yield from map("".join, product(ascii_uppercase, repeat=length))


def _trade_offs(runs: Sequence[tuple[str, Result | Training]], times: Mapping[str, float]) -> list[Chart]:
    """Word error rate against each cost that is known of all."""
    heard = [(letters, run, {**run.figures, "time": _time(run, times)}) for letters, run in runs if run.heard]
    if not heard:
        return []
    unpruned = _unpruned([run for _, run, _ in heard])
    costs: list[tuple[str, str, Format]] = [
        ("params", "parameters", _short),
        ("macs_per_second", "MACs per second of audio", _short),
    ]
    if unpruned is not None and all(figures["time"] is not None for *_, figures in heard):
        costs.append(("time", "time, of the unpruned model's", numbers.rounded_percent))
    charts = []
    for name, cost, form in costs:
        dots = [_dot(letters, figures, name, run.name, form) for letters, run, figures in heard]
        if unpruned is not None:
            dots.insert(0, _dot("", {**unpruned, "time": 1.0}, name, "unpruned", form, kind="unpruned"))
        charts.append(chart.trade_off(f"WER against {cost}", cost, dots, (form, numbers.rounded_percent)))
    return charts


def _dot(letters: str, side: Mapping[str, Any], name: str, called: str, form: Format, kind: str = "") -> Dot:
    low, high = (float(end) for end in side["wer_interval"])
    text = f"{called}: WER {numbers.percent(side['wer'], 2)}, {form(side[name])}"
    return Dot(float(side[name]), float(side["wer"]), text, letters, (low, high), kind)


def _unpruned(runs: Sequence[Result | Training]) -> Mapping[str, Any] | None:
    """The figures that all pruned ones had before, if these were the same."""
    before = [run.report["before"] for run in runs if isinstance(run, Result)]
    return before[0] if before and _same(before, ("params", "macs_per_second", "wer", "words")) else None


def _time(run: Result | Training, times: Mapping[str, float]) -> float | None:
    """Of a forward pass, for each second that it took before pruning, where that was measured."""
    if run.name in times:
        return times[run.name]
    measured = run.report.get("forward") if isinstance(run, Result) else None
    return None if measured is None else float(measured["ratio"]["median"])


def _measured(run: Result | Training) -> Mapping[str, Any]:
    """Figures that say on what word error rates were measured."""
    return run.figures if isinstance(run, Training) else run.report["before"]


def _same(sides: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Mapping[str, Any] | None:
    """The first of the figures, if all agree on those of these names."""
    return sides[0] if len({tuple(str(side.get(name)) for name in names) for side in sides}) == 1 else None


def _short(value: float) -> str:
    return numbers.short(value) if value else "0"
