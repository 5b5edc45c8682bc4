"""A corpus of utterances, and recognising the kind of data that holds one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from secateur.errors import SecateurError
from secateur.files import expanded, is_there
from secateur.speech.audio import audio_seconds
from secateur.speech.folders import (
    AUDIO_SUFFIXES,
    CONVERT,
    UNREADABLE_SUFFIXES,
    folder_utterances,
    transcript_beside,
)
from secateur.speech.manifests import looks_like_manifest, manifest_source
from secateur.speech.skips import SkipLog, Skipped
from secateur.speech.utterance import Source, Utterance

__all__ = ["Corpus", "Source", "Utterance", "open_corpus"]

_KINDS = "a LibriSpeech folder (*.trans.txt), a folder of audio, an audio file, a NeMo manifest or a Lhotse cut set (.jsonl)"
_SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Corpus:
    """Utterances in a fixed order, read from their source anew, and lazily, by every iteration.

        for utterance in open_corpus("LibriSpeech/test-clean"):
            print(utterance.id, utterance.text)

    The second utterance of an id is called `id#2`, the third `id#3`.

    Attributes:
        source: where the utterances come from.
        limit: stop after this many utterances; None reads all.
    """

    source: Source
    limit: int | None = None

    def __iter__(self) -> Iterator[Utterance]:
        """Utterances without what cannot be read; SecateurError if that is more than `SkipLog()` allows."""
        return self.utterances(SkipLog())

    def utterances(self, skips: SkipLog) -> Iterator[Utterance]:
        """Utterances, with what cannot be read noted in `skips`, which raises SecateurError past its limit."""
        for entry in self.entries():
            if isinstance(entry, Skipped):
                skips.skip(entry)
            else:
                skips.count()
                yield entry

    def entries(self) -> Iterator[Utterance | Skipped]:
        """Utterances and, in their places, what could not be read."""
        seen: set[str] = set()
        copies: dict[str, int] = {}
        for entry in self.source():
            if isinstance(entry, Skipped):
                yield entry
                continue
            name = entry.id
            while name in seen:
                copies[entry.id] = copies.get(entry.id, 1) + 1
                name = f"{entry.id}#{copies[entry.id]}"
            seen.add(name)
            yield entry if name == entry.id else replace(entry, id=name)
            if len(seen) == self.limit:
                return

    def transcribed(self) -> Iterator[Utterance | Skipped]:
        """`entries` for who needs what is said: an utterance whose transcript cannot be read is skipped."""
        for entry in self.entries():
            if isinstance(entry, Utterance) and entry.flaw is not None:
                yield Skipped(entry.id, entry.flaw)
            else:
                yield entry

    def scorable(self) -> Iterator[Utterance | Skipped]:
        """`transcribed` for who measures: an utterance without a transcript is skipped too.

        Raises:
            SecateurError: none of the first utterances, or of all, has a transcript.
        """
        told, untold = False, list[Path]()
        for entry in self.transcribed():
            if isinstance(entry, Utterance) and entry.text is None:
                untold.append(entry.path)
                if not told and len(untold) > SkipLog.limit:
                    break
                yield Skipped(entry.id, "has no transcript")
                continue
            told = told or isinstance(entry, Utterance)
            yield entry
        if untold and not told:
            raise SecateurError(f"{untold[0]} has no transcript to measure on: give transcribed speech")


def open_corpus(data: str | Path, *, limit: int | None = None) -> Corpus:
    """Recognise what `data` is by looking at it, and open it without reading it through.

    - A folder: its audio files at any depth, in sorted order. Transcripts come from LibriSpeech's `*.trans.txt`
      (lines of an utterance's id and its text) or from a `.txt` of the same name beside the audio.
    - A NeMo manifest: lines of JSON with `audio_filepath` and, where given, `text`, `offset` and `duration`; relative
      paths start at the manifest's folder.
    - A Lhotse cut set in lines of JSON, plain or gzipped (needs the extra `lhotse`).
    - An audio file, with its transcript in a `.txt` beside it, if there is one.
    - `synthetic`, a word and no path: English sentences spoken by espeak-ng when they are first read, then cached
      (needs the extra `synthetic`). `synthetic:valid` and `synthetic:test` have other voices and other sentences than
      `synthetic:train`, which `synthetic` means; `synthetic:train:2000` is of 2000 utterances. A folder of that name
      is `./synthetic`.
    - Several of these with commas between, one after the other; a path that has a comma itself is that path.

    Args:
        data: a path of one of those, `synthetic[:PART[:UTTERANCES]]`, or several.
        limit: open only the first utterances, this many.

    Raises:
        SecateurError: there is nothing there, nothing of these, or no audio in it.
    """
    path = expanded(data)
    if isinstance(data, str) and not data.strip():
        # As a path it would be the working directory.
        raise SecateurError(f"the name of the speech is empty: give {_KINDS}")
    if limit is not None and limit < 1:
        raise SecateurError(f"a limit of {limit} utterances leaves nothing: give 1 or more")
    if isinstance(data, str) and "," in data and not is_there(path):
        names = [part.strip() for part in data.split(",")]
        if not all(names):
            raise SecateurError(
                f"{data!r} has nothing between two commas, or at an end: name something there"
            )
        parts = [open_corpus(name).source for name in names]
        return Corpus(lambda: chain.from_iterable(part() for part in parts), limit)
    if isinstance(data, str) and data.partition(":")[0] == _SYNTHETIC:
        from secateur.speech.synthetic.corpus import synthetic_source

        return Corpus(synthetic_source(data), limit)
    if not is_there(path):
        raise SecateurError(f"{data} does not exist, or is closed to this user: give {_KINDS}")
    if path.is_dir():
        source: Source = partial(folder_utterances, path)
        if next(source(), None) is None:
            raise SecateurError(f"{data} holds no audio file at any depth: give {_KINDS}")
    elif path.is_file() and looks_like_manifest(path):
        source = manifest_source(path)
    elif path.is_file() and (path.suffix.lower() in AUDIO_SUFFIXES or _opens_as_audio(path)):
        source = partial(_one_file, path)
    elif path.suffix.lower() in UNREADABLE_SUFFIXES:
        raise SecateurError(f"{data} {CONVERT}")
    else:
        raise SecateurError(f"{data} is none of what was looked for: give {_KINDS}")
    return Corpus(source, limit)


def _opens_as_audio(path: Path) -> bool:
    try:
        return audio_seconds(path) > 0
    except SecateurError:
        return False


def _one_file(path: Path) -> Iterator[Utterance]:
    yield transcript_beside(Utterance(path.stem, path))
