"""The README's picture of a comparison, of made-up figures."""

from __future__ import annotations

import importlib
import json
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def picture(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT)
    pytest.importorskip("matplotlib", reason="pip install '.[figures]'")
    return importlib.import_module("benchmarks.picture")


def heard(wer: float, params: float) -> dict[str, Any]:
    interval = [0.9 * wer, 1.1 * wer]
    return {
        "wer": wer,
        "wer_interval": interval,
        "params": params,
        "utterances": 1300,
        "audio_seconds": 9729.3,
    }


def comparison(*, tested: bool = True) -> dict[str, Any]:
    rows = [
        {
            "method": method, "budget": f"params={share:.0%}", "error": None, "valid": heard(2 * wer, 13e6 * share),
            "test": heard(wer, 13e6 * share) if tested else None, "time": {"median": share + 0.05},
        }
        for share, rate in ((0.5, 0.08), (0.3, 0.25))
        for method, wer in (("obs", rate), ("search", 1.2 * rate), ("random", 1.2 * rate), ("latent", 1.2))
    ]  # fmt: skip
    rows.append({"method": "torch-pruning", "budget": "params=30%", "error": "cannot be met"})
    unpruned = {"valid": heard(0.041, 13e6)} | ({"test": heard(0.035, 13e6)} if tested else {})
    return {"unpruned": unpruned, "rows": rows}


def size(png: Path) -> tuple[int, int]:
    content = png.read_bytes()
    assert content.startswith(b"\x89PNG")
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


@pytest.mark.parametrize("rows", [False, True], ids=["compare.json", "results"])
def test_a_comparison_becomes_a_picture(picture: ModuleType, tmp_path: Path, rows: bool) -> None:
    record = comparison()
    source = tmp_path / "results" if rows else tmp_path / "compare.json"
    if rows:
        source.mkdir()
        for number, row in enumerate(record["rows"]):
            # Rows of another seed, and of another loss than the newest, are not drawn.
            for seed, date, hidden in ((0, "2026-02", 10), (1, "2026-02", 10), (0, "2026-01", 1)):
                settings = {
                    "oneshot": {"score": row["method"]},
                    "learned": {"distillation": {"hidden": hidden}},
                }
                made = {"unpruned": record["unpruned"], "row": row, "settings": settings}
                file = source / f"arena_{number:02}_{seed}_{hidden}.json"
                file.write_text(json.dumps({"seed": seed, "date": date, "figures": made}))
    else:
        source.write_text(json.dumps(record))
    figures = heard(0.05, 37.8e6) | {
        "whisper": {"params": 37.8e6, "basic": heard(0.056, 37.8e6)},
        "time": {"median": 2.3},
    }
    (tmp_path / "whisper.json").write_text(json.dumps({"figures": figures}))
    out = tmp_path / "docs" / "compare.png"
    arguments = ["--whisper", tmp_path / "whisper.json", "--out", out]
    picture.main(list(map(str, [source, *arguments])))
    assert size(out) == (1600, 864)
    points, measured_on = picture.read_points(source, tmp_path / "whisper.json")
    assert measured_on == "test"
    assert [points[0].name, points[-1].name, len(points)] == ["unpruned", "Whisper tiny.en", 10]
    assert points[1].wer == 0.08
    assert points[-1].wer == 0.056
    (tmp_path / "other.json").write_text(json.dumps({"figures": figures | {"utterances": 200}}))
    assert "Whisper tiny.en" not in [
        point.name for point in picture.read_points(source, tmp_path / "other.json")[0]
    ]


def test_without_test_the_figures_of_valid_are_drawn(picture: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "compare.json").write_text(json.dumps(comparison(tested=False)))
    points, measured_on = picture.read_points(tmp_path / "compare.json", tmp_path / "none.json")
    assert measured_on == "valid"
    assert points[1].wer == 0.16
    picture.draw(points, measured_on, tmp_path / "picture.png")


def test_names_keep_their_distance_and_stay_near(picture: ModuleType) -> None:
    heights = [10.0, 11.0, 12.0, 13.0, 80.0, 81.0, 200.0]
    placed = picture._spread(heights)
    gaps = [b - a for a, b in pairwise(placed)]
    assert min(gaps) >= picture.GAP
    assert placed[-1] == 200.0
    assert all(abs(a - b) <= 2 * picture.GAP for a, b in zip(placed, heights, strict=True))


def test_a_comparison_that_cannot_be_read_is_one_line(picture: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="compare.json cannot be read"):
        picture.main([str(tmp_path / "compare.json")])
    with pytest.raises(SystemExit, match="has no rows to draw"):
        picture.main([str(tmp_path)])
