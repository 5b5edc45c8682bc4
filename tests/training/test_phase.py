"""What a run shows and logs of a phase, on a weight that is drawn to 1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from secateur.errors import NoResultError
from secateur.progress import TARGET, ProgressBar
from secateur.training import trainer
from secateur.training.feed import Batch
from secateur.training.phase import run_phase
from secateur.training.trainer import Length, Loop, Progress
from secateur.training.workspace import Workspace

Rows = list[tuple[str, dict[str, float]]]


class Killed(BaseException):
    """What no code of ours catches, as SIGKILL."""


class Silence:
    """A feed without speech, of a second a batch, which ends a run where it is told to."""

    def __init__(self, start: int, death: int | None = None) -> None:
        self.step, self.death = start, death

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __next__(self) -> Batch:
        if self.step == self.death:
            raise Killed
        self.step += 1
        return Batch(self.step - 1, {}, [], 1.0)


class Weight:
    def __init__(self) -> None:
        self.weight = torch.zeros(1, requires_grad=True)

    def loss(self, _batch: Batch, share: float, /) -> tuple[Tensor, dict[str, float]]:
        loss = (self.weight - 1).square().sum()
        return loss, {"loss": float(loss.detach()), "params": 1 - share / 2, f"{TARGET}params": 0.5}

    def stepped(self) -> None:
        pass

    def skipped(self) -> None:
        pass

    def model_state(self) -> dict[str, Tensor]:
        return {"weight": self.weight.detach().clone()}

    def load_model_state(self, state: Mapping[str, Tensor]) -> None:
        self.weight.data.copy_(state["weight"])

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class Watched(ProgressBar):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__("", quiet=True)
        self.begun: list[tuple[str, float | None, int]] = []
        self.shown: list[dict[str, object]] = []

    def begin(self, description: str, total: float | None = None, done: int = 0) -> None:
        self.begun.append((description, total, done))

    def advance(self, steps: float = 1, *, audio_seconds: float = 0.0, **figures: object) -> None:
        assert (steps, audio_seconds) == (1, 1.0)
        self.shown.append(figures)


def run(
    workspace: Workspace,
    progress: ProgressBar,
    rows: Rows,
    death: int | None = None,
    objective: Weight | None = None,
    **others: Any,
) -> Progress:
    objective = objective or Weight()
    return run_phase(
        "recover",
        objective,
        [{"params": [objective.weight], "lr": 0.1}],
        Loop(Length(steps=8), validations=2),
        lambda start: Silence(start, death),  # type: ignore[arg-type, return-value]
        workspace,
        progress,
        log=lambda phase, row: rows.append((phase, dict(row))),
        **others,
    )


def test_every_row_is_logged_as_it_comes_and_figures_are_shown_with_their_targets() -> None:
    progress, rows = Watched(), Rows()
    done = run(Workspace(None), progress, rows, validate=lambda: 0.25)
    assert rows == [("recover", row) for row in done.history]
    assert progress.begun == [("recover", 8, 0)]
    assert progress.shown[4] == {"loss": progress.shown[4]["loss"], "params": "0.75 → 0.5", "WER": "25.00%"}
    assert len(progress.shown) == done.step == done.heard == 8


def test_what_is_gone_on_with_is_logged_once_and_shown_from_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", float("inf"))
    workspace, progress, rows = Workspace(tmp_path), Watched(), Rows()
    with pytest.raises(Killed):
        run(workspace, progress, rows, death=5)
    done = run(workspace, progress, rows)
    assert progress.begun == [("recover", 8, 0), ("recover", 8, 5)]
    assert rows == [("recover", row) for row in done.history]
    assert len(progress.shown) == done.heard == 8
    assert 0 < done.before < done.spent


def test_a_phase_that_comes_to_nothing_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", float("inf"))
    monkeypatch.setattr(trainer, "MOST_BROKEN", 3)

    class Broken(Weight):
        steps = 0

        def loss(self, batch: Batch, share: float, /) -> tuple[Tensor, dict[str, float]]:
            loss, figures = super().loss(batch, share)
            self.steps += 1
            return (loss * float("nan") if self.steps > 2 else loss), figures

    workspace = Workspace(tmp_path)
    with pytest.raises(NoResultError):
        run(workspace, Watched(), [], objective=Broken())
    assert not workspace.resumes
    progress = Watched()
    run(workspace, progress, [])
    assert progress.begun == [("recover", 8, 0)]
