from __future__ import annotations

from io import StringIO

from rich.console import Console

from secateur.reporting.inspection import inspection_table
from secateur.reporting.numbers import short
from secateur.structure.inspect import Inspection, Part


def layer(index: int, units: int) -> Part:
    name = f"layers.{index}"
    return Part(
        name,
        "other",
        units,
        10 * units,
        1.5,
        (Part(f"{name}.feed_forward", "feed-forward", units, 10 * units, 1.0),),
    )


def printed(units: list[int], depth: int) -> list[list[str]]:
    layers = tuple(layer(index, size) for index, size in enumerate(units))
    total = sum(units)
    root = Part(
        "", "other", total, 10 * total, 9.0, (Part("layers", "other", total, 10 * total, None, layers),)
    )
    console = Console(width=120, file=StringIO())
    console.print(inspection_table(Inspection("Model", 10.0, 1, 2, root), depth))
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_equal_layers_are_one_line_with_their_sums() -> None:
    lines = printed([100, 100, 100], depth=1)
    assert ["layers.0-2", "300", "100.0%", "3", "k", "100.0%", "4.50", "50.0%"] in lines


def test_pruned_layers_have_lines_of_their_own() -> None:
    first_words = [line[0] for line in printed([100, 60, 60, 100], depth=3) if line]
    for expected in ("0", "1-2", "3"):
        assert expected in first_words


def test_a_deeper_tree_shows_what_layers_hold() -> None:
    assert ["feed_forward", "300", "100.0%", "3", "k", "100.0%", "3.00", "33.3%"] in printed(
        [100] * 3, depth=2
    )
    assert not any("feed_forward" in line for line in printed([100] * 3, depth=1))


def test_kinds_come_first_and_sum_up_to_the_model() -> None:
    first_words = [line[0] for line in printed([100, 100], depth=0) if line]
    assert first_words[-3:] == ["feed-forward", "other", "whole"]


def test_numbers_are_written_with_three_figures() -> None:
    assert [short(n) for n in (0, 7, 1234, 13_154_033, 5.45e9)] == ["0", "7", "1.23 k", "13.2 M", "5.45 G"]
    assert [short(n) for n in (999_499, 999_500, 999.7e6)] == ["999 k", "1 M", "1 G"]
