from __future__ import annotations

import pytest

from secateur.reporting.history import phases

ROWS = [{"step": 1.0, "output": 0.5}, {"step": 2.0, "output": 0.25}]


@pytest.mark.parametrize(
    ("made", "called"),
    [
        (["train"], ["train"]),
        (["search", "recover"], ["search", "recover"]),
        (["recover-1", "recover"], ["recover, stride 1 of 2", "recover, stride 2 of 2"]),
        (
            ["recover-1", "recover-2", "search", "recover"],
            [
                "recover, stride 1 of 3",
                "recover, stride 2 of 3",
                "search, stride 3 of 3",
                "recover, stride 3 of 3",
            ],
        ),
    ],
)
def test_a_phase_is_called_by_its_stride_where_there_are_several(made: list[str], called: list[str]) -> None:
    drawn = phases(dict.fromkeys(made, ROWS), {})
    assert [name for name, _ in drawn] == called
    assert all([chart.title for chart in charts] == ["Loss: output distributions"] for _, charts in drawn)
