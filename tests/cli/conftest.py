"""The command line, a tiny untrained recogniser, and a little speech."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result
from transformers import ParakeetFeatureExtractor

from secateur.cli import main
from secateur.models.conformer import ConformerConfig, ConformerForCTC
from secateur.models.vocabulary import tokenizer_from_pieces
from secateur.recognizer import Recognizer

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def run() -> Run:
    """``run("inspect", model)``: what came of that command."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return run


@pytest.fixture(scope="session")
def refused(run: Run) -> Callable[..., str]:
    """``refused("inspect", "nowhere")``: the sentence by which that command was refused."""

    def refused(*arguments: object) -> str:
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert len(result.stderr.strip().splitlines()) == 1
        return result.stderr

    return refused


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained recogniser on disk."""
    torch.manual_seed(0)
    config = ConformerConfig(
        vocab_size=5,
        pad_token_id=4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        conv_kernel_size=3,
        subsampling_conv_channels=4,
    )
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tokenizer_from_pieces(["▁a", "b", "c", "d"])
    Recognizer(ConformerForCTC(config), ParakeetFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three transcribed recordings of noise: 1, 2 and 3 seconds."""
    folder = tmp_path_factory.mktemp("speech")
    noise = np.random.default_rng(0).normal(scale=0.1, size=48000)
    for seconds in (1, 2, 3):
        soundfile.write(folder / f"{seconds}.wav", noise[: 16000 * seconds], 16000)
        (folder / f"{seconds}.txt").write_text("a word or two", encoding="utf-8")
    return folder
