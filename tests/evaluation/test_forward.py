"""Which of two models is timed as which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from secateur.evaluation import forward
from secateur.evaluation.forward import time_forward


def test_each_model_is_timed_under_its_own_name_on_the_same_input(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, int]] = []

    def recognizer(name: str) -> Any:
        def model(samples: int) -> None:
            heard.append((name, samples))

        model.device = torch.device("cpu")  # type: ignore[attr-defined]
        return SimpleNamespace(
            sample_rate=16000, model=model, prepare=lambda waves: {"samples": sum(map(len, waves))}
        )

    def at_once(calls: Mapping[str, Callable[[], object]], **_: object) -> dict[str, object]:
        return {name: call() for name, call in calls.items()}

    monkeypatch.setattr(forward, "interleave", at_once)
    named = time_forward(recognizer("big"), recognizer("small"), seconds=0.5, rounds=1)
    assert dict(zip(named, heard, strict=True)) == {"before": ("big", 8000), "after": ("small", 8000)}
