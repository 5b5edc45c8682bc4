from __future__ import annotations

import sys
from pathlib import Path

import pytest

from secateur.errors import SecateurError
from secateur.reporting.tensorboard import curves


def test_without_tensorboard_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(SecateurError, match=r"not installed: pip install 'secateur\[tensorboard\]'"),
        curves(tmp_path),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").touch()
    with (
        pytest.raises(SecateurError, match="file/curves cannot be written: "),
        curves(tmp_path / "file" / "curves"),
    ):
        pass
