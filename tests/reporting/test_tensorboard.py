from __future__ import annotations

import sys
from pathlib import Path

import pytest

from secateur.errors import SecateurError
from secateur.reporting.tensorboard import curves


def test_without_tensorboard_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(SecateurError, match=r"not installed: pip install '\.\[tensorboard\]'"),
        curves(tmp_path, print),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").touch()
    with (
        pytest.raises(SecateurError, match=r"curves cannot be written: .*file is no folder"),
        curves(tmp_path / "file" / "curves", print),
    ):
        pass


def test_nothing_is_made_before_there_is_something_to_write_and_a_full_disk_costs_curves_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    told: list[str] = []

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with curves(tmp_path / "curves", told.append) as log:
        assert list(tmp_path.iterdir()) == []
        log("recover", {"step": 1.0, "loss": 0.5})
        assert list((tmp_path / "curves").iterdir())
        monkeypatch.setattr(tensorboard.SummaryWriter, "add_scalar", full)
        for step in (2.0, 3.0):
            log("recover", {"step": step, "loss": 0.4})
    (sentence,) = told
    assert "No space left on device" in sentence
    assert "goes on without them" in sentence
