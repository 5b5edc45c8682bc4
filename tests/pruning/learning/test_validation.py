"""Validation without transcripts: what is set aside, and what error rates against a teacher are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch

import secateur
from secateur.pruning.learning import validation as room
from secateur.pruning.learning.learned import Learned
from secateur.pruning.learning.mixing import PARTS
from secateur.pruning.learning.validation import hold_out, on_what_is_heard
from secateur.pruning.oneshot import OneShot
from secateur.pruning.prune import prune
from secateur.pruning.settings import PruneSettings
from secateur.recognizer import Recognizer
from secateur.speech.corpus import open_corpus
from secateur.speech.pool import SpeechPool
from secateur.speech.skips import SkipLog

RATE = 16000


@pytest.fixture(scope="module")
def model(save_model: Callable[..., Path]) -> Path:
    return save_model(width=32, units=96, channels=12)


@pytest.fixture(scope="module")
def speech(record_noise: Callable[..., Path]) -> Path:
    return record_noise(*(0.5 + number / 10 for number in range(8)))


@pytest.fixture(scope="module")
def pool(speech: Path) -> SpeechPool:
    return SpeechPool.read(open_corpus(speech), RATE, skips=SkipLog())


@pytest.fixture
def shaken(model: Path) -> Recognizer:
    """The model, with so much noise on its weights that it hears other words."""
    recognizer = secateur.load(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in recognizer.model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return recognizer


@pytest.mark.parametrize("seed", [0, 1])
def test_a_pool_is_split_into_two_that_are_all_of_it(pool: SpeechPool, seed: int) -> None:
    rest, held = pool.split(3, seed)
    assert (len(rest), len(held)) == (5, 3)
    assert sorted([*rest.seconds, *held.seconds]) == sorted(pool.seconds)
    for part in (rest, held):
        places = [pool.seconds.tolist().index(seconds) for seconds in part.seconds]
        assert places == sorted(places)
        assert all(np.array_equal(part.waveform(i), pool.waveform(place)) for i, place in enumerate(places))
    again = pool.split(3, seed)[1].seconds
    assert np.array_equal(held.seconds, again)
    assert not np.array_equal(held.seconds, pool.split(3, seed + 1)[1].seconds)


def test_little_speech_is_all_trained_on(pool: SpeechPool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hold_out(pool, 100, 0) == (pool, None)
    monkeypatch.setattr(room, "FEWEST", 2)
    monkeypatch.setattr(room, "HELD_SHARE", 0.3)
    rest, held = hold_out(pool, 100, 0)
    assert held is not None
    assert (len(rest), len(held)) == (6, 2)
    assert hold_out(pool, 1, 0) == (pool, None)


def test_errors_against_a_teacher_are_where_it_hears_something_else(
    pool: SpeechPool, model: Path, shaken: Recognizer
) -> None:
    teacher = secateur.load(model)
    disagreement = on_what_is_heard(teacher, pool)
    assert disagreement(teacher) == 0
    waves = [pool.waveform(i) for i in range(len(pool))]
    texts = [[each.transcribe_batch([wave])[0].text for wave in waves] for each in (teacher, shaken)]
    pairs = [pair for pair in zip(*texts, strict=True) if pair[0]]
    assert len(pairs) == len(pool)
    expected = jiwer.wer([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    assert disagreement(shaken) == pytest.approx(expected)
    assert expected > 0


def test_a_run_on_audio_alone_is_validated_on_what_it_does_not_train_on(
    model: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "FEWEST", 2)
    monkeypatch.setattr(room, "HELD_SHARE", 0.3)
    learned = Learned(steps=4, batch_seconds=2.0, precision="float32", validations=2)
    asked = PruneSettings(
        model,
        speech,
        "params=60%",
        oneshot=OneShot(score="magnitude", reconstruct_minutes=0.05, reconstruct_steps=2),
        learned=learned,
    )
    report = prune(asked).report
    assert report["held_out"] == 2
    assert [row["step"] for row in report["history"]["recover"] if "WER" in row] == [0, 2, 4]
    assert [each["part"] for each in report["recovered_parts"]] == list(PARTS)
    transcribed = prune(asked.changed({"valid": str(speech)})).report
    assert transcribed["held_out"] == 0
    unwatched = prune(asked.changed({"learned.validations": 0})).report
    assert unwatched["held_out"] == 0
    assert not any("WER" in row for row in unwatched["history"]["recover"])
