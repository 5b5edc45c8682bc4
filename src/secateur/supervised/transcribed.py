"""Transcribed speech to learn from and to measure on: what of it can be, and what is left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from secateur.errors import SecateurError
from secateur.evaluation.normalise import words_of
from secateur.progress import ProgressBar
from secateur.speech.audio import audio_seconds
from secateur.speech.corpus import Corpus, open_corpus
from secateur.speech.pool import SpeechPool
from secateur.speech.skips import SkipLog, Skipped
from secateur.speech.utterance import Utterance


class Transcribed:
    """The utterances of a corpus that can be learned from, their words as error rates compare them; a source of a `Corpus`.

    Args:
        data: the corpus, as `open_corpus` takes it.
        longest_seconds: what is longer is left out.

    Attributes:
        wordless: how many were left out for want of words, the last time that the source was read.
        long: how many because they are longer than a batch.
    """

    def __init__(self, data: str | Path, longest_seconds: float) -> None:
        self.data, self.longest_seconds = data, longest_seconds
        self.corpus = open_corpus(data)
        self.wordless = self.long = 0

    def __call__(self) -> Iterator[Utterance | Skipped]:
        self.wordless = self.long = 0
        for entry in self.corpus.transcribed():
            if isinstance(entry, Skipped):
                yield entry
                continue
            text = words_of(entry.text or "")
            if not text:
                self.wordless += 1
                continue
            try:
                seconds = entry.duration or audio_seconds(entry.path) - entry.offset
            except SecateurError as error:
                yield Skipped(entry.id, str(error))
                continue
            if seconds > self.longest_seconds:
                self.long += 1
            else:
                yield replace(entry, text=text)

    @property
    def left_out(self) -> int:
        """How many were left out, the last time that the source was read."""
        return self.wordless + self.long

    def said(self) -> str:
        """How many were left out, and why."""
        return (
            f"left out {self.left_out} utterances: {self.wordless} without a transcript, "
            f"{self.long} longer than a batch of {self.longest_seconds:g} s"
        )

    def read(self, sample_rate: int, skips: SkipLog, progress: ProgressBar) -> SpeechPool:
        """All of it, at that rate in Hz.

        Raises:
            SecateurError: there is nothing to learn from, or too much cannot be read.
        """
        if not any(isinstance(entry, Utterance) for entry in self()):
            raise SecateurError(
                f"{self.data} has nothing to learn from ({self.said()}): give transcribed speech"
                if self.left_out
                else f"{self.data} has no utterance that can be read: give transcribed speech"
            )
        return SpeechPool.read(
            Corpus(self),
            sample_rate,
            skips=skips,
            longest_seconds=self.longest_seconds,
            progress=progress.advance,
        )


def scorable(data: str | Path, limit: int | None) -> Corpus:
    """Speech to measure on; refused here, before the work, rather than in the midst of it.

    Raises:
        SecateurError: it has no transcripts, the corpus is not there, or too much of it, or all, cannot be read.
    """
    valid, skips = open_corpus(data, limit=limit), SkipLog()
    for entry in valid.scorable():
        if isinstance(entry, Skipped):
            skips.skip(entry)
            continue
        try:
            audio_seconds(entry.path)
        except SecateurError as error:
            skips.skip(Skipped(entry.id, str(error)))
        else:
            skips.count()
    skips.check_any_read()
    return valid
