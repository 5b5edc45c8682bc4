from __future__ import annotations

import math

import pytest

from secateur.reporting.chart import (
    BINS,
    BOTTOM,
    HEIGHT,
    LEFT,
    LETTER,
    RIGHT,
    ROOM,
    WIDTH,
    Axis,
    Dot,
    curve,
    trade_off,
)


def text(value: float) -> str:
    return f"{value:g}"


def places(line: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (point.split(",") for point in line.split())]


@pytest.mark.parametrize(
    "values", [(0.0, 1.0), (3.0, 3.0), (0.0, 0.0), (-2.0, 5.0), (1e-7, 3e-7), (12.0, 13.1), (0.4988, 0.5013)]
)
def test_an_axis_holds_its_values_between_round_marks(values: tuple[float, ...]) -> None:
    axis = Axis.over(values)
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert 2 <= len(axis.marks) <= 8
    assert all(0 <= axis.share(value) <= 1 for value in values)
    assert len({f"{mark:.3g}" for mark in axis.marks}) == len(axis.marks)


def test_values_of_different_orders_get_a_logarithmic_axis() -> None:
    axis = Axis.over([0.041, 0.97], spread=True)
    assert axis.logarithmic
    assert axis.marks == pytest.approx((0.02, 0.05, 0.1, 0.2, 0.5, 1.0))
    assert not Axis.over([0.041, 0.1], spread=True).logarithmic


def test_a_long_curve_is_drawn_as_means_within_a_band() -> None:
    points = [(float(step), float(step % 2)) for step in range(10 * BINS)]
    chart = curve("loss", points, text)
    assert len(places(chart.line)) == BINS
    assert len(places(chart.band)) == 2 * BINS
    middle = places(chart.line)[5][1]
    low, high = sorted({y for _, y in places(chart.band)})
    assert middle == pytest.approx((low + high) / 2)


@pytest.mark.parametrize("points", [[(0.0, 0.5)], [(7.0, 0.5)], [(0.0, 0.0), (5.0, 0.0)]])
def test_a_curve_of_few_points_stays_in_its_field(points: list[tuple[float, float]]) -> None:
    chart = curve("WER", points, text, limit=0.4)
    assert len(chart.dots) == len(points)
    assert all(LEFT <= dot.x <= WIDTH - RIGHT and 0 <= dot.y <= HEIGHT for dot in chart.dots)
    assert chart.rule is not None
    assert "the limit is 0.4" in chart.summary


def test_what_a_figure_was_to_come_to_is_drawn_beside_it() -> None:
    chart = curve("params", [(0.0, 1.0), (4.0, 0.7)], text, target=[(0.0, 0.9), (4.0, 0.5)])
    line, target = places(chart.line), places(chart.target)
    assert [x for x, _ in target] == [x for x, _ in line]
    assert all(below > above for (_, above), (_, below) in zip(line, target, strict=True))
    assert curve("loss", [(0.0, 1.0), (4.0, 0.7)], text).target == ""


def test_the_trade_off_joins_what_no_other_beats() -> None:
    dots = [Dot(100, 0.05, "whole"), Dot(50, 0.10, "half"), Dot(49.9, 0.9, "bad"), Dot(70, 0.2, "worse")]
    chart = trade_off("WER", "parameters", dots, (text, text))
    whole, half, *_ = chart.dots
    assert places(chart.line) == [(half.x, half.y), (whole.x, whole.y)]


def test_letters_of_neighbours_do_not_cover_each_other() -> None:
    dots = [Dot(100 + step / 10, 0.1, "", letter) for step, letter in enumerate("ABC")]
    chart = trade_off("WER", "parameters", dots, (text, text))
    (ax, ay), (bx, by), (cx, cy) = (dot.label_at for dot in chart.dots)
    for one, other in (((ax, ay), (bx, by)), ((bx, by), (cx, cy)), ((ax, ay), (cx, cy))):
        assert abs(one[0] - other[0]) + abs(one[1] - other[1]) >= ROOM


def test_letters_of_many_dots_have_room_beside_them_or_a_line_to_them() -> None:
    labels = [chr(65 + i) if i < 26 else f"A{chr(65 + i - 26)}" for i in range(40)]
    dots = [Dot(50.0 + 20 * (i % 3), 0.05 * 1.07**i, "", label) for i, label in enumerate(labels)]
    chart = trade_off("WER", "parameters", dots, (text, text))
    assert HEIGHT < chart.height <= 2 * HEIGHT
    boxes = [(*dot.label_at, ROOM + LETTER * (len(dot.label) - 1)) for dot in chart.dots]
    boxes += [(dot.x, dot.y, ROOM) for dot in chart.dots]
    letters = boxes[: len(dots)]
    for i, (x, y, width) in enumerate(letters):
        assert LEFT <= x <= WIDTH
        assert 0 <= y <= chart.height - BOTTOM
        for a, b, other in boxes[i + 1 :]:
            assert abs(x - a) >= (width + other) / 2 - 0.1 or abs(y - b) >= ROOM - 0.1
    for dot in chart.dots:
        assert (dot.tied is None) == (math.dist((dot.x, dot.y), dot.label_at) <= 1.5 * ROOM + LETTER)


def test_an_interval_that_begins_at_nothing_can_be_drawn_on_a_logarithmic_axis() -> None:
    dots = [Dot(1, 0.01, "", "A", (0.0, 0.02)), Dot(2, 0.9, "", "B", (0.8, 1.0))]
    chart = trade_off("WER", "parameters", dots, (text, text))
    assert chart.dots[0].interval is not None
    assert max(chart.dots[0].interval) <= HEIGHT


def test_a_curve_through_orders_of_magnitude_may_be_drawn_on_a_logarithmic_axis() -> None:
    points = [(float(step), 8.0 / step) for step in range(1, 41)]
    linear, logarithmic = (curve("loss", points, text, zero=True, spread=spread) for spread in (False, True))
    assert linear.y_marks[0][1] == "0"
    assert [mark for _, mark in logarithmic.y_marks] == ["0.2", "0.5", "1", "2", "5", "10"]
