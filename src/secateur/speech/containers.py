"""How much MP3, Ogg and WAV files hold: decoders believe the first header, or take what is there for all there was."""

from __future__ import annotations

import mmap
import re
import struct
from functools import lru_cache
from pathlib import Path

from secateur.errors import SecateurError

_SLACK_SECONDS = 0.5
"""What MP3 encoders add at both ends, and decoders leave out, is less."""

# Frames of MPEG audio, layer III (ISO 11172-3 and 13818-3): kilobits a second by index, for version 1 and for the others, and
# samples a second by version.
_KILOBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KILOBITS_LOW = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_VERSION_1 = 3
_RATES = {_VERSION_1: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_LAYER_3 = 1
_HEADER = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]|ID3|TAG")
"""What a frame of layer III or a tag begins with."""

_TAG_HEADER = 10  # bytes, of an ID3v2 tag
_OLD_TAG = 128  # bytes, of an ID3v1 tag
_PAGE_HEADER = 27  # bytes, of an Ogg page
_BEGINS = 2  # an Ogg page's flag

_RIFF_HEADER, _CHUNK_HEADER = 12, 8  # bytes
_STREAMED = 0x7FF0_0000
"""Sizes of WAV data from here on are what programs write that do not know how much is to come."""
_CUT_SECONDS = 0.1
"""WAV data that lack no more than that were closed carelessly, not cut."""


def check_whole(path: Path, container: str, seconds: float) -> None:
    """Refuse a file of which a decoder would hear a part.

    Args:
        path: of the file.
        container: as soundfile calls it; all but MP3, OGG and WAV are taken at their word.
        seconds: how long it is by its header.

    Raises:
        SecateurError: it holds more than its header tells of, or is cut short. An MP3 that holds less is seen by who reads it.
    """
    if container not in _FAULTS:
        return
    try:
        status = path.stat()
        fault = _fault(path, container, seconds, status.st_size, status.st_mtime_ns)
    except OSError:
        # Not every file system maps files.
        return
    if fault is not None:
        raise SecateurError(f"{path} is {fault}")


# Parts of a long recording are read one by one.
@lru_cache(maxsize=1 << 16)
def _fault(path: Path, container: str, seconds: float, _size: int, _changed: int) -> str | None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _FAULTS[container](data, seconds)


def _mp3_fault(data: mmap.mmap, seconds: float) -> str | None:
    held = mp3_seconds(data)
    if held - seconds <= _SLACK_SECONDS:
        return None
    return (
        f"{seconds:.1f} s long by its header and holds {held:.1f} s, as several MP3 files in one do, and one of a varying bit rate "
        f"whose header does not say so: {_INSTEAD}"
    )


def _ogg_fault(data: mmap.mmap, seconds: float) -> str | None:
    streams, cut = ogg_streams(data)
    if cut:
        return _end_is_missing(seconds)
    return (
        f"{streams} Ogg files in one, of which only the first would be heard: {_INSTEAD}"
        if streams > 1
        else None
    )


def _wav_fault(data: mmap.mmap, seconds: float) -> str | None:
    return _end_is_missing(seconds) if wav_is_cut(data) else None


def _end_is_missing(seconds: float) -> str:
    return f"damaged (its end is missing, and {seconds:.2f} s are left): replace it or leave it out"


_INSTEAD = "convert it to FLAC or WAV"
_FAULTS = {"MP3": _mp3_fault, "OGG": _ogg_fault, "WAV": _wav_fault, "WAVEX": _wav_fault}


def mp3_seconds(data: mmap.mmap | bytes) -> float:
    """The length of all frames together, tags and damage between them left out; 0 where there are none of layer III."""
    place, seconds = 0, 0.0
    while place < len(data) - 4:
        if data[place : place + 3] == b"ID3":
            # Of its four bytes of length each has seven bits.
            sizes = data[place + 6 : place + _TAG_HEADER]
            place += _TAG_HEADER + sum(
                byte << shift for byte, shift in zip(sizes, (21, 14, 7, 0), strict=False)
            )
        elif data[place : place + 3] == b"TAG":
            place += _OLD_TAG
        elif (frame := _frame(data, place)) is not None and _follows(data, place + frame[0]):
            place, seconds = place + frame[0], seconds + frame[1]
        else:
            found = _HEADER.search(data, place + 1)
            place = len(data) if found is None else found.start()
    return seconds


def _frame(data: mmap.mmap | bytes, place: int) -> tuple[int, float] | None:
    """Bytes and seconds of the frame that begins there, if one does."""
    first, second, third = data[place : place + 3]
    version, layer = second >> 3 & 3, second >> 1 & 3
    index, rate = third >> 4, third >> 2 & 3
    if (
        first != 0xFF
        or second < 0xE0
        or version not in _RATES
        or layer != _LAYER_3
        or index in (0, 15)
        or rate == 3
    ):
        return None
    samples = 1152 if version == _VERSION_1 else 576
    kilobits = (_KILOBITS if version == _VERSION_1 else _KILOBITS_LOW)[index]
    per_second = _RATES[version][rate]
    return samples // 8 * 1000 * kilobits // per_second + (third >> 1 & 1), samples / per_second


def _follows(data: mmap.mmap | bytes, place: int) -> bool:
    """Whether what may follow a frame stands there: another, a tag, or the end."""
    left = data[place : place + 4]
    return len(left) < 4 or left[:3] in (b"ID3", b"TAG", b"APE") or _frame(data, place) is not None


def ogg_streams(data: mmap.mmap | bytes) -> tuple[int, bool]:
    """How many streams there are one after the other, and whether the file ends within a page.

    There is one at least, and streams side by side are one.
    """
    place, streams, beginning = 0, 0, False
    while data[place : place + 4] == b"OggS" and place + _PAGE_HEADER <= len(data):
        begins = bool(data[place + 5] & _BEGINS)
        streams += begins and not beginning
        beginning = begins
        lengths = data[place + _PAGE_HEADER : place + _PAGE_HEADER + data[place + _PAGE_HEADER - 1]]
        place += _PAGE_HEADER + len(lengths) + sum(lengths)
    return max(1, streams), place > len(data) or data[place : place + 4] == b"OggS"


def wav_is_cut(data: mmap.mmap | bytes) -> bool:
    """Whether there is less sound in a WAV file than it says, by more than carelessness."""
    place, per_second = _RIFF_HEADER, 0
    while data[:4] == b"RIFF" and place + _CHUNK_HEADER <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        place += _CHUNK_HEADER
        if name == b"fmt " and place + 12 <= len(data):
            (per_second,) = struct.unpack_from("<I", data, place + 8)
        if name == b"data":
            missing: int = size - (len(data) - place)
            return size < _STREAMED and missing > _CUT_SECONDS * per_second
        # Chunks are padded to even lengths.
        place += size + size % 2
    return False
