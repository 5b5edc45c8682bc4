"""Tiny recognisers, and what they hear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers import ParakeetFeatureExtractor, Wav2Vec2FeatureExtractor

from secateur.models.vocabulary import tokenizer_from_pieces
from secateur.recognizer import Recognizer
from tiny_models import MELS, tiny_model

MakeRecognizer = Callable[..., Recognizer]
RATE = 16000


@pytest.fixture(scope="session")
def make_recognizer() -> MakeRecognizer:
    """``make_recognizer("parakeet", layers=3, seed=1)``: its model in float64."""

    def make(family: str, **dimensions: object) -> Recognizer:
        model = tiny_model(family, **dimensions)
        features = (
            ParakeetFeatureExtractor(feature_size=MELS)
            if model.main_input_name == "input_features"
            else Wav2Vec2FeatureExtractor(return_attention_mask=True)
        )
        return Recognizer(model, features, tokenizer_from_pieces(["<unk>", *"▁abcd"]))

    return make


@pytest.fixture(scope="session")
def save_model(
    make_recognizer: MakeRecognizer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """``save_model(width=32)``: a small random Conformer on disk, in single precision, or a model of another family."""

    def save(family: str = "conformer", **dimensions: object) -> Path:
        recognizer = make_recognizer(family, **dimensions)
        recognizer.model.float()
        folder = tmp_path_factory.mktemp("model")
        recognizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def record_noise(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``record_noise(1.0, 1.2)``: a folder with transcribed recordings of noise, that many seconds long."""

    def record(*seconds: float) -> Path:
        folder = tmp_path_factory.mktemp("speech")
        draw = np.random.default_rng(0)
        for number, each in enumerate(seconds):
            noise = draw.normal(scale=0.1, size=round(RATE * each))
            soundfile.write(folder / f"{number}.wav", noise, RATE)
            (folder / f"{number}.txt").write_text("abc dab", encoding="utf-8")
        return folder

    return record
