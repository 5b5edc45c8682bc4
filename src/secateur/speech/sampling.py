"""A random sample of a corpus, of some minutes, in batches: what methods that need only a part of the speech hear."""

from __future__ import annotations

import random
from itertools import islice

from secateur.speech.audio import Waveform
from secateur.speech.batching import read_batches
from secateur.speech.corpus import Corpus
from secateur.speech.skips import SkipLog, Skipped
from secateur.speech.utterance import Utterance

# Entries that a sample is drawn from: the first ones of a larger corpus, so that it starts at once.
DRAWN_FROM = 100_000
# Audio sorted by length at a time: little enough that the sample stays in random order at the scale of minutes.
WINDOW_SECONDS = 300.0


def sample_batches(
    corpus: Corpus, minutes: float, sample_rate: int, batch_seconds: float, *, seed: int, skips: SkipLog
) -> list[list[Waveform]]:
    """Draw utterances until there are ``minutes`` of audio, or all of a smaller corpus, transcribed or not.

    Args:
        corpus: what to draw from.
        minutes: of audio, reached or passed by less than a batch.
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
    random.Random(seed).shuffle(utterances)
    batches: list[list[Waveform]] = []
    left = minutes * 60 * sample_rate
    reading = read_batches(utterances, sample_rate, batch_seconds, skips=skips, window_seconds=WINDOW_SECONDS)
    for batch in reading:
        batches.append(batch.waveforms)
        left -= sum(map(len, batch.waveforms))
        if left <= 0:
            break
    return batches
