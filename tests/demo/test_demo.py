from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result

import secateur
from secateur.cli import main
from secateur.demo import run as demo
from secateur.errors import SecateurError
from secateur.pruning.oneshot import OneShot
from secateur.pruning.settings import PruneSettings

# What the module makes once is made once only if all of it runs in one process.
pytestmark = pytest.mark.xdist_group("demo")

MOST_BYTES = 6_000_000
# A test puts others in their place.
SETTINGS = demo.settings


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's own synthetic speech stays what it is."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECATEUR_CACHE", str(folder))
        yield folder


def little(_minutes: float = 1.5, steps: int | None = 2) -> PruneSettings:
    """The demo's settings, but for less speech."""
    return replace(
        SETTINGS(1.5, steps),
        data="synthetic:train:30",
        valid="synthetic:test:12",
        oneshot=OneShot(score_minutes=0.3, reconstruct_minutes=0.5, reconstruct_steps=2),
    )


def test_the_embedded_model_is_small_and_whole() -> None:
    files = list(demo.MODEL.rglob("*"))
    assert sum(file.stat().st_size for file in files) < MOST_BYTES
    weights = (demo.MODEL / "model.safetensors").read_bytes()
    header = json.loads(weights[8 : 8 + struct.unpack("<Q", weights[:8])[0]])
    kinds = {tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"}
    assert kinds <= {"F16", "I64"}


def test_the_embedded_model_hears_synthetic_speech_of_strangers() -> None:
    recognizer = secateur.load(demo.MODEL, dtype=torch.float32)
    assert secateur.evaluate(recognizer, "synthetic:test:40").wer < 0.12


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "settings", little)
        command = ["demo", "--out", str(out), "--steps", "2", "--json", str(out.parent / "figures.json")]
        return out, CliRunner().invoke(main, command)


def test_the_demo_halves_the_model_and_shows_what_both_heard(shown: tuple[Path, Result]) -> None:
    out, result = shown
    assert result.exit_code == 0, result.stderr
    figures = json.loads((out.parent / "figures.json").read_text(encoding="utf-8"))
    assert figures["kept"]["params"] <= 0.5
    assert figures["kept"]["macs_per_second"] <= 0.5
    assert figures["forward"]["ratio"]["median"] > 0
    for sentence in figures["sentences"]:
        assert sentence["said"] in result.stdout
        wave, rate = soundfile.read(sentence["file"])
        assert rate == 16_000
        assert 0.1 < np.abs(wave).max() <= 1
        assert sentence["before"] == secateur.load(demo.MODEL).transcribe(sentence["file"]).text
        assert sentence["after"] == secateur.load(out / "pruned").transcribe(sentence["file"]).text
    assert "WER" in result.stdout
    assert (out / "pruned" / "report.html").is_file()


def test_the_demo_measures_on_voices_and_sentences_that_it_does_not_train_on() -> None:
    asked = demo.settings(1.5)
    assert str(asked.data).startswith("synthetic:train")
    assert str(asked.valid).startswith("synthetic:test")
    assert asked.learned.validations == 0


def test_a_folder_that_holds_something_else_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "pruned").mkdir()
    (tmp_path / "pruned" / "thesis.txt").write_text("years of work")
    with pytest.raises(SecateurError, match="holds something else"):
        demo.demo(tmp_path, little())
    assert (tmp_path / "pruned" / "thesis.txt").read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SecateurError, match="is a file, so that there can be no"):
        demo.demo(tmp_path / "file", little())


def test_without_espeak_the_demo_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", absent("espeakng_loader"))
    with pytest.raises(SecateurError, match=r"'\.\[synthetic\]'"):
        demo.demo(tmp_path / "out", little())


def absent(name: str) -> Callable[..., object]:
    from importlib import util

    find = util.find_spec
    return lambda wanted, *rest: None if wanted == name else find(wanted, *rest)


@pytest.mark.parametrize(("seen", "device"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch, seen: bool, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    command = main.commands["demo"]
    option = next(each for each in command.params if each.name == "device")
    assert option.get_default(click.Context(command)) == device
