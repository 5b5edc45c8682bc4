"""State files: written whole or not at all, and refused in a sentence where something happened to them."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from secateur.errors import SecateurError
from secateur.training.checkpoint import read_state, write_state

STATE = {
    "step": 3,
    "total": None,
    "history": [{"step": 1.0, "WER": float("inf")}],
    "best": (0.5, {"weight": torch.arange(6.0).view(2, 3)}),
    "moments": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4, dtype=torch.bfloat16)}},
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_state(tmp_path / "state.pt", STATE)
    assert same(read_state(tmp_path / "state.pt"), STATE)
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 50 kB."""
    resource = pytest.importorskip("resource", reason="this system has no limits on files")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("numbers", [20_000, 2_000_000], ids=["in the last block", "early"])
def test_a_full_disk_is_one_sentence_and_leaves_the_earlier_state(
    tmp_path: Path, full_disk: None, numbers: int
) -> None:
    write_state(tmp_path / "state.pt", STATE)
    with pytest.raises(
        SecateurError, match="state.pt cannot be written, to go on from later: .*; free some space"
    ) as caught:
        write_state(tmp_path / "state.pt", {"weight": torch.zeros(numbers)})
    assert "\n" not in str(caught.value)
    assert same(read_state(tmp_path / "state.pt"), STATE)
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def test_a_folder_that_went_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SecateurError, match="state.pt cannot be written, .* No such file or directory"):
        write_state(tmp_path / "gone" / "state.pt", STATE)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("state") / "state.pt"
    write_state(path, STATE)
    return path.read_bytes()


def refused(folder: Path, content: bytes) -> None:
    (folder / "state.pt").write_bytes(content)
    with pytest.raises(
        SecateurError, match="state.pt is damaged, so the run cannot go on from it: .*; delete it to begin"
    ) as caught:
        read_state(folder / "state.pt")
    assert "\n" not in str(caught.value)


@given(length=st.floats(0, 1, exclude_max=True))
@example(length=0.0)
def test_a_state_that_is_cut_off_anywhere_is_refused(
    written: bytes, tmp_path_factory: pytest.TempPathFactory, length: float
) -> None:
    refused(tmp_path_factory.mktemp("cut"), written[: int(length * len(written))])


@given(content=st.binary(max_size=300))
def test_what_is_no_state_at_all_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    refused(tmp_path_factory.mktemp("noise"), content)


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_in_a_sentence_or_harmless(
    written: bytes, tmp_path_factory: pytest.TempPathFactory, where: float, bit: int
) -> None:
    path = tmp_path_factory.mktemp("flip") / "state.pt"
    content = bytearray(written)
    content[int(where * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        state = read_state(path)
    except SecateurError:
        refused(path.parent, bytes(content))
    else:
        assert same(state, STATE)


class Surprise:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_what_lies_in_a_file_is_never_run(tmp_path: Path) -> None:
    torch.save({"step": Surprise(tmp_path / "run")}, tmp_path / "other.pt")
    torch.load(tmp_path / "other.pt", weights_only=False)
    (tmp_path / "run").rmdir()
    refused(tmp_path, (tmp_path / "other.pt").read_bytes())
    refused(tmp_path, pickle.dumps({"step": Surprise(tmp_path / "run")}, 2))
    assert not (tmp_path / "run").exists()
