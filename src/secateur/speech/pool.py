"""All speech of a corpus, for training: drawn from in any order, again and again."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from secateur.errors import SecateurError
from secateur.speech.audio import Waveform, read_utterance
from secateur.speech.batching import BATCH_SECONDS, read_batches
from secateur.speech.corpus import Corpus
from secateur.speech.cutting import cut
from secateur.speech.skips import SkipLog, Skipped
from secateur.speech.utterance import Utterance

LONGEST_SECONDS = 30.0
SHORTEST_SECONDS = 0.3
HELD_HOURS = 12.0
"""Of 16 kHz audio that is 1.4 GB."""

_FULL_SCALE = 32768
_QUIETEST, _SILENT = 1 / 64, 1e-20
"""Peak below which 16 bits of the full scale leave too little, so that an utterance has a scale of its own, as one above 1 has; and
peak below which there is nothing."""


class Read(Protocol):
    """Told that so many more utterances were read, and how long they are together; `ProgressBar.advance` is one."""

    def __call__(self, utterances: int, /, *, audio_seconds: float) -> object: ...


@dataclass(frozen=True, slots=True)
class _Held:
    """A waveform in 16 bit, and what its largest numbers stand for."""

    samples: npt.NDArray[np.int16]
    scale: float

    @classmethod
    def of(cls, wave: Waveform) -> _Held:
        peak = float(np.abs(wave).max(initial=0.0))
        scale = 1.0 if _QUIETEST <= peak <= 1 or peak < _SILENT else peak
        whole = np.rint(wave * np.float32(_FULL_SCALE / scale))
        return cls(np.clip(whole, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16), scale)

    def waveform(self) -> Waveform:
        wave: Waveform = self.samples.astype(np.float32) * np.float32(self.scale / _FULL_SCALE)
        return wave


@dataclass(frozen=True, slots=True)
class _Piece:
    """An utterance, or a part of a long one; ``held``, or else to be read again."""

    utterance: Utterance
    seconds: float
    held: _Held | None = None


class SpeechPool:
    """Utterances of a corpus that can be heard in any order, those of long recordings piece by piece.

    An utterance that is not held, and that can no longer be read when it is wanted, is counted as skipped and from then on
    is silence without words: a long run does not end for it, and batches stay what they were planned to be.

    Attributes:
        seconds: lengths, float64 [utterances].
        sample_rate: of the waveforms, in Hz.
        skips: counts what could not be read.
    """

    def __init__(self, pieces: list[_Piece], sample_rate: int, skips: SkipLog) -> None:
        self._pieces = pieces
        self._silent: set[int] = set()
        self.seconds: npt.NDArray[np.float64] = np.array(
            [piece.seconds for piece in pieces], dtype=np.float64
        )
        self.sample_rate = sample_rate
        self.skips = skips

    @property
    def said(self) -> str:
        """What tells it from other speech, in words."""
        return f"{len(self)} utterances of {self.seconds.sum():.0f} s"

    @classmethod
    def read(
        cls,
        corpus: Corpus,
        sample_rate: int,
        *,
        skips: SkipLog,
        longest_seconds: float = LONGEST_SECONDS,
        held_hours: float = HELD_HOURS,
        progress: Read | None = None,
    ) -> SpeechPool:
        """Read a corpus, in its order.

        Args:
            corpus: what to read, transcribed or not.
            sample_rate: of the waveforms, in Hz.
            skips: counts what was read, and what could not be; pieces of long recordings count by themselves.
            longest_seconds: what is longer is cut into equal pieces, which have no text. What is shorter than
                ``SHORTEST_SECONDS`` is left out.
            held_hours: audio to hold decoded, in 16 bit. What comes after is read whenever it is wanted, and sounds
                the same; its lengths are what headers and manifests say.
            progress: told after every few utterances that were decoded.

        Raises:
            SecateurError: nothing, or too little, can be read, or all of it is too short.
        """
        if not (0 < longest_seconds < math.inf and held_hours >= 0):
            raise SecateurError(
                f"pieces of {longest_seconds:g} s of which {held_hours:g} hours are held make no pool: "
                "give a finite length above 0, and hours of 0 or more"
            )
        entries = _cut(corpus, longest_seconds)
        heard: list[tuple[int, _Piece]] = []
        held = _first(entries, held_hours * 3600)
        for batch in read_batches(Corpus(lambda: held), sample_rate, BATCH_SECONDS, skips=skips):
            for position, utterance, wave in zip(
                batch.positions, batch.utterances, batch.waveforms, strict=True
            ):
                heard.append((position, _Piece(utterance, len(wave) / sample_rate, _Held.of(wave))))
            if progress is not None:
                progress(len(batch.waveforms), audio_seconds=sum(map(len, batch.waveforms)) / sample_rate)
        pieces = [piece for _, piece in sorted(heard, key=lambda item: item[0])]
        for entry in entries:
            if isinstance(entry, Skipped):
                skips.skip(entry)
            else:
                skips.count()
                pieces.append(entry)
        pieces = [piece for piece in pieces if piece.seconds >= SHORTEST_SECONDS]
        if not pieces:
            raise SecateurError(
                f"there is no speech of {SHORTEST_SECONDS:g} s or more ({skips.summary()}): give longer utterances"
            )
        return cls(pieces, sample_rate, skips)

    def __len__(self) -> int:
        return len(self._pieces)

    def split(self, count: int, seed: int) -> tuple[SpeechPool, SpeechPool]:
        """All utterances but ``count``, and those, drawn at random; both in the order of the pool."""
        drawn = set(random.Random(seed).sample(range(len(self)), count))
        parts: tuple[list[_Piece], list[_Piece]] = ([], [])
        for index, piece in enumerate(self._pieces):
            parts[index in drawn].append(piece)
        rest, held = (SpeechPool(part, self.sample_rate, self.skips) for part in parts)
        return rest, held

    def waveform(self, index: int) -> Waveform:
        """Audio of an utterance, float32 [samples].

        Raises:
            SecateurError: it cannot be read, and ``skips`` allows no more of that.
        """
        held = self._pieces[index].held
        return self._read(index) if held is None else held.waveform()

    def text(self, index: int) -> str | None:
        """What is said in it, if that is known."""
        return None if index in self._silent else self._pieces[index].utterance.text

    def _read(self, index: int) -> Waveform:
        utterance = self._pieces[index].utterance
        if index not in self._silent:
            try:
                return _Held.of(read_utterance(utterance, self.sample_rate)).waveform()
            except SecateurError as error:
                self._silent.add(index)
                self.skips.skip(Skipped(utterance.id, str(error)))
        return np.zeros(round(self._pieces[index].seconds * self.sample_rate), dtype=np.float32)


def _cut(corpus: Corpus, longest_seconds: float) -> Iterator[_Piece | Skipped]:
    """Utterances with their lengths, the long ones in equal pieces, without reading any audio."""
    for entry in corpus.entries():
        if isinstance(entry, Skipped):
            yield entry
            continue
        try:
            yield from (_Piece(piece, seconds) for piece, seconds in cut(entry, longest_seconds))
        except SecateurError as error:
            yield Skipped(entry.id, str(error))


def _first(entries: Iterator[_Piece | Skipped], seconds: float) -> Iterator[Utterance | Skipped]:
    """Take entries until there are as many seconds, and at least one."""
    for entry in entries:
        if isinstance(entry, Skipped):
            yield entry
            continue
        yield entry.utterance
        seconds -= entry.seconds
        if seconds <= 0:
            return
