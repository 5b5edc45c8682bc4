"""Batches of speech for a model: read ahead by threads, of similar lengths, bounded in padded seconds."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from secateur.errors import SecateurError
from secateur.speech.audio import Waveform, read_utterance
from secateur.speech.corpus import Corpus
from secateur.speech.skips import SkipLog, Skipped
from secateur.speech.utterance import Utterance

BATCH_SECONDS = 30.0
"""A batch that keeps a CPU's caches warm, for a Conformer of 13 M parameters; accelerators want more."""

Item = TypeVar("Item")

# Entries read ahead, for corpora whose entries hold little audio or none.
_MOST_READY = 1024


@dataclass(frozen=True, slots=True)
class SpeechBatch:
    """Utterances to be heard together, the longest first.

    Attributes:
        utterances: the utterances, [batch].
        waveforms: their audio, [batch] of float32 [samples], unpadded.
        positions: where each came in its corpus, from 0, counting also those whose audio could not be read, [batch].
    """

    utterances: list[Utterance]
    waveforms: list[Waveform]
    positions: list[int]


@dataclass(frozen=True, slots=True)
class _Heard:
    utterance: Utterance
    waveform: Waveform
    position: int


def read_batches(
    corpus: Corpus | Iterable[Utterance],
    sample_rate: int,
    batch_seconds: float,
    *,
    skips: SkipLog,
    readers: int = 4,
    window_seconds: float = 1200.0,
) -> Iterator[SpeechBatch]:
    """Read a corpus into batches of similar lengths, so that little of a batch is padding.

    Utterances are sorted by length within a window of the corpus. One window is held while threads read ahead at
    most another, so memory is bounded by the two (and one utterance for each reader), whatever the corpus: about
    150 MB at the defaults and 16 kHz. The batches depend on the corpus alone, not on the timing of the threads.
    The threads end when the iterator is exhausted or closed.

    Args:
        corpus: what to read, lazily.
        sample_rate: of the waveforms, in Hz.
        batch_seconds: bound on a batch's padded size, its utterances times its longest, in seconds of audio. An
            utterance that is longer alone is a batch of its own.
        skips: counts what was read, and what could not be: entries of the corpus, and their audio.
        readers: threads that read audio.
        window_seconds: audio to sort by length at a time, and to read ahead, in seconds.

    Yields:
        Batches that hold every readable utterance once.

    Raises:
        SecateurError: more is skipped than `skips` allows, or nothing of what it has noted could be read.
    """
    if not (0 < batch_seconds < math.inf and 0 < window_seconds < math.inf and readers > 0):
        raise SecateurError(
            f"batches of {batch_seconds:g} s from windows of {window_seconds:g} s by {readers} readers "
            "cannot be made: give finite numbers above 0"
        )
    return _batches(corpus, sample_rate, batch_seconds, skips, readers, window_seconds)


def _batches(
    corpus: Corpus | Iterable[Utterance],
    sample_rate: int,
    batch_seconds: float,
    skips: SkipLog,
    readers: int,
    window_seconds: float,
) -> Iterator[SpeechBatch]:
    bound = int(batch_seconds * sample_rate)
    entries = corpus.entries() if isinstance(corpus, Corpus) else iter(corpus)
    ahead = _ReadAhead(entries, sample_rate, math.ceil(window_seconds * sample_rate))
    window: list[_Heard] = []
    held = 0
    try:
        ahead.start(readers)
        for entry in chain(ahead, [None]):
            if isinstance(entry, Skipped):
                skips.skip(entry)
                continue
            if isinstance(entry, _Heard):
                skips.count()
                window.append(entry)
                held += len(entry.waveform)
                if held < window_seconds * sample_rate:
                    continue
            for batch in packed(
                window, lambda heard: len(heard.waveform), lambda longest: bound // int(longest)
            ):
                yield SpeechBatch(
                    [heard.utterance for heard in batch],
                    [heard.waveform for heard in batch],
                    [heard.position for heard in batch],
                )
            window, held = [], 0
    finally:
        ahead.close()
    skips.check_any_read()


def packed(
    items: Sequence[Item], length: Callable[[Item], float], room: Callable[[float], int]
) -> list[list[Item]]:
    """Batches of items of similar lengths, the longest first; of equals the first first.

    Args:
        items: what is packed.
        length: of an item.
        room: how many items a batch may have whose longest is of that length; one at least.
    """
    left = sorted(items, key=length, reverse=True)
    batches = []
    while left:
        count = max(1, room(length(left[0])))
        batches.append(left[:count])
        left = left[count:]
    return batches


class _ReadAhead:
    """Entries of a corpus in its order, their audio read by threads that run at most `room` samples ahead.

    The threads take entries from the corpus themselves, one at a time under a lock, and only while there is room. So
    whatever has been taken is being read and needs no further permission, and nobody can wait for somebody
    who waits for them. They are daemons: a program that drops the iterator without closing it can still end.
    """

    def __init__(self, entries: Iterator[Utterance | Skipped], sample_rate: int, room: int) -> None:
        self._entries = entries
        self._sample_rate = sample_rate
        self._room = room
        self._changed = threading.Condition()
        self._ready: dict[int, _Heard | Skipped | BaseException] = {}
        self._held = 0
        self._taken = 0
        self._positions = 0
        self._ended = False
        self._threads: list[threading.Thread] = []

    def start(self, readers: int) -> None:
        for _ in range(readers):
            thread = threading.Thread(target=self._read, name="secateur-reader", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """End the threads, after the files that they are reading."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for thread in self._threads:
            # Stopping is prompt even if one of them is in the middle of an hour-long file.
            thread.join(timeout=1.0)

    def __iter__(self) -> Iterator[_Heard | Skipped]:
        turn = 0
        while True:
            with self._changed:
                while turn not in self._ready:
                    if self._ended and turn >= self._taken:
                        return
                    self._changed.wait()
                entry = self._ready.pop(turn)
                if isinstance(entry, _Heard):
                    self._held -= len(entry.waveform)
                self._changed.notify_all()
            if isinstance(entry, BaseException):
                raise entry
            yield entry
            turn += 1

    def _read(self) -> None:
        while (taken := self._take()) is not None:
            turn, position, entry = taken
            read = self._heard(position, entry) if isinstance(entry, Utterance) else entry
            with self._changed:
                self._ready[turn] = read
                if isinstance(read, _Heard):
                    self._held += len(read.waveform)
                self._changed.notify_all()

    def _take(self) -> tuple[int, int, Utterance | Skipped | BaseException] | None:
        with self._changed:
            while not self._ended and (self._held >= self._room or len(self._ready) >= _MOST_READY):
                self._changed.wait()
            if self._ended:
                return None
            turn, position = self._taken, self._positions
            entry: Utterance | Skipped | BaseException
            try:
                entry = next(self._entries)
            except StopIteration:
                self._ended = True
                self._changed.notify_all()
                return None
            except BaseException as error:  # noqa: BLE001 - it is raised where the entry would have come
                entry = error
                self._ended = True
            self._taken += 1
            self._positions += isinstance(entry, Utterance)
            return turn, position, entry

    def _heard(self, position: int, utterance: Utterance) -> _Heard | Skipped | BaseException:
        try:
            waveform = read_utterance(utterance, self._sample_rate)
        except SecateurError as error:
            return Skipped(utterance.id, str(error))
        except BaseException as error:  # noqa: BLE001 - it is raised where the utterance would have come
            return error
        return _Heard(utterance, waveform, position)
