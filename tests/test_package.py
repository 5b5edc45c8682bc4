"""What is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

import secateur

ROOT = Path(__file__).resolve().parents[1]


def test_every_file_of_the_package_is_installed_with_it() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["secateur"]
    package = Path(secateur.__file__).parent
    files = {
        path
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".py"
    }
    assert files
    assert files == {path for pattern in patterns for path in package.glob(pattern) if path.is_file()}
