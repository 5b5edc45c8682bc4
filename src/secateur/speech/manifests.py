"""Manifests in lines of JSON: NeMo's, and Lhotse's cut sets."""

from __future__ import annotations

import gzip
import json
import reprlib
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from secateur.errors import SecateurError, installed_by
from secateur.files import beside
from secateur.speech.audio import LONGEST_SECONDS
from secateur.speech.skips import BrokenEntryError, Skipped
from secateur.speech.utterance import Source, Utterance

Line: TypeAlias = dict[str, Any]

_SUFFIXES = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz")
# Enough to see past a few broken lines; a manifest of a million lines is not read to recognise it.
_LINES_LOOKED_AT = 10


def looks_like_manifest(path: Path) -> bool:
    """Whether a file is named as lines of JSON, or starts as they do."""
    if path.name.lower().endswith(_SUFFIXES):
        return True
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except OSError:
        return False


def manifest_source(path: Path) -> Source:
    """Tell from its first lines which kind of manifest a file is.

    Raises:
        SecateurError: it is of neither kind, empty, or a cut set where lhotse is not installed.
    """
    first: str | None = None
    for number, line in islice(_lines(path), _LINES_LOOKED_AT):
        try:
            record = _parse(line)
        except BrokenEntryError as error:
            first = first or f"line {number} {error}"
            continue
        if "audio_filepath" in record:
            return partial(_utterances, path, _nemo_utterance)
        if "recording" in record or str(record.get("type", "")).endswith("Cut"):
            return partial(_utterances, path, _lhotse_reader())
        first = first or f"line {number} has keys {', '.join(list(record)[:5]) or 'none'}"
    raise SecateurError(
        f"{path} is no manifest ({first or 'it has no lines'}): "
        'give a NeMo manifest (lines like {"audio_filepath": "a.wav", "text": "..."}) or a Lhotse cut set'
    )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbers and contents of the lines that are not blank."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise SecateurError(f"{path} cannot be read ({error}): check the file") from error


def _utterances(path: Path, read: Callable[[Line, Path], Utterance]) -> Iterator[Utterance | Skipped]:
    for number, line in _lines(path):
        try:
            yield read(_parse(line), path.parent)
        except BrokenEntryError as error:
            yield Skipped(f"{path.name}:{number}", str(error))


def _parse(line: bytes) -> Line:
    try:
        record = json.loads(line)
    # A ValueError is wrong JSON or wrong UTF-8; brackets nested without end exhaust the stack.
    except (ValueError, RecursionError) as error:
        raise BrokenEntryError("is not JSON") from error
    if not isinstance(record, dict):
        raise BrokenEntryError("is not a JSON object")
    return record


def _nemo_utterance(record: Line, folder: Path) -> Utterance:
    path = record.get("audio_filepath")
    if not isinstance(path, str) or not path:
        raise BrokenEntryError("has no audio_filepath")
    text = record.get("text")
    if not isinstance(text, str | None):
        raise BrokenEntryError(f"has {reprlib.repr(text)} for its text, which is no string")
    offset = _seconds(record, "offset")
    name = (Path(path).parent / Path(path).stem).as_posix()
    return Utterance(
        # Cuts of one recording have ids of their own.
        id=f"{name}@{offset}" if offset else name,
        path=beside(folder, path),
        text=text,
        offset=offset or 0.0,
        duration=_seconds(record, "duration"),
    )


def _seconds(record: Line, key: str) -> float | None:
    value = record.get(key)
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= value < LONGEST_SECONDS):
        raise BrokenEntryError(f"has {reprlib.repr(value)} for its {key}, which is no number of seconds")
    if key == "duration" and value == 0:
        raise BrokenEntryError("has a duration of 0")
    return float(value)


def _lhotse_reader() -> Callable[[Line, Path], Utterance]:
    try:
        from secateur.speech.lhotse_cuts import utterance_of_cut
    except ImportError as error:
        raise SecateurError(f"a Lhotse cut set needs lhotse ({error}): {installed_by('lhotse')}") from error
    return utterance_of_cut
