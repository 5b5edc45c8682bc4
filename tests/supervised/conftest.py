"""A language of three words, each a tone, and a size of model that learns it in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from secateur.supervised.settings import SIZES, Size

RATE = 16000
TONES = {"low": 300, "middle": 900, "high": 2500}


def speak(folder: Path, utterances: int, seed: int) -> Path:
    """Utterances of one to four words and their transcripts."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    time = np.arange(round(0.3 * RATE)) / RATE
    for i in range(utterances):
        words = rng.choice(list(TONES), size=rng.integers(1, 5)).tolist()
        pause = np.zeros(RATE // 10)
        parts = [
            part
            for word in words
            for part in (0.5 * np.hanning(len(time)) * np.sin(2 * np.pi * TONES[word] * time), pause)
        ]
        wave = np.concatenate(parts)
        soundfile.write(folder / f"{i}.wav", wave + rng.normal(scale=1e-3, size=len(wave)), RATE)
        (folder / f"{i}.txt").write_text(" ".join(words), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speak(tmp_path_factory.mktemp("toy") / "train", 16, seed=0)


@pytest.fixture(scope="session")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of the same language that are not in ``speech``, most of them."""
    return speak(tmp_path_factory.mktemp("toy") / "valid", 8, seed=1)


@pytest.fixture(scope="session", autouse=True)
def toy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "toy", Size(layers=1, width=32, heads=2, channels=8, kernel=7))
        yield
