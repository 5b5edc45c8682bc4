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

ROOM = 11.0
"""How far apart the lines of letters are, and letters and dots."""

LETTER = 9.0
"""How wide a letter is."""

CROWD = 12
"""Dots that a chart of `HEIGHT` has room for; with each one more it grows by half a line, to at most twice that height."""

FAR = 9
"""How many lines and columns away from its dot a letter may stand."""

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
        # Marks have three figures, and must not look alike.
        short = 0.04 * max(abs(low), abs(high)) - (high - low)
        if high == low == 0:
            low, high = 0.0, 1.0
        elif short > 0:
            low, high = low - short / 2, high + short / 2
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
    """A point to look at: its place, what it says when pointed at, its letters and where they stand, its interval's ends.

    ``tied`` is where a line to the letters begins and ends, if these do not stand beside the dot.
    """

    x: float
    y: float
    text: str
    label: str = ""
    interval: tuple[float, float] | None = None
    kind: str = ""
    label_at: Point = (0.0, 0.0)
    tied: tuple[Point, Point] | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart in a field of `WIDTH` by its height.

    Attributes:
        title: what is drawn.
        summary: the same in a sentence, for those who do not see it.
        x_label: what goes to the right.
        x_marks, y_marks: places and texts.
        line: its points, joined.
        band: the outline of what the line is the mean of.
        dots: points of their own.
        rule: a level to compare with, and its text.
        target: what the line was to follow: its points, joined.
        height: of the field.
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
    target: str = ""
    height: float = HEIGHT


def curve(
    title: str,
    points: Sequence[Point],
    form: Format,
    *,
    zero: bool = False,
    spread: bool = False,
    limit: float | None = None,
    target: Sequence[Point] = (),
) -> Chart:
    """A figure by step, with the level that it may not be above in the end, and what it was to come to at each step.

    For ``zero`` and ``spread`` see `Axis.over`.
    """
    last = points[-1]
    across = Axis.over([0.0, *(x for x, _ in points)])
    # What lies beyond the last step is empty.
    across = Axis(across.low, last[0] or 1.0, tuple(m for m in across.marks if m <= (last[0] or 1.0)))
    heights = [*(y for _, y in [*points, *target]), *([] if limit is None else [limit])]
    up = Axis.over(heights, zero=zero, spread=spread)
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
        target=_joined((x(a), y(b)) for a, b in target),
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
    height = min(HEIGHT + ROOM / 2 * max(0, len(dots) - CROWD), 2 * HEIGHT)
    x, y = _places(across, up, height)

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
        dots=_labelled(placed, height),
        height=height,
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


def _labelled(dots: Sequence[Dot], height: float = HEIGHT) -> tuple[Dot, ...]:
    """The same dots, with the nearest places for their letters where there is room.

    The more crowded a dot is the earlier it chooses, so that letters move away from a crowd rather than into it.
    """
    taken = [(dot.x, dot.y, ROOM) for dot in dots]
    crowded = sorted(
        range(len(dots)),
        key=lambda i: -sum(math.dist((dots[i].x, dots[i].y), each[:2]) < 3 * ROOM for each in taken),
    )
    found = dict[int, Dot]()
    for index in crowded:
        dot = dots[index]
        width = ROOM + LETTER * (len(dot.label) - 1)
        at = _free(dot, width, taken, height)
        if dot.label:
            taken.append((*at, width))
        found[index] = replace(dot, label_at=at, tied=_tie(dot, at, width))
    return tuple(found[index] for index in range(len(dots)))


def _free(dot: Dot, width: float, taken: Sequence[tuple[float, float, float]], height: float) -> Point:
    """The place for letters that is nearest to their dot, of those that nothing else stands in."""
    lines = [sign * ROOM * line / 2 for line in range(2 * FAR + 1) for sign in (1, -1)]
    columns = [
        sign * (ROOM * (column - 1) + (ROOM + width) / 2) for column in range(1, FAR) for sign in (1, -1)
    ]
    offsets = [(across, down) for across in [0.0, *columns] for down in lines if across or abs(down) > ROOM]
    # Sideways rather than up or down, where whiskers are.
    offsets.sort(key=lambda each: (math.hypot(*each) + (ROOM / 2 if not each[0] else 0), each[0] < 0))
    places = [(round(dot.x + across, 1), round(dot.y + down, 1)) for across, down in offsets]
    inside = [
        (x, y)
        for x, y in places
        if LEFT + width / 2 <= x <= WIDTH - width / 2 and TOP <= y <= height - BOTTOM - ROOM / 2
    ]
    for x, y in inside:
        if all(abs(x - a) >= (width + room) / 2 or abs(y - b) >= ROOM for a, b, room in taken):
            return x, y
    return places[0]


def _tie(dot: Dot, at: Point, width: float) -> tuple[Point, Point] | None:
    """A line from a dot to letters further away than those beside it."""
    across, down = at[0] - dot.x, at[1] - dot.y
    if abs(across) <= (ROOM + width) / 2 and abs(down) <= 1.5 * ROOM:
        return None
    # It ends short of the letters.
    short = 1 - ROOM / 2 / math.hypot(across, down)
    return (dot.x, dot.y), (round(dot.x + short * across, 1), round(dot.y + short * down, 1))


def _places(
    across: Axis, up: Axis, height: float = HEIGHT
) -> tuple[Callable[[float], float], Callable[[float], float]]:
    def x(value: float) -> float:
        return round(LEFT + across.share(value) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(height - BOTTOM - up.share(value) * (height - TOP - BOTTOM), 1)

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
