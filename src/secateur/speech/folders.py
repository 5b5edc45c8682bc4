"""Folders of audio: LibriSpeech's layout, and any other with or without transcripts beside the files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from secateur.errors import reason
from secateur.speech.skips import Skipped
from secateur.speech.utterance import Utterance

AUDIO_SUFFIXES = frozenset(
    ".aif .aifc .aiff .au .caf .flac .mp3 .nist .oga .ogg .opus .rf64 .snd .sph .w64 .wav".split()
)
UNREADABLE_SUFFIXES = frozenset(".3gp .aac .amr .m4a .mka .mkv .mov .mp4 .webm .wma".split())
"""Of audio and video that soundfile does not read."""

CONVERT = "is in a format that cannot be read: convert it to FLAC or WAV"

_LIBRISPEECH = ".trans.txt"
_TRANSCRIPT_SUFFIXES = (".txt", ".TXT")


def folder_utterances(folder: Path) -> Iterator[Utterance | Skipped]:
    """Every audio file under a folder, directory by directory in sorted order; hidden files and folders are left out.

    Links to folders are followed, into each folder once.

    In a directory with LibriSpeech transcripts the utterances are their lines, in their order, then any audio that
    they do not mention. Ids are LibriSpeech's, or else the path in the folder without its suffix. Of audio that is there in several
    formats under one name, the first is taken. Directories that cannot be listed are skipped, and so is audio of formats that are not read.
    """
    known = {os.path.realpath(folder)}
    closed: list[OSError] = []
    for name, directories, files in os.walk(folder, onerror=closed.append, followlinks=True):
        yield from _unlisted(closed)
        here = Path(name)
        # Folders before links to them, so that ids are of their own names.
        own = sorted(directories, key=lambda each: ((here / each).is_symlink(), each))
        places = {os.path.realpath(here / each): each for each in reversed(own) if not each.startswith(".")}
        directories[:] = sorted(each for place, each in places.items() if place not in known)
        known.update(places)
        paths = [here / each for each in sorted(files) if not each.startswith(".")]
        audio = [path for path in paths if path.suffix.lower() in AUDIO_SUFFIXES]
        by_stem: dict[str, Path] = {}
        # LibriSpeech has been repacked in every format: where no known one is there, any name but a text's will do.
        for path in audio + [path for path in paths if path.suffix.lower() != ".txt"]:
            by_stem.setdefault(path.stem, path)
        heard = {path.stem for path in audio}
        mentioned = set()
        unread = None
        for transcripts in (path for path in paths if path.name.endswith(_LIBRISPEECH)):
            for entry in _librispeech_chapter(transcripts, by_stem):
                if isinstance(entry, Utterance):
                    mentioned.add(entry.path)
                elif entry.name == str(transcripts):
                    unread = f"{entry.name} {entry.reason}"
                yield entry
        for path in paths:
            if path in mentioned:
                continue
            if path.suffix.lower() in AUDIO_SUFFIXES:
                if by_stem[path.stem] != path:
                    continue
                yield transcript_beside(
                    Utterance(path.relative_to(folder).with_suffix("").as_posix(), path, flaw=unread)
                )
            elif path.suffix.lower() in UNREADABLE_SUFFIXES and path.stem not in heard:
                yield Skipped(str(path), CONVERT)
    yield from _unlisted(closed)


def transcript_beside(utterance: Utterance) -> Utterance:
    """The utterance with the text of the `.txt` of the same name, if there is one."""
    for beside in map(utterance.path.with_suffix, _TRANSCRIPT_SUFFIXES):
        try:
            if beside.is_file():
                return replace(utterance, text=_text(beside), flaw=None)
        except (OSError, UnicodeDecodeError) as error:
            return replace(utterance, flaw=f"{beside} cannot be read as UTF-8 text ({error})")
    return utterance


def _unlisted(errors: list[OSError]) -> Iterator[Skipped]:
    """Directories that could not be listed, each once."""
    while errors:
        error = errors.pop(0)
        yield Skipped(str(error.filename), f"cannot be listed ({reason(error)})")


def _librispeech_chapter(transcripts: Path, audio: dict[str, Path]) -> Iterator[Utterance | Skipped]:
    try:
        lines = transcripts.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        yield Skipped(str(transcripts), f"cannot be read as UTF-8 text ({error})")
        return
    for line in lines:
        if not line.strip():
            continue
        name, *words = line.split()
        if name in audio:
            yield Utterance(name, audio[name], " ".join(words))
        else:
            yield Skipped(
                name, f"is transcribed in {transcripts}, but there is no audio of that name beside it"
            )


def _text(path: Path) -> str:
    return " ".join(path.read_text(encoding="utf-8-sig").split())
