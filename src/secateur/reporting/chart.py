"""Line charts and trade-off curves as geometry, for a template to draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

WIDTH, HEIGHT = 360.0, 216.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 10.0, 36.0
"""What surrounds the field, in the same units."""

BINS = 90
"""Columns that a curve with more points is drawn by: their mean, and between which values they lie."""

LOGARITHMIC = 12.0
"""Values that span more than this ratio are drawn on a logarithmic axis."""

NEAR = 1.005
"""Costs that differ by less than this ratio count as the same when models are compared."""

BESIDE = ((11, 0), (-11, 0), (0, -13), (0, 13), (11, -12), (11, 12), (-11, -12), (-11, 12))
"""Where a dot's letter may stand, the best place first."""

ROOM = 11.0
"""How far apart letters and dots have to be."""

Point = tuple[float, float]
Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values, and where marks stand on it."""

    low: float
    high: float
    marks: tuple[float, ...]
    logarithmic: bool = False

    @classmethod
    def over(cls, values: Sequence[float], *, zero: bool = False, spread: bool = False) -> Axis:
        """An axis with round marks that holds these values.

        Args:
            values: at least one.
            zero: begin at nothing.
            spread: be logarithmic where the values differ by orders of magnitude.
        """
        low, high = min(values), max(values)
        if spread and low > 0 and high / low > LOGARITHMIC:
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            marks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
            first = max(mark for mark in marks if mark <= low * NEAR)
            last = min(mark for mark in marks if mark >= high / NEAR)
            return cls(first, last, tuple(m for m in marks if first <= m <= last), logarithmic=True)
        low = 0.0 if zero and low > 0 else low
        if high == low:
            low, high = (low - 1, high + 1) if low <= 0 else (0.9 * low, 1.1 * high)
        raw = (high - low) / 4
        magnitude = 10.0 ** math.floor(math.log10(raw))
        step = min((m * magnitude for m in (1, 2, 2.5, 5, 10)), key=lambda each: abs(each - raw))
        first, last = math.floor(low / step), math.ceil(high / step)
        marks = [round(index * step, 12) for index in range(first, last + 1)]
        return cls(marks[0], marks[-1], tuple(marks))

    def share(self, value: float) -> float:
        """Where a value stands, from 0 to 1."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Dot:
    """A point to look at: its place, what it says when pointed at, its letter and where that stands, its interval's ends."""

    x: float
    y: float
    text: str
    label: str = ""
    interval: tuple[float, float] | None = None
    kind: str = ""
    label_at: Point = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart in a field of `WIDTH` by `HEIGHT`.

    Attributes:
        title: what is drawn.
        summary: the same in a sentence, for those who do not see it.
        x_label: what goes to the right.
        x_marks, y_marks: places and texts.
        line: its points, joined.
        band: the outline of what the line is the mean of.
        dots: points of their own.
        rule: a level to compare with, and its text.
    """

    title: str
    summary: str
    x_label: str
    x_marks: tuple[tuple[float, str], ...]
    y_marks: tuple[tuple[float, str], ...]
    line: str = ""
    band: str = ""
    dots: tuple[Dot, ...] = ()
    rule: tuple[float, str] | None = None


def curve(
    title: str, points: Sequence[Point], form: Format, *, zero: bool = False, limit: float | None = None
) -> Chart:
    """A figure by step, with the level that it may not be above."""
    last = points[-1]
    across = Axis.over([0.0, *(x for x, _ in points)])
    # What lies beyond the last step is empty.
    across = Axis(across.low, last[0] or 1.0, tuple(m for m in across.marks if m <= (last[0] or 1.0)))
    up = Axis.over([*(y for _, y in points), *([] if limit is None else [limit])], zero=zero)
    x, y = _places(across, up)
    summary = (
        f"{title} from {form(points[0][1])} at step {points[0][0]:g} to {form(last[1])} at step {last[0]:g}"
    )
    if limit is not None:
        summary += f"; the limit is {form(limit)}"
    means, lows, highs = _binned(points)
    few = len(points) == len(means)
    return Chart(
        title,
        f"{summary}.",
        "step",
        _marks(across, x, lambda value: f"{value:g}"),
        _marks(up, y, form),
        line=_joined((x(a), y(b)) for a, b in means),
        band="" if few else _joined((x(a), y(b)) for a, b in [*highs, *reversed(lows)]),
        dots=tuple(Dot(x(a), y(b), f"step {a:g}: {form(b)}") for a, b in points)
        if few and len(points) <= BINS // 3
        else (),
        rule=None if limit is None else (y(limit), f"limit {form(limit)}"),
    )


def trade_off(title: str, x_label: str, dots: Sequence[Dot], forms: tuple[Format, Format]) -> Chart:
    """Error rates against a cost, with the line along those that none is better than in both.

    Args:
        title: of the chart.
        x_label: the cost.
        dots: at their values.
        forms: how the cost and the error rate are written.
    """
    across = Axis.over([dot.x for dot in dots], zero=True)
    ends = [end for dot in dots for end in (dot.y, *(dot.interval or ()))]
    up = Axis.over([end for end in ends if end > 0] or ends, zero=True, spread=True)
    x, y = _places(across, up)

    def clipped(value: float) -> float:
        return y(max(value, up.low))

    placed = [
        replace(
            dot,
            x=x(dot.x),
            y=clipped(dot.y),
            interval=None if dot.interval is None else (clipped(dot.interval[0]), clipped(dot.interval[1])),
        )
        for dot in dots
    ]
    said = "; ".join(f"{dot.label} {dot.text}" for dot in dots)
    return Chart(
        title,
        f"{title}: {said}.",
        x_label,
        _marks(across, x, forms[0]),
        _marks(up, y, forms[1]),
        line=_joined((x(dot.x), clipped(dot.y)) for dot in _best(dots)),
        dots=_labelled(placed),
    )


def _best(dots: Sequence[Dot]) -> list[Dot]:
    """Those that none is better than in both, by rising cost."""
    best: list[Dot] = []
    for dot in sorted(dots, key=lambda each: (each.x, each.y)):
        if not best or dot.y < best[-1].y:
            if best and dot.x <= NEAR * best[-1].x:
                best.pop()
            best.append(dot)
    return best


def _labelled(dots: Sequence[Dot]) -> tuple[Dot, ...]:
    """The same dots, with places for their letters where there is room."""
    taken = [(dot.x, dot.y) for dot in dots]
    labelled = []
    for dot in dots:
        places = [(dot.x + right, dot.y + down) for right, down in BESIDE]
        free = [at for at in places if all(math.dist(at, other) >= ROOM for other in taken)]
        at = (free or places)[0]
        if dot.label:
            taken.append(at)
        labelled.append(replace(dot, label_at=(round(at[0], 1), round(at[1], 1))))
    return tuple(labelled)


def _places(across: Axis, up: Axis) -> tuple[Callable[[float], float], Callable[[float], float]]:
    def x(value: float) -> float:
        return round(LEFT + across.share(value) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - up.share(value) * (HEIGHT - TOP - BOTTOM), 1)

    return x, y


def _marks(axis: Axis, place: Callable[[float], float], form: Format) -> tuple[tuple[float, str], ...]:
    return tuple((place(mark), form(mark)) for mark in axis.marks)


def _binned(points: Sequence[Point]) -> tuple[list[Point], list[Point], list[Point]]:
    """Means, least and greatest values of neighbouring points, at most `BINS` of them."""
    if len(points) <= BINS:
        whole = list(points)
        return whole, whole, whole
    edges = [round(i * len(points) / BINS) for i in range(BINS + 1)]
    bins = [points[start:end] for start, end in pairwise(edges)]
    middle = [sum(x for x, _ in each) / len(each) for each in bins]
    values = [[y for _, y in each] for each in bins]
    return (
        [(x, sum(ys) / len(ys)) for x, ys in zip(middle, values, strict=True)],
        [(x, min(ys)) for x, ys in zip(middle, values, strict=True)],
        [(x, max(ys)) for x, ys in zip(middle, values, strict=True)],
    )


def _joined(points: Iterable[Point]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
