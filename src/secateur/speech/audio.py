"""Audio files as mono float32 waveforms at the rate a model wants, whole or in blocks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from secateur.errors import SecateurError
from secateur.speech.containers import check_whole
from secateur.speech.utterance import Utterance

Waveform: TypeAlias = npt.NDArray[np.float32]

# Frames that are read at a time: when streaming, and when all is wanted anyway. The latter is large because soundfile
# seeks after each read, and a lossy decoder that seeks starts a little differently and steps over damage unnoticed;
# and it is bounded because a header may lie about its length.
_STREAM_FRAMES = 1 << 18
_WHOLE_FRAMES = 1 << 24
# How much less than its header promises a file may hold: lossy encoders round to whole packets.
_MISSING_SECONDS = 0.1
# A time beyond this (30 000 years) is a mistake, and its count of samples no 64-bit number.
LONGEST_SECONDS = 1e12
# libsndfile's "unknown" is the largest count there is; no real file comes near half of it.
_UNKNOWN_FRAMES = 1 << 62


def read_audio(
    path: str | Path, sample_rate: int, *, offset: float = 0.0, duration: float | None = None
) -> Waveform:
    """Read a file, or a part of it, as one waveform.

    Anything that soundfile reads will do (WAV, FLAC, Ogg Opus and Vorbis, MP3, ...), at any sample rate and bit
    depth; channels are averaged. The part is found by seeking wherever the format can seek.

    Args:
        path: the audio file.
        sample_rate: of the result, in Hz.
        offset: where to start, in seconds of the file.
        duration: how much to read, in seconds; None reads to the end. What lies beyond the end is left out.

    Returns:
        float32 [samples], at least one sample, full scale at 1.

    Raises:
        SecateurError: the file is missing, empty, damaged, not audio, or has samples that are not finite; or the
            part starts past its end.
    """
    return _joined(list(_resampled(Path(path), sample_rate, offset, duration, _WHOLE_FRAMES)))


def read_utterance(utterance: Utterance, sample_rate: int) -> Waveform:
    """The stretch of a file that an utterance is, as `read_audio` reads it."""
    return read_audio(utterance.path, sample_rate, offset=utterance.offset, duration=utterance.duration)


def audio_blocks(
    path: str | Path,
    sample_rate: int,
    block_seconds: float,
    *,
    offset: float = 0.0,
    duration: float | None = None,
) -> Iterator[Waveform]:
    """Read a file of any length in bounded memory, block after block.

    The blocks joined are what `read_audio` returns for the same arguments: resampling is continuous across them.
    Only a hole in an Ogg file, which `read_audio` reports, may pass unnoticed.

    Args:
        block_seconds: length of every block but the last, which is shorter if need be.

    Yields:
        float32 [round(block_seconds * sample_rate)], the last one [1 or more].

    Raises:
        SecateurError: as `read_audio`, some of it only when reading has reached the fault.
    """
    size = round(block_seconds * sample_rate)
    if size < 1:
        raise SecateurError(
            f"a block of {block_seconds:g} s holds no sample at {sample_rate} Hz: make it longer"
        )
    return _rechunked(_resampled(Path(path), sample_rate, offset, duration, _STREAM_FRAMES), size)


def audio_seconds(path: str | Path) -> float:
    """Length of an audio file in seconds, from its header where that says.

    Raises:
        SecateurError: the file is missing, empty, damaged or not audio.
    """
    path = Path(path)
    with _opened(path) as file:
        known = file.frames < _UNKNOWN_FRAMES
        frames = (
            file.frames
            if known
            else sum(len(block) for block in _source_blocks(file, path, 0, None, _STREAM_FRAMES))
        )
        return float(frames / file.samplerate)


def _opened(path: Path) -> soundfile.SoundFile:
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):
            raise SecateurError(f"{path} is not a file: give the path of an audio file")
        if status.st_size == 0:
            raise SecateurError(f"{path} is empty (0 bytes): replace it or leave it out")
        if not os.access(path, os.R_OK):
            raise SecateurError(f"{path} may not be read by this user: make it readable or leave it out")
        # soundfile takes a name that is no text, which it may be on Unix, as bytes.
        file = soundfile.SoundFile(path if sys.platform == "win32" else os.fsencode(path))
    # A ValueError is a path that no file can have, such as one with a null character.
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise SecateurError(f"{path} does not exist: check the path") from error
    # A TypeError is how soundfile says that a headerless .raw file lacks its sample rate.
    except (soundfile.SoundFileError, TypeError, OSError) as error:
        raise SecateurError(
            f"{path} cannot be read as audio ({_reason(error)}): give WAV, FLAC, Ogg Opus or Vorbis, or MP3"
        ) from error
    try:
        if file.frames == 0:
            raise SecateurError(f"{path} is empty (0 samples): replace it or leave it out")
        check_whole(path, file.format, file.frames / file.samplerate)
    except BaseException:
        file.close()
        raise
    return file


def _resampled(
    path: Path, sample_rate: int, offset: float, duration: float | None, at_a_time: int
) -> Iterator[Waveform]:
    """Pieces of unspecified lengths, at least one sample in all."""
    if not 0 <= offset < LONGEST_SECONDS:
        raise SecateurError(f"offset {offset} of {path} is not a time in seconds: give 0 or more")
    if duration is not None and not 0 < duration < LONGEST_SECONDS:
        raise SecateurError(f"duration {duration} of {path} is not a length in seconds: give more than 0")
    with _opened(path) as file:
        start = round(offset * file.samplerate)
        count = None if duration is None else round(duration * file.samplerate)
        blocks = _source_blocks(file, path, start, count, at_a_time)
        produced = 0
        for piece in (
            blocks if file.samplerate == sample_rate else _converted(blocks, file.samplerate, sample_rate)
        ):
            produced += len(piece)
            yield piece
        if produced == 0:
            raise SecateurError(
                f"{path} holds less than one sample at {sample_rate} Hz from {offset:g} s on: leave it out"
            )


def _converted(blocks: Iterator[Waveform], source_rate: int, sample_rate: int) -> Iterator[Waveform]:
    resampler = soxr.ResampleStream(source_rate, sample_rate, num_channels=1, dtype="float32")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def _source_blocks(
    file: soundfile.SoundFile, path: Path, start: int, count: int | None, at_a_time: int
) -> Iterator[Waveform]:
    """Mono blocks at the file's own rate: `count` frames from frame `start` on, or as many as there are."""
    total = file.frames
    if start >= total:
        raise SecateurError(
            f"{path} is {total / file.samplerate:.2f} s long, so nothing starts at {start / file.samplerate:.2f} s: "
            "check the offset"
        )
    wanted = total - start if count is None else min(count, total - start)
    done = 0
    try:
        skip = start
        if start and file.seekable():
            file.seek(start)
            skip = 0
        while skip:
            passed = len(file.read(min(skip, at_a_time), dtype="float32", always_2d=True))
            skip = skip - passed if passed else 0
        whole = True
        while done < wanted and whole:
            frames = min(wanted - done, at_a_time)
            block = file.read(frames, dtype="float32", always_2d=True)
            done += len(block)
            whole = len(block) == frames
            if not np.isfinite(block).all():
                raise SecateurError(f"{path} has samples that are not finite (NaN or infinity): leave it out")
            yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    except soundfile.SoundFileError as error:
        raise SecateurError(f"{path} is damaged ({_reason(error)}): replace it or leave it out") from error
    if total < _UNKNOWN_FRAMES and wanted - done > _MISSING_SECONDS * file.samplerate:
        raise SecateurError(
            f"{path} is damaged{', or an MP3 whose header misleads' if file.format == 'MP3' else ''} "
            f"(only {done / file.samplerate:.2f} of {wanted / file.samplerate:.2f} s can be read): "
            f"{'convert it to FLAC or WAV' if file.format == 'MP3' else 'replace it'} or leave it out"
        )


def _rechunked(pieces: Iterator[Waveform], size: int) -> Iterator[Waveform]:
    held: list[Waveform] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        if count >= size:
            joined = _joined(held)
            whole = count - count % size
            for first in range(0, whole, size):
                yield joined[first : first + size]
            # A copy, so that a short rest does not keep the long array alive.
            held = [joined[whole:].copy()]
            count -= whole
    if count:
        yield _joined(held)


def _joined(pieces: list[Waveform]) -> Waveform:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _reason(error: Exception) -> str:
    text = str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(". ")
    return text or "the file's data make no sense"
