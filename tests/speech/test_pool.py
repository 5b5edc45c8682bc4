from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from secateur.errors import SecateurError
from secateur.speech.audio import read_audio
from secateur.speech.corpus import Corpus, Utterance, open_corpus
from secateur.speech.pool import SpeechPool
from secateur.speech.skips import SkipLog

RATE = 8000


def sounds(folder: Path, *seconds: float) -> Path:
    """A folder of recordings of these lengths, with texts `word 0`, `word 1`, ..."""
    folder.mkdir(exist_ok=True)
    for number, length in enumerate(seconds):
        wave = np.random.default_rng(number).uniform(-0.5, 0.5, round(length * RATE))
        soundfile.write(folder / f"{number:03}.wav", wave, RATE, subtype="PCM_16")
        (folder / f"{number:03}.txt").write_text(f"word {number}")
    return folder


def read(
    data: Path | Corpus,
    *,
    skips: SkipLog | None = None,
    longest_seconds: float = 30.0,
    held_hours: float = 12.0,
) -> SpeechPool:
    corpus = data if isinstance(data, Corpus) else open_corpus(data)
    return SpeechPool.read(
        corpus, RATE, skips=skips or SkipLog(), longest_seconds=longest_seconds, held_hours=held_hours
    )


def test_a_pool_holds_every_utterance_with_its_text_in_the_order_of_the_corpus(tmp_path: Path) -> None:
    pool = read(sounds(tmp_path, 1.0, 3.0, 0.5, 2.0))
    assert len(pool) == 4
    assert pool.seconds.tolist() == [1.0, 3.0, 0.5, 2.0]
    assert [pool.text(i) for i in range(4)] == ["word 0", "word 1", "word 2", "word 3"]
    for i in range(4):
        assert np.array_equal(pool.waveform(i), read_audio(tmp_path / f"{i:03}.wav", RATE))
        assert pool.waveform(i).dtype == np.float32


@pytest.mark.parametrize("held_hours", [0.0, 2.5 / 3600, 4.0 / 3600])
def test_what_can_be_heard_does_not_depend_on_how_much_is_held(tmp_path: Path, held_hours: float) -> None:
    folder = sounds(tmp_path, 1.0, 2.0, 5.0, 0.2, 1.5)
    held, read_again = (
        read(folder, longest_seconds=2.0),
        read(folder, longest_seconds=2.0, held_hours=held_hours),
    )
    assert held.seconds == pytest.approx(read_again.seconds, abs=1 / RATE)
    for i in range(len(held)):
        assert np.array_equal(held.waveform(i), read_again.waveform(i))
        assert held.text(i) == read_again.text(i)
    assert held.skips.read == read_again.skips.read


def test_long_recordings_are_cut_into_equal_pieces_without_text(tmp_path: Path) -> None:
    pool = read(sounds(tmp_path, 7.0, 2.0), longest_seconds=3.0)
    assert pool.seconds == pytest.approx([7 / 3, 7 / 3, 7 / 3, 2.0], abs=1 / RATE)
    assert [pool.text(i) for i in range(4)] == [None, None, None, "word 1"]
    whole = read_audio(tmp_path / "000.wav", RATE)
    for i in range(3):
        start = round(i * 7 / 3 * RATE)
        piece = pool.waveform(i)
        assert np.array_equal(piece, whole[start : start + len(piece)])


def test_a_length_that_a_manifest_overstates_is_cut_to_what_there_is(tmp_path: Path) -> None:
    sounds(tmp_path, 7.0)
    long = Utterance("long", tmp_path / "000.wav", "text", offset=1.0, duration=1e6)
    pool = read(Corpus(lambda: iter([long])), longest_seconds=3.0)
    assert pool.seconds.tolist() == [3.0, 3.0]


def test_what_is_too_short_to_hear_is_left_out(tmp_path: Path) -> None:
    pool = read(sounds(tmp_path, 0.1, 1.0, 0.29))
    assert [pool.text(i) for i in range(len(pool))] == ["word 1"]


def test_nothing_but_short_utterances_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SecateurError, match="no speech of 0.3 s or more.*give longer"):
        read(sounds(tmp_path, 0.1, 0.2))


def test_an_empty_corpus_is_an_error() -> None:
    with pytest.raises(SecateurError, match="nothing to hear"):
        read(Corpus(lambda: iter(())))


def test_lengths_that_make_no_pool_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SecateurError, match="pieces of 0 s"):
        read(sounds(tmp_path, 1.0), longest_seconds=0.0)


@pytest.mark.parametrize("held_hours", [12.0, 0.0])
def test_a_file_that_is_no_audio_is_counted_and_skipped(tmp_path: Path, held_hours: float) -> None:
    folder = sounds(tmp_path, 1.0, 1.0, 1.0)
    (folder / "001.wav").write_bytes(b"no audio at all")
    skips = SkipLog()
    pool = read(folder, skips=skips, held_hours=held_hours)
    assert [pool.text(i) for i in range(len(pool))] == ["word 0", "word 2"]
    assert (skips.read, skips.skipped) == (2, 1)
    assert skips.first[0].name == "001"


def test_too_many_broken_files_are_an_error(tmp_path: Path) -> None:
    folder = sounds(tmp_path, 1.0, 1.0, 1.0)
    (folder / "001.wav").write_bytes(b"no audio at all")
    with pytest.raises(SecateurError, match="too much of the data"):
        read(folder, skips=SkipLog(limit=0, share=0))


def test_a_file_that_vanishes_is_counted_once_and_is_silence_from_then_on(tmp_path: Path) -> None:
    skips = SkipLog()
    pool = read(sounds(tmp_path, 1.0, 2.0), skips=skips, held_hours=0.0)
    assert pool.waveform(1).any()
    (tmp_path / "001.wav").unlink()
    for _ in range(3):
        assert np.array_equal(pool.waveform(1), np.zeros(2 * RATE))
    assert pool.text(1) is None
    assert pool.text(0) == "word 0"
    assert (skips.skipped, skips.first[0].name) == (1, "001")


def test_many_files_that_vanish_are_an_error(tmp_path: Path) -> None:
    pool = read(sounds(tmp_path, 1.0, 2.0), skips=SkipLog(limit=0, share=0), held_hours=0.0)
    (tmp_path / "001.wav").unlink()
    with pytest.raises(SecateurError, match="001.wav does not exist"):
        pool.waveform(1)


@pytest.mark.parametrize("peak", [0.5, 1.5, 20000.0, 1e-4])
def test_held_audio_sounds_as_it_was_read_however_loud(tmp_path: Path, peak: float) -> None:
    wave = np.linspace(-peak, peak, RATE, dtype=np.float32)
    soundfile.write(tmp_path / "some.wav", wave, RATE, subtype="FLOAT")
    for held_hours in (1.0, 0.0):
        if not held_hours:
            soundfile.write(tmp_path / "first.wav", wave, RATE)
        heard = read(tmp_path, held_hours=held_hours).waveform(-1)
        assert heard.dtype == np.float32
        assert heard == pytest.approx(wave, abs=peak / 16384)


def test_16_bits_are_held_as_they_are(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).integers(-3000, 3000, RATE).astype(np.int16)
    soundfile.write(tmp_path / "some.wav", wave, RATE)
    assert np.array_equal(read(tmp_path).waveform(0) * 32768, wave)


def test_progress_is_told_of_all_that_was_decoded(tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []

    def tell(utterances: int, /, *, audio_seconds: float) -> None:
        told.append((utterances, audio_seconds))

    corpus = open_corpus(sounds(tmp_path, 1.0, 3.0, 2.0))
    SpeechPool.read(corpus, RATE, skips=SkipLog(), progress=tell)
    assert sum(number for number, _ in told) == 3
    assert sum(seconds for _, seconds in told) == 6.0


def test_no_reader_is_left_behind(tmp_path: Path) -> None:
    read(sounds(tmp_path, 1.0, 3.0, 2.0))
    assert not [thread for thread in threading.enumerate() if thread.name == "secateur-reader"]


def test_real_opus_speech_is_heard_the_same_held_and_read_again(shared: Path) -> None:
    corpus = open_corpus(shared / "data" / "unlabelled", limit=4)
    held, again = (SpeechPool.read(corpus, 16000, skips=SkipLog(), held_hours=hours) for hours in (1.0, 0.0))
    assert len(held) == len(again) == 4
    for i in range(4):
        assert held.seconds[i] == pytest.approx(again.seconds[i], abs=0.02)
        assert np.array_equal(held.waveform(i), again.waveform(i))
        assert 0.001 < held.waveform(i).std() < 0.5
        assert held.text(i) is None
