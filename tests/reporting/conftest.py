"""Folders that look like results, with what a page needs and no model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

MakeResult = Callable[..., Path]
MakeReport = Callable[..., dict[str, Any]]


def side(wer: float, params: int) -> dict[str, Any]:
    return {
        "wer": wer, "wer_interval": [0.9 * wer, 1.1 * wer], "cer": wer / 3, "substitutions": 9, "deletions": 2,
        "insertions": 1, "words": 100, "utterances": 12, "skipped": 0, "normalise": "basic", "audio_seconds": 65.0,
        "wall_seconds": 2.0, "rtf": 0.03, "rtf_model": 0.02, "peak_memory_mb": 900.0, "worst": [],
        "params": params, "macs_per_second": 40.0 * params,
    }  # fmt: skip


def units(layers: int = 2) -> dict[str, list[int]]:
    found = {"subsampling.0.channels": [67, 176]}
    for layer in range(layers):
        found |= {
            f"layers.{layer}": [1, 1],
            f"layers.{layer}.feed_forward1": [1, 1],
            f"layers.{layer}.feed_forward1.units": [10 * layer + 5, 40],
            f"layers.{layer}.self_attn": [1, 1],
            f"layers.{layer}.self_attn.heads": [3, 4],
            f"layers.{layer}.self_attn.query_key": [8, 44],
            f"layers.{layer}.self_attn.positions": [102, 176],
        }
    return found


@pytest.fixture
def make_report() -> MakeReport:
    """``make_report(budget="params=40%")``: what a run with training and measuring reports, but for some parts."""

    def make(**changes: Any) -> dict[str, Any]:
        steps = [
            {"step": float(s), "output": 2 / (1 + s), "params": max(0.5, 1 - s / 200)} for s in range(300)
        ]
        quote = {
            "id": "one", "seconds": 1.5, "reference": "the cat sat on the mat", "errors": [0, 3],
            "hypotheses": ["the cat sat on the mat", "the bat on a the mat"],
        }  # fmt: skip
        report = {
            "budget": "params=50%", "method": "learned", "before": side(0.04, 13_000_000), "after": side(0.05, 6_400_000),
            "kept": {"params": 0.49, "macs_per_second": 0.49}, "units": units(),
            "comparison": {
                "wer": [0.05, 0.04], "difference": 0.01, "bootstrap": {"interval": [0.004, 0.016], "p": 0.0002},
                "mapsswe": {"segments": 20, "mean_difference": 0.5, "z": 2.1, "p": 0.031},
            },
            "changed": [quote], "audio_seconds": 3600.0, "skipped": 0,
            "history": {"search": [*steps, {"step": 300.0, "WER": 0.061}], "recover": [{"step": 1.0, "output": 0.2}]},
            "wall_seconds": {"load": 1.5, "prune": 1700.0}, "environment": {"secateur": "0.1.0", "device": "cpu"},
        }  # fmt: skip
        return {name: part for name, part in (report | changes).items() if part is not None}

    return make


@pytest.fixture
def make_result(tmp_path: Path, make_report: MakeReport) -> MakeResult:
    """``make_result("small", after=...)``: the folder of such a run."""

    def make(name: str = "smaller", settings: dict[str, Any] | None = None, **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps(make_report(**changes)), encoding="utf-8")
        settings = {"model": "models/big.nemo", "data": "speech", "valid": "nowhere"} | (settings or {})
        (folder / "run.yaml").write_text(yaml.safe_dump({"secateur": settings}), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def make_training(tmp_path: Path) -> MakeResult:
    """``make_training("tiny", valid=...)``: the folder of a training that was measured in between and after."""

    def make(name: str = "tiny", settings: dict[str, Any] | None = None, **changes: Any) -> Path:
        steps = [{"step": float(s), "loss": 4 / (1 + s / 20)} for s in range(1, 301)]
        errors = [{"step": 150.0, "WER": 0.2}, {"step": 225.0, "WER": 0.09}, {"step": 300.0, "WER": 0.1}]
        worst = {
            "id": "one", "reference": "the cat sat on the mat", "hypothesis": "the bat on a the mat", "seconds": 1.5,
            "confidence": 0.4, "words": 6, "errors": 3, "substitutions": 1, "deletions": 1, "insertions": 1,
        }  # fmt: skip
        report = {
            "params": 2_800_000, "macs_per_second": 112e6, "vocabulary": 256, "utterances": 24_000,
            "shape": {"layers": 12, "width": 96, "heads": 4, "channels": 48, "kernel": 15},
            "kinds": [
                {"kind": "feed-forward", "params": 1_800_000, "macs": 450e6},
                {"kind": "norms", "params": 100_000, "macs": 0},
            ],
            "audio_seconds": 72_000.0, "heard_seconds": 180_000.0, "left_out": 3, "skipped": 0, "steps": 300,
            "kept_step": 225,
            "valid": side(0.08, 2_800_000) | {"worst": [worst]},
            "history": {"train": sorted(steps + errors, key=lambda row: row["step"])},
            "wall_seconds": {"read": 61.0, "train": 3500.0, "evaluate": 9.5}, "phase_seconds": {"train": 3600.0},
            "environment": {"secateur": "0.1.0", "device": "cpu"},
        }  # fmt: skip
        report = {key: part for key, part in (report | changes).items() if part is not None}
        folder = tmp_path / name
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
        settings = {
            "data": "speech", "valid": "nowhere", "minutes": 60.0, "steps": None, "valid_utterances": 100,
        } | (settings or {})  # fmt: skip
        (folder / "run.yaml").write_text(yaml.safe_dump({"secateur": settings}), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A corpus with the utterance that the reports here quote."""
    folder = tmp_path / "valid"
    folder.mkdir()
    soundfile.write(folder / "one.wav", np.random.default_rng(0).normal(scale=0.1, size=12000), 8000)
    (folder / "one.txt").write_text("the cat sat on the mat", encoding="utf-8")
    return folder
