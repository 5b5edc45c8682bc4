"""Draw what a comparison came to, for the README: word error rates against parameters and against measured time.

    python -m benchmarks.picture                       the rows that benchmarks.arena has recorded
    python -m benchmarks.picture arena/compare.json    a comparison that `secateur compare` has left

Needs Matplotlib: pip install '.[figures]'.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.arena import PREFIX, comparable
from benchmarks.record import RESULTS, ROOT, Figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUTSIDER = RESULTS / "whisper_tiny_test.json"
OUT = ROOT / "docs" / "pictures" / "compare.png"

INK, QUIET, LINE = "#1b1f1d", "#6b756f", "#d9ddd8"
OURS, OUTSIDE, OTHERS = "#1d7a52", "#a8421d", "#7c8a99"
WHISPER = "Whisper tiny.en"
UNPRUNED = "unpruned"
DEFAULT = "obs"
"""What `secateur prune` does when nobody says."""
OUTSIDE_NAMES = ("torch-pruning", WHISPER)
WIDTH, HEIGHT, DPI = 10.0, 5.4, 160
"""In inches, and dots in one."""

COSTS = {
    "params": ("{:g} M", "parameters"),
    "time": ("{:g} %", "time of a forward pass, of the unpruned model's"),
}
"""What stands on the two axes of costs, and how their marks are written."""

MARKS = (1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100, 200, 300, 500)
"""Percent, or millions of parameters."""

GAP = 12.0
"""Points between the lines of names."""


@dataclass(frozen=True)
class Point:
    """One model: what it is called, its budget, its costs by name, its word error rate and the interval's ends."""

    name: str
    budget: str
    costs: Mapping[str, float]
    wer: float
    low: float
    high: float


def read_points(file: Path, outsider: Path | None = None) -> tuple[list[Point], str]:
    """The models of a comparison, the unpruned one first, and what they were measured on: ``test``, else ``valid``.

    Args:
        file: a record of a comparison, or a folder with results of `benchmarks.arena`, of which those are drawn that can be compared.
        outsider: a result of `benchmarks.whisper`, which belongs to ``test`` alone.
    """
    figures = _gathered(file) if file.is_dir() else _read(file)
    name = "test" if "test" in figures["unpruned"] else "valid"
    dense = figures["unpruned"][name]
    points = [_point("unpruned", "", dense["params"], 1.0, dense)]
    for row in figures["rows"]:
        if row["error"] is None:
            time = row["time"]["median"] if row["time"] else math.nan
            points.append(_point(row["method"], row["budget"], row["valid"]["params"], time, row[name]))
    if outsider is not None and outsider.exists() and name == "test":
        found = _read(outsider)["figures"]
        whisper = found["whisper"]
        # Beside other speech it would say nothing; and all are scored by the same rules.
        if all(found[length] == dense[length] for length in ("utterances", "audio_seconds")):
            scored = whisper["basic"]
            points.append(_point(WHISPER, "", whisper["params"], found["time"]["median"], scored))
    return points, name


def _gathered(folder: Path) -> Figures:
    """The rows that lie in a folder, as a record of a comparison has them."""
    results = comparable([_read(file) for file in sorted(folder.glob(f"{PREFIX}*.json"))])
    figures = [each["figures"] for each in results]
    if not figures:
        raise SystemExit(f"{folder} has no rows to draw: python -m benchmarks.arena makes them")
    return {"unpruned": figures[0]["unpruned"], "rows": [each["row"] for each in figures]}


def draw(points: Sequence[Point], measured_on: str, out: Path) -> None:
    """Draw two panels, and write them as PNG."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    settings: dict[Any, Any] = {
        "font.size": 10, "font.family": "DejaVu Sans", "text.color": INK, "axes.edgecolor": LINE,
        "xtick.color": QUIET, "ytick.color": QUIET, "axes.labelcolor": QUIET,
    }  # fmt: skip
    with plt.rc_context(settings):
        figure, panels = plt.subplots(
            1, 2, figsize=(WIDTH, HEIGHT), dpi=DPI, sharey=True, layout="constrained", facecolor="white"
        )
        for panel, cost in zip(panels, COSTS, strict=True):
            _axes(panel, points, cost)
        panels[0].set_title(
            f"Word error rate on {measured_on}, with 95 % intervals",
            loc="left",
            fontsize=11,
            color=INK,
            pad=12,
        )
        # Where things stand is known only now, and names are placed by it.
        figure.canvas.draw()
        figure.set_layout_engine("none")
        for panel, cost in zip(panels, COSTS, strict=True):
            known = [point for point in points if math.isfinite(point.costs[cost])]
            _points(panel, known, cost)
            _names(panel, known, cost)
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, metadata={"Software": None})
        plt.close(figure)


def _axes(panel: Axes, points: Sequence[Point], cost: str) -> None:
    """Both axes, logarithmic, with round marks."""
    costs = [point.costs[cost] for point in points if math.isfinite(point.costs[cost])]
    # Room on the right for the name of the largest.
    across = (min(costs, default=0.5) / 1.3, 1.8 * max(costs, default=1.0))
    up = (min(point.low for point in points) / 1.15, 1.15 * max(point.high for point in points))
    form, label = COSTS[cost]
    panel.set(xscale="log", yscale="log", xlim=across, ylim=up)
    scale = 1e6 if cost == "params" else 0.01
    # Across there is no room for as many as there is upwards.
    marks = [mark for mark in MARKS if str(mark)[0] in "125"]
    xs = [mark * scale for mark in marks if across[0] <= mark * scale <= across[1]]
    ys = [mark / 100 for mark in MARKS if up[0] <= mark / 100 <= up[1]]
    panel.set_xticks(xs, [form.format(x / scale) for x in xs])
    panel.set_yticks(ys, [f"{100 * y:g} %" for y in ys])
    panel.minorticks_off()
    panel.grid(axis="y", color=LINE, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(length=0)
    panel.set_xlabel(label, loc="right")


def _points(panel: Axes, points: Sequence[Point], cost: str) -> None:
    for name in dict.fromkeys(point.name for point in points):
        mine = sorted((each for each in points if each.name == name), key=lambda each: each.costs[cost])
        colour = _colour(name)
        ours = name == DEFAULT
        xs, ys = [each.costs[cost] for each in mine], [each.wer for each in mine]
        panel.plot(xs, ys, color=colour, linewidth=1.8 if ours else 0.9, alpha=1.0 if ours else 0.5, zorder=3)
        panel.errorbar(
            xs,
            ys,
            yerr=[[each.wer - each.low for each in mine], [each.high - each.wer for each in mine]],
            fmt="D" if name in OUTSIDE_NAMES else "o",
            color=colour,
            markersize=6 if ours else 4.5,
            markerfacecolor="white" if name == UNPRUNED else colour,
            elinewidth=1.0,
            zorder=5 if ours else 4,
        )


def _names(panel: Axes, points: Sequence[Point], cost: str) -> None:
    """Write each name once, to the right of its model at the budget that most have, as that is where all can be compared."""
    budgets = Counter(point.budget for point in points if point.budget)
    named: dict[str, Point] = {}
    for point in sorted(points, key=lambda each: (-budgets[each.budget], each.costs[cost])):
        named.setdefault(point.name, point)
    for budget in dict.fromkeys(point.budget for point in named.values() if point.budget):
        column = sorted((p for p in named.values() if p.budget == budget), key=lambda point: point.wer)
        places = [_place(panel, point, cost) for point in column]
        x = max(x for x, _ in places) + 20
        heights = _spread([y for _, y in places])
        for point, y in zip(column, heights, strict=True):
            _name(panel, point, cost, (x, y), "left", tied=True)
    for point in named.values():
        if not point.budget:
            x, y = _place(panel, point, cost)
            # Lines lead to the unpruned model from above.
            beside = point.name == UNPRUNED
            at, side = ((x + 8, y), "left") if beside else ((x + 20, y + 16), "right")
            _name(panel, point, cost, at, side, tied=False)


def _place(panel: Axes, point: Point, cost: str) -> tuple[float, float]:
    """Where a model stands, in points from the lower left corner of the figure."""
    x, y = panel.transData.transform((point.costs[cost], point.wer)) * 72 / DPI
    return float(x), float(y)


def _name(panel: Axes, point: Point, cost: str, at: tuple[float, float], side: str, *, tied: bool) -> None:
    from matplotlib.patheffects import withStroke

    line = {"arrowstyle": "-", "color": QUIET, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 4}
    panel.annotate(
        point.name if (point.name, cost) != (WHISPER, "time") else f"{WHISPER}, decoding too",
        xy=_place(panel, point, cost),
        xytext=at,
        xycoords="figure points",
        textcoords="figure points",
        ha=side,
        va="center",
        fontsize=9,
        fontweight="bold" if point.name == DEFAULT else "normal",
        color=_colour(point.name),
        arrowprops=line if tied else None,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        zorder=6,
    )


def _spread(heights: Sequence[float]) -> list[float]:
    """Heights, in rising order, moved apart to `GAP` at least, and as little as that takes."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _bottom(groups[-1]) < _bottom(groups[-2]) + GAP * len(groups[-2]):
            last = groups.pop()
            groups[-1] += last
    return [_bottom(group) + GAP * index for group in groups for index in range(len(group))]


def _bottom(group: Sequence[float]) -> float:
    """Where the lowest line of names stands that are centred on where they belong."""
    return sum(group) / len(group) - GAP * (len(group) - 1) / 2


def _colour(name: str) -> str:
    if name == DEFAULT:
        return OURS
    return OUTSIDE if name in OUTSIDE_NAMES else INK if name == UNPRUNED else OTHERS


def _point(name: str, budget: str, params: float, time: float, heard: Figures) -> Point:
    low, high = heard["wer_interval"]
    # A logarithmic axis has no nothing.
    return Point(name, budget, {"params": params, "time": time}, heard["wer"], max(low, 1e-3), high)


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{file} cannot be read: {error}") from None
    return content


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a comparison that was recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "comparison", type=Path, nargs="?", default=RESULTS, help="compare.json, or a folder of results"
    )
    parser.add_argument("--whisper", type=Path, default=OUTSIDER, help="result of benchmarks.whisper")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    points, measured_on = read_points(options.comparison, options.whisper)
    draw(points, measured_on, options.out)
    print(f"{len(points)} models are drawn in {options.out}")


if __name__ == "__main__":
    main()
