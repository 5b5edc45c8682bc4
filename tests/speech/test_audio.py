from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import SecateurError
from secateur.speech.audio import audio_blocks, audio_seconds, read_audio

RATE = 16000


def tone(seconds: float, rate: int, hertz: float = 440.0, channels: int = 1) -> npt.NDArray[np.float32]:
    """A sine at half scale; each further channel is a copy: [samples] or [samples, channels]."""
    times = np.arange(round(seconds * rate)) / rate
    wave: npt.NDArray[np.float32] = (0.5 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)
    return wave if channels == 1 else np.stack([wave] * channels, axis=1)


def write(path: Path, wave: npt.NDArray[np.float32], rate: int = RATE, **options: Any) -> Path:
    soundfile.write(path, wave, rate, **options)
    return path


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_audio_of_any_rate_becomes_the_same_sound_at_the_rate_asked_for(tmp_path: Path, rate: int) -> None:
    heard = read_audio(write(tmp_path / "a.wav", tone(1.0, rate), rate, subtype="FLOAT"), RATE)
    assert heard.dtype == np.float32
    assert abs(len(heard) - RATE) <= 1
    middle = slice(1000, 15000)
    np.testing.assert_allclose(heard[middle], tone(1.0, RATE)[middle], atol=2e-3)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_audio_of_any_bit_depth_keeps_its_scale(tmp_path: Path, subtype: str) -> None:
    heard = read_audio(write(tmp_path / "a.wav", tone(0.1, RATE), subtype=subtype), RATE)
    np.testing.assert_allclose(heard, tone(0.1, RATE), atol=0.02)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("wav", {}),
        ("flac", {}),
        ("mp3", {}),
        ("opus", {"format": "OGG", "subtype": "OPUS"}),
        ("ogg", {"format": "OGG", "subtype": "VORBIS"}),
    ],
)
def test_every_common_format_is_read(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    path = write(tmp_path / f"a.{suffix}", tone(1.0, 48000), 48000, **options)
    heard = read_audio(path, RATE)
    assert len(heard) == RATE
    assert audio_seconds(path) == pytest.approx(1.0)
    middle = slice(1000, 15000)
    assert np.corrcoef(heard[middle], tone(1.0, RATE)[middle])[0, 1] > 0.99


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(0.5, RATE, 300), tone(0.5, RATE, 700)
    path = write(tmp_path / "a.wav", np.stack([left, right, -left, right], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path, RATE), right / 2, atol=1e-6)


def test_silence_is_read_as_silence(tmp_path: Path) -> None:
    heard = read_audio(write(tmp_path / "a.wav", np.zeros(RATE, np.float32)), RATE)
    assert len(heard) == RATE
    assert not heard.any()


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_fiftieth_of_a_second_is_read(tmp_path: Path, rate: int) -> None:
    assert len(read_audio(write(tmp_path / "a.wav", tone(0.02, rate), rate), RATE)) == 320


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("wav", {}), ("flac", {}), ("ogg", {"format": "OGG", "subtype": "VORBIS"}), ("mp3", {})],
)
def test_a_part_of_a_file_is_that_part_of_the_whole(
    tmp_path: Path, suffix: str, options: dict[str, Any]
) -> None:
    noise = np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32) * 0.1
    path = write(tmp_path / f"a.{suffix}", noise, **options)
    whole = read_audio(path, RATE)
    np.testing.assert_allclose(
        read_audio(path, RATE, offset=2.5, duration=0.75), whole[40000:52000], atol=1e-4
    )
    np.testing.assert_allclose(read_audio(path, RATE, offset=3.5), whole[56000:], atol=1e-4)


def test_a_part_is_found_by_seeking_and_not_by_reading_up_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.flac", np.zeros(600 * RATE, np.float32))
    frames_read = 0
    read = soundfile.SoundFile.read

    def counted(self: soundfile.SoundFile, frames: int = -1, **options: object) -> object:
        nonlocal frames_read
        frames_read += frames
        return read(self, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    assert len(read_audio(path, RATE, offset=590.0, duration=1.0)) == RATE
    assert frames_read == RATE


def test_a_part_of_a_format_that_cannot_seek_is_read_up_to(tmp_path: Path) -> None:
    wave = np.concatenate([np.zeros(8000, np.float32), tone(1.0, 8000)])
    path = write(tmp_path / "a.au", wave, 8000, format="AU", subtype="G721_32")
    heard = read_audio(path, 8000, offset=1.0, duration=0.5)
    assert len(heard) == 4000
    assert np.corrcoef(heard, tone(0.5, 8000))[0, 1] > 0.99


def test_a_part_that_reaches_past_the_end_ends_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(1.0, RATE))
    assert len(read_audio(path, RATE, offset=0.5, duration=10.0)) == RATE // 2


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"offset": 1.0}, "1.00 s long, so nothing starts at 1.00 s"),
        ({"offset": -1.0}, "not a time in seconds"),
        ({"offset": float("nan")}, "not a time in seconds"),
        ({"offset": 1e300}, "not a time in seconds"),
        ({"duration": 0.0}, "not a length in seconds"),
        ({"duration": float("inf")}, "not a length in seconds"),
        ({"duration": 1e-6}, "less than one sample"),
    ],
)
def test_a_part_that_is_none_is_an_error(tmp_path: Path, part: dict[str, float], message: str) -> None:
    with pytest.raises(SecateurError, match=message):
        read_audio(write(tmp_path / "a.wav", tone(1.0, RATE)), RATE, **part)


def _empty(path: Path) -> None:
    path.touch()


def _no_samples(path: Path) -> None:
    write(path, np.zeros(0, np.float32))


def _text(path: Path) -> None:
    path.write_text("this is no sound at all, whatever it is called\n" * 20)


def _noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(100_000))


def _header_alone(path: Path) -> None:
    write(path, tone(1.0, RATE))
    path.write_bytes(path.read_bytes()[:30])


def _truncated_flac(path: Path) -> None:
    write(path, tone(5.0, RATE), format="FLAC")
    path.write_bytes(path.read_bytes()[:20_000])


def _damaged_flac(path: Path) -> None:
    write(path, tone(5.0, RATE), format="FLAC")
    content = bytearray(path.read_bytes())
    content[30_000:33_000] = b"\x55" * 3000
    path.write_bytes(content)


def _truncated_mp3(path: Path) -> None:
    write(path, tone(20.0, RATE), format="MP3")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])


def _not_a_number(path: Path) -> None:
    wave = tone(1.0, RATE)
    wave[8000] = np.nan
    write(path, wave, subtype="FLOAT")


def _infinities(path: Path) -> None:
    wave = tone(1.0, RATE, channels=2)
    wave[8000] = np.inf, -np.inf
    write(path, wave, subtype="FLOAT")


def _folder(path: Path) -> None:
    path.mkdir()


def _missing(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.wav", _missing, "does not exist"),
        ("a\0.wav", _missing, "does not exist"),
        ("a" * 5000 + ".wav", _missing, "cannot be read as audio"),
        ("a.wav", _folder, "is not a file"),
        ("a.wav", _empty, "is empty"),
        ("a.wav", _no_samples, "is empty"),
        ("a.wav", _text, "cannot be read as audio"),
        ("a.raw", _text, "cannot be read as audio"),
        ("a.mp3", _noise, "cannot be read as audio"),
        ("a.wav", _header_alone, "cannot be read as audio"),
        ("a.flac", _truncated_flac, "is damaged"),
        ("a.flac", _damaged_flac, "is damaged"),
        ("a.mp3", _truncated_mp3, "is damaged"),
        ("a.wav", _not_a_number, "not finite"),
        ("a.wav", _infinities, "not finite"),
    ],
)
def test_what_cannot_be_read_is_an_error_of_one_sentence(
    tmp_path: Path, name: str, make: object, message: str
) -> None:
    assert callable(make)
    path = tmp_path / name
    make(path)
    for read in (lambda: read_audio(path, RATE), lambda: list(audio_blocks(path, RATE, 1.0))):
        with pytest.raises(SecateurError, match=message) as raised:
            read()
        sentence = str(raised.value)
        assert sentence.startswith(str(path))
        assert "\n" not in sentence
        assert not sentence.endswith(".")


def test_an_opus_file_with_a_hole_is_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.opus", tone(20.0, 48000), 48000, format="OGG", subtype="OPUS")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = b"\x55" * 3000
    path.write_bytes(content)
    with pytest.raises(SecateurError, match=r"is damaged \(only 1[5-9]\.\d\d of 20\.00 s can be read\)"):
        read_audio(path, RATE)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_wav_of_which_the_end_is_missing_is_damaged(tmp_path: Path, subtype: str) -> None:
    path = write(tmp_path / "a.wav", tone(1.0, RATE), subtype=subtype)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for read in (audio_seconds, lambda path: read_audio(path, RATE)):
        with pytest.raises(
            SecateurError, match=r"is damaged \(its end is missing, and 0.[45]\d s are left\)"
        ):
            read(path)
    # A program that was closed carelessly.
    path.write_bytes(whole[:-100])
    assert len(read_audio(path, RATE)) > 0.99 * RATE


@pytest.mark.parametrize("size", [0x7FFF_F000, 0xFFFF_FFFF])
def test_a_wav_from_a_pipe_does_not_know_its_length(tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "a.wav", tone(1.0, RATE))
    content = bytearray(path.read_bytes())
    content[40:44] = size.to_bytes(4, "little")
    path.write_bytes(content)
    assert len(read_audio(path, RATE)) == RATE


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
@pytest.mark.parametrize("part", [0.3, 0.6])
def test_an_ogg_file_that_ends_within_a_page_is_damaged(tmp_path: Path, subtype: str, part: float) -> None:
    path = write(tmp_path / "a.ogg", tone(10.0, 48000), 48000, format="OGG", subtype=subtype)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(SecateurError, match="is damaged|is empty|cannot be read as audio"):
        read_audio(path, RATE)


def test_a_file_that_is_closed_to_the_user_is_no_wrong_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.wav", tone(1.0, RATE))
    # To root everything is open.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SecateurError, match="may not be read by this user"):
        read_audio(path, RATE)


@given(
    rate=st.sampled_from([8000, 16000, 22050, 44100]),
    seconds=st.floats(0.02, 3.0),
    block_seconds=st.floats(0.001, 4.0),
    offset=st.floats(0.0, 0.01),
)
def test_blocks_joined_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, rate: int, seconds: float, block_seconds: float, offset: float
) -> None:
    wave = np.random.default_rng(0).standard_normal(round(seconds * rate)).astype(np.float32) * 0.1
    path = write(tmp_path_factory.mktemp("blocks") / "a.wav", wave, rate, subtype="FLOAT")
    blocks = list(audio_blocks(path, RATE, block_seconds, offset=offset))
    size = round(block_seconds * RATE)
    assert all(len(block) == size for block in blocks[:-1])
    assert 0 < len(blocks[-1]) <= size
    np.testing.assert_allclose(np.concatenate(blocks), read_audio(path, RATE, offset=offset), atol=1e-6)


def test_blocks_of_a_long_file_are_read_in_bounded_memory(tmp_path: Path) -> None:
    import tracemalloc

    seconds = 1200
    with soundfile.SoundFile(tmp_path / "a.flac", "w", 8000, 2) as file:
        for _ in range(seconds // 10):
            file.write(np.zeros((80000, 2), np.float32))
    tracemalloc.start()
    total = sum(len(block) for block in audio_blocks(tmp_path / "a.flac", RATE, 20.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == seconds * RATE
    assert peak < 16e6  # The whole waveform is 77 MB at 16 kHz and as much as it is stored.


def test_a_block_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SecateurError, match="holds no sample"):
        audio_blocks(write(tmp_path / "a.wav", tone(1.0, RATE)), RATE, 0.0)


def test_the_length_of_a_part_of_real_speech_is_what_was_asked_for(shared: Path) -> None:
    path = min((shared / "data/librispeech/valid").rglob("*.opus"))
    whole = read_audio(path, 8000)
    assert len(whole) == pytest.approx(audio_seconds(path) * 8000, abs=1)
    assert len(read_audio(path, 8000, offset=0.5, duration=1.0)) == 8000
