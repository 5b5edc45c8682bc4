"""Files of which a decoder hears a part: several in one, and MP3 without a table of its lengths."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from secateur.errors import SecateurError
from secateur.speech.audio import audio_seconds, read_audio
from secateur.speech.containers import mp3_seconds

TAG = b"ID3\x04\x00\x00\x00\x00\x01\x00" + b"\xff\xfb" * 64
"""An ID3v2 tag of 128 bytes that look like the beginnings of frames."""


def encoded(seconds: float, rate: int, container: str, subtype: str | None = None) -> bytes:
    noise = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate))
    file = io.BytesIO()
    soundfile.write(file, noise, rate, format=container, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_frames_of_mp3_are_as_long_as_what_was_encoded(rate: int) -> None:
    for seconds in (0.5, 4.0):
        alone = encoded(seconds, rate, "MP3")
        assert seconds < mp3_seconds(alone) < seconds + 0.3
        for around in (TAG + alone, alone + b"TAG" + bytes(125)):
            assert mp3_seconds(around) == mp3_seconds(alone)
        # A frame before what is none may be chance.
        assert mp3_seconds(alone + bytes(500)) == pytest.approx(mp3_seconds(alone), abs=0.08)
        twice = mp3_seconds(alone + b"TAG" + bytes(125) + TAG + alone)
        assert twice == pytest.approx(2 * mp3_seconds(alone))
    assert mp3_seconds(b"\xff\xfb" * 1000) == mp3_seconds(b"") == 0


def test_mp3_files_in_one_are_refused_and_one_is_not(tmp_path: Path) -> None:
    short, long = (encoded(seconds, 16000, "MP3") for seconds in (2.0, 5.0))
    (tmp_path / "one.mp3").write_bytes(TAG + long)
    assert audio_seconds(tmp_path / "one.mp3") == pytest.approx(5.0, abs=0.1)
    (tmp_path / "both.mp3").write_bytes(short + TAG + long)
    for read in (audio_seconds, lambda path: read_audio(path, 16000)):
        with pytest.raises(
            SecateurError,
            match=r"both\.mp3 is 2\.0 s long by its header and holds 7\.\d s, .*: convert it to FLAC",
        ):
            read(tmp_path / "both.mp3")


def test_a_file_that_is_cut_off_is_what_reading_says_it_is(tmp_path: Path) -> None:
    whole = encoded(10.0, 16000, "MP3")
    (tmp_path / "half.mp3").write_bytes(whole[: len(whole) // 2])
    assert audio_seconds(tmp_path / "half.mp3") == pytest.approx(10.0, abs=0.1)
    assert len(read_audio(tmp_path / "half.mp3", 16000, offset=1.0, duration=2.0)) == 32000
    with pytest.raises(SecateurError, match="is damaged"):
        read_audio(tmp_path / "half.mp3", 16000)


def test_what_a_recorder_has_erased_behind_a_file_is_passed_over() -> None:
    alone = encoded(2.0, 16000, "MP3")
    assert mp3_seconds(alone + b"\xff" * 100_000) == pytest.approx(mp3_seconds(alone), abs=0.08)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_files_in_one_are_refused_and_one_is_not(tmp_path: Path, subtype: str) -> None:
    short, long = (encoded(seconds, 16000, "OGG", subtype) for seconds in (2.0, 5.0))
    (tmp_path / "one.ogg").write_bytes(long)
    assert audio_seconds(tmp_path / "one.ogg") == 5.0
    (tmp_path / "both.ogg").write_bytes(short + long)
    with pytest.raises(SecateurError, match=r"both\.ogg is 2 Ogg files in one, of which only the first"):
        audio_seconds(tmp_path / "both.ogg")
