"""espeak-ng's library, bound by ctypes: words in, samples out."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from secateur.errors import SecateurError, installed_by, reason

RATE = 22050
"""Samples a second."""

# From espeak-ng's speak_lib.h.
_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_BY_CHARACTER = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_ENGLISH = ("en_dict", "intonations", "phondata", "phonindex", "phontab", "lang/gmw/en*", "voices/!v/*")
_VARIANTS = "voices/!v"
_OWN = "own"
# It has room for 160 bytes, and cuts off what is longer.
_LONGEST_PATH = 140
# Some voices at full volume are clipped.
_QUIET = 25
_REINSTALL = "reinstall it (pip install --force-reinstall espeakng-loader)"

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
# The library has one state for the whole process.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class Manner:
    """Who speaks and how.

    Attributes:
        voice: an accent's file in espeak-ng's data, and after a + the variant of the voice: ``gmw/en-US+f1``.
        words_per_minute: speed; espeak-ng's own is 175.
        pitch: 0 to 99; 50 is the voice's own.
        range: of the intonation, 0 (monotonous) to 99; 50 is the voice's own.
        timbre: a variant that espeak-ng does not have, in the words of its files of variants; ``voice`` names none then.
    """

    voice: str
    words_per_minute: int = 175
    pitch: int = 50
    range: int = 50
    timbre: str = ""


def speak(text: str, manner: Manner) -> npt.NDArray[np.int16]:
    """Say a text; a function of its arguments alone.

    Args:
        text: with punctuation, at which there are pauses.
        manner: who speaks and how.

    Returns:
        int16 [samples], of 22,050 a second, one channel.

    Raises:
        SecateurError: espeakng-loader is not installed, does not work here or has no such voice.
    """
    library_path, data = _found()
    pieces: list[bytes] = []

    def take(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _Callback(take)
    voice = f"{manner.voice}+{_OWN}" if manner.timbre else manner.voice
    with _one_at_a_time:
        if manner.timbre or len(os.fsencode(data)) > _LONGEST_PATH:
            data = _copy(manner.timbre)
        try:
            library = ctypes.CDLL(library_path)
        except OSError as error:
            raise SecateurError(
                f"espeak-ng's library {library_path} cannot be loaded ({error}): {_REINSTALL}"
            ) from error
        try:
            library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
            if library.espeak_Initialize(_SYNCHRONOUS, 1000, os.fsencode(data), _DO_NOT_EXIT) != RATE:
                raise SecateurError(f"espeak-ng cannot use its data in {data}: {_REINSTALL}")
            library.espeak_SetSynthCallback(callback)
            # It says another voice where it does not find a variant.
            if not _has(voice, data) or library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise SecateurError(f"espeak-ng has no voice {voice}: {_REINSTALL}, or give one that it has")
            for parameter, value in (
                (_RATE, manner.words_per_minute),
                (_VOLUME, _QUIET),
                (_PITCH, manner.pitch),
                (_RANGE, manner.range),
            ):
                library.espeak_SetParameter(parameter, value, 0)
            library.espeak_ng_SetRandSeed(1)
            encoded = text.encode()
            failed = library.espeak_Synth(encoded, len(encoded) + 1, 0, _BY_CHARACTER, 0, _UTF8, None, None)
            library.espeak_Terminate()
        finally:
            _unload(library)
    if failed or not pieces:
        raise SecateurError(f"espeak-ng cannot say {text!r} by {voice}: {_REINSTALL}")
    return np.frombuffer(b"".join(pieces), dtype=np.int16)


def _has(voice: str, data: Path) -> bool:
    accent, plus, variant = voice.partition("+")
    return (data / "lang" / accent).is_file() and (not plus or (data / _VARIANTS / variant).is_file())


def _found() -> tuple[str, Path]:
    try:
        import espeakng_loader

        return espeakng_loader.get_library_path(), Path(espeakng_loader.get_data_path())
    except (ImportError, RuntimeError) as error:
        raise SecateurError(
            f"synthetic speech needs espeak-ng ({reason(error)}): {installed_by('synthetic')}"
        ) from error


@cache
def _copied() -> tempfile.TemporaryDirectory[str]:
    """espeak-ng's data for English, where variants of our own may be added; it takes them from nowhere else."""
    folder = tempfile.TemporaryDirectory(prefix="secateur-")
    _, data = _found()
    for file in (file for pattern in _ENGLISH for file in data.glob(pattern)):
        copy = folder.name / file.relative_to(data)
        copy.parent.mkdir(parents=True, exist_ok=True)
        # Not their permissions: what may not be written there has to be written here.
        shutil.copyfile(file, copy)
    return folder


def _copy(timbre: str) -> Path:
    """The copy, with that timbre, if there is one, as the variant `_OWN`."""
    try:
        data = Path(_copied().name)
        if timbre:
            (data / _VARIANTS / _OWN).write_text(f"language variant\nname {_OWN}\n{timbre}\n")
    except OSError as error:
        raise SecateurError(
            f"espeak-ng's voices cannot be copied to {tempfile.gettempdir()} ({reason(error)}): make room there, or set TMPDIR "
            "to another folder"
        ) from None
    return data


def _unload(library: ctypes.CDLL) -> None:
    """Forget all that the library remembers of what it said: it is nowhere reset, and is heard in what comes next."""
    import _ctypes

    if sys.platform == "win32":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)
