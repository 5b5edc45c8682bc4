"""A random sample of a corpus, of some minutes, in batches: what methods that need only a part of the speech hear."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TypeVar

from secateur.errors import SecateurError
from secateur.speech.audio import Waveform
from secateur.speech.batching import packed, read_batches
from secateur.speech.corpus import Corpus
from secateur.speech.cutting import cut
from secateur.speech.pool import SpeechPool
from secateur.speech.skips import SkipLog, Skipped
from secateur.speech.utterance import Utterance

# Entries that a sample is drawn from: the first ones of a larger corpus, so that it starts at once.
DRAWN_FROM = 100_000
# What is longer is drawn piece by piece, and of so many times the audio that is wanted, lest all of it be of one recording.
LONGEST_SECONDS = 60.0
BREADTH = 10
# Audio sorted by length at a time: little enough that the sample stays in random order at the scale of minutes.
WINDOW_SECONDS = 300.0

_Item = TypeVar("_Item")


def sample_batches(
    corpus: Corpus, minutes: float, sample_rate: int, batch_seconds: float, *, seed: int, skips: SkipLog
) -> list[list[Waveform]]:
    """Draw utterances until there are ``minutes`` of audio, or all of a smaller corpus, transcribed or not.

    Those longer than `LONGEST_SECONDS` are drawn in pieces.

    Args:
        corpus: what to draw from.
        minutes: of audio, reached or passed by less than an utterance.
        sample_rate: of the waveforms, in Hz.
        batch_seconds: bound on a batch's padded size, in seconds of audio.
        seed: of the draw.
        skips: counts what was read, and what could not be.

    Raises:
        SecateurError: nothing, or too little, can be read.
    """
    utterances: list[Utterance] = []
    for entry in islice(corpus.entries(), DRAWN_FROM):
        if isinstance(entry, Skipped):
            skips.skip(entry)
        else:
            utterances.append(entry)
    rng = random.Random(seed)
    rng.shuffle(utterances)
    utterances = _pieces(utterances, BREADTH * minutes * 60, rng)
    # One at a time, in the order of the draw: whoever stops among batches sorted by length has drawn the longest.
    alone = 1 / sample_rate
    read = read_batches(utterances, sample_rate, alone, skips=skips, window_seconds=alone)
    drawn = (batch.waveforms[0] for batch in read)
    return _batches(drawn, minutes, sample_rate, batch_seconds, rng)


def _pieces(utterances: Sequence[Utterance], seconds: float, rng: random.Random) -> list[Utterance]:
    """The first utterances that reach that many seconds; if there are long ones among them, in pieces and in another random order."""
    pieces: list[Utterance] = []
    longer = False
    for utterance in utterances:
        if seconds <= 0:
            break
        try:
            found = cut(utterance, LONGEST_SECONDS)
        except SecateurError:
            # Reading it says what is wrong with it.
            found = [(utterance, 0.0)]
        pieces += [piece for piece, _ in found]
        seconds -= sum(length for _, length in found)
        longer = longer or len(found) > 1
    if longer:
        rng.shuffle(pieces)
    return pieces


def sample_pool(pool: SpeechPool, minutes: float, batch_seconds: float, *, seed: int) -> list[list[Waveform]]:
    """Draw utterances of a pool until there are ``minutes`` of audio, or all of a smaller one.

    The arguments and the result are those of `sample_batches`.
    """
    order, rng = list(range(len(pool))), random.Random(seed)
    rng.shuffle(order)
    return _batches(map(pool.waveform, order), minutes, pool.sample_rate, batch_seconds, rng)


def spread(corpus: Corpus, count: int) -> Corpus:
    """So many utterances of a corpus, or all, evenly spread over it, so that all its speakers are among them."""
    entries = [entry for entry in islice(corpus.entries(), DRAWN_FROM) if isinstance(entry, Utterance)]
    count = min(count, len(entries))
    chosen = [entries[index * len(entries) // count] for index in range(count)]
    return Corpus(lambda: iter(chosen))


def first(items: Iterable[_Item], enough: float, length: Callable[[_Item], float]) -> list[_Item]:
    """As many of the first items as are so long together."""
    chosen: list[_Item] = []
    for item in items:
        if enough <= 0:
            break
        chosen.append(item)
        enough -= length(item)
    return chosen


def first_batches(batches: Sequence[Sequence[Waveform]], samples: float) -> list[Sequence[Waveform]]:
    """As many of the first batches as reach that many samples."""
    return first(batches, samples, lambda batch: sum(map(len, batch)))


def _batches(
    waveforms: Iterable[Waveform], minutes: float, sample_rate: int, batch_seconds: float, rng: random.Random
) -> list[list[Waveform]]:
    """The first minutes of waveforms, packed window by window; the batches of a window in random order."""
    window: list[Waveform] = []
    batches: list[list[Waveform]] = []

    def pack() -> None:
        bound = int(batch_seconds * sample_rate)
        together = packed(window, len, lambda longest: bound // int(longest))
        # The longest are together, and whoever stops in a window should not have heard them alone.
        rng.shuffle(together)
        batches.extend(together)
        window.clear()

    left, room = minutes * 60 * sample_rate, WINDOW_SECONDS * sample_rate
    for waveform in waveforms:
        window.append(waveform)
        left -= len(waveform)
        if left <= 0:
            break
        if sum(map(len, window)) >= room:
            pack()
    pack()
    return batches
