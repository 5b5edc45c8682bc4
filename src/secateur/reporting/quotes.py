"""Utterances that are heard otherwise than before: their words compared, and their audio for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from secateur.errors import SecateurError

AUDIO_RATE = 16_000
AUDIO_SECONDS = 40.0
"""No more of an utterance is put into a page."""

CONTEXT = 3
"""Words that are right on either side of one that is not; what lies further from any is left out."""

AGREEMENT_SECONDS = 0.1
"""A recording whose length differs by more is not the one that was heard."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a hypothesis, or one that it lacks, or what stands for many that are right."""

    text: str
    kind: Literal["right", "wrong", "missing", "left out"]


@dataclass(frozen=True, slots=True)
class Quote:
    """An utterance: what was said, and what each model heard, with the numbers of wrong words.

    ``audio`` is a data address, or nothing.
    """

    id: str
    seconds: float
    reference: str
    heard: tuple[tuple[Word, ...], ...]
    errors: tuple[int, ...]
    audio: str = ""


def quotes(rows: Sequence[Mapping[str, Any]], recordings: Mapping[str, str]) -> list[Quote]:
    """Rows of a report, each with the ``hypotheses`` of one model or more; ``recordings``: data addresses by utterance."""
    return [
        Quote(
            str(row["id"]),
            float(row["seconds"]),
            str(row["reference"]),
            tuple(tuple(_abridged(marked(str(row["reference"]), str(text)))) for text in row["hypotheses"]),
            tuple(int(count) for count in row["errors"]),
            recordings.get(str(row["id"]), ""),
        )
        for row in rows
    ]


def marked(said: str, heard: str) -> list[Word]:
    """What was heard, word by word, and what of the transcript is missing."""
    from secateur.evaluation.error_rate import align_words

    wanted, got = said.split(), heard.split()
    words: list[Word] = []
    for chunk in align_words([said], [heard])[0]:
        if chunk.type == "delete":
            words += [Word(text, "missing") for text in wanted[chunk.ref_start_idx : chunk.ref_end_idx]]
        else:
            texts = got[chunk.hyp_start_idx : chunk.hyp_end_idx]
            words += [Word(text, "right" if chunk.type == "equal" else "wrong") for text in texts]
    return words


def _abridged(words: Sequence[Word]) -> Iterator[Word]:
    wrong = [place for place, word in enumerate(words) if word.kind != "right"]
    near = {place + step for place in wrong for step in range(-CONTEXT, CONTEXT + 1)}
    for place, word in enumerate(words):
        if place in near:
            yield word
        elif place == 0 or place - 1 in near:
            yield Word("", "left out")


def recordings(corpus: str | Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Data addresses of the utterances of ``rows`` that can be found in a corpus and read; by their ids."""
    from secateur.speech.audio import read_utterance
    from secateur.speech.corpus import open_corpus
    from secateur.speech.utterance import Utterance

    wanted = {str(row["id"]): float(row["seconds"]) for row in rows}
    found: dict[str, str] = {}
    # What is no longer there cannot be played, and the page says so.
    with suppress(SecateurError):
        for entry in open_corpus(corpus).entries():
            if not wanted:
                break
            if not isinstance(entry, Utterance) or entry.id not in wanted:
                continue
            seconds = wanted.pop(entry.id)
            with suppress(SecateurError):
                wave = read_utterance(entry, AUDIO_RATE)
                if abs(len(wave) / AUDIO_RATE - seconds) <= AGREEMENT_SECONDS:
                    found[entry.id] = _address(wave[: round(AUDIO_SECONDS * AUDIO_RATE)])
    return found


def _address(wave: Any) -> str:
    """Sound as what a page can play without asking for a file."""
    import soundfile

    # Every browser plays both, and MP3 takes a fifth of the room; an old libsndfile does not write it.
    kind, mime = ("MP3", "mpeg") if "MP3" in soundfile.available_formats() else ("FLAC", "flac")
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, AUDIO_RATE, format=kind)
    return f"data:audio/{mime};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
