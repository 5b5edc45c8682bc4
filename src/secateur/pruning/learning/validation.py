"""Whether what is learned helps, as a run looks in between: the word error rate on transcripts, or against the unpruned model."""

from __future__ import annotations

import math
from collections.abc import Callable

from secateur.evaluation.error_rate import total, word_counts
from secateur.evaluation.evaluate import evaluate
from secateur.evaluation.normalise import normaliser
from secateur.pruning.learning.learned import Learned
from secateur.recognizer import Recognizer
from secateur.speech.batching import BATCH_SECONDS
from secateur.speech.corpus import Corpus
from secateur.speech.pool import SpeechPool
from secateur.speech.sampling import sample_pool, spread

Validation = Callable[[Recognizer], float]

HELD_SHARE = 0.05
"""Part of the training speech that is held out at most, where there are no transcripts to validate on."""

FEWEST = 20
"""Utterances below which an error rate says nothing."""


def set_aside(
    pool: SpeechPool, valid: Corpus | None, learned: Learned, seed: int
) -> tuple[SpeechPool, SpeechPool | None]:
    """The speech to train on, and what is set aside of it to validate on, where nothing is transcribed and a run validates."""
    if not learned.validates or valid is not None:
        return pool, None
    return hold_out(pool, learned.valid_utterances, seed)


def validation(
    learned: Learned, valid: Corpus | None, held: SpeechPool | None, teacher: Recognizer, seed: int
) -> Validation | None:
    """How what is learned is validated: on transcripts, or on speech that was `set_aside`; None: not at all.

    Args:
        learned: how many utterances there is the time for.
        valid: transcribed speech.
        held: speech that was set aside, where nothing is transcribed.
        teacher: what it is compared with where nothing is transcribed.
        seed: of which utterances are taken.
    """
    if not learned.validates:
        return None
    if valid is not None:
        return on_transcripts(valid, learned.valid_utterances)
    assert held is not None
    if learned.valid_utterances < len(held):
        held = held.split(learned.valid_utterances, seed)[1]
    return on_what_is_heard(teacher, held)


def on_transcripts(valid: Corpus, count: int) -> Validation:
    """The word error rate on about so many utterances of transcribed speech."""
    part = spread(Corpus(valid.scorable), count)
    return lambda recognizer: evaluate(recognizer, part).wer


def on_what_is_heard(teacher: Recognizer, held: SpeechPool) -> Validation:
    """The word error rate against what the teacher hears in speech that is not trained on.

    It needs no transcripts, and tells more than the divergence does: a refitted model is better at words than at
    probabilities, a trained one the other way round (docs/notes/learned.md).
    """
    batches = sample_pool(held, math.inf, BATCH_SECONDS, seed=0)
    normalise = normaliser("basic")

    def heard(recognizer: Recognizer) -> list[str]:
        return [normalise(each.text) for batch in batches for each in recognizer.transcribe_batch(batch)]

    # At once: the time of the first validation tells how long each of the others will take.
    references = heard(teacher)
    return lambda recognizer: total(word_counts(references, heard(recognizer))).rate


def hold_out(pool: SpeechPool, count: int, seed: int) -> tuple[SpeechPool, SpeechPool | None]:
    """Set utterances aside to validate on.

    Args:
        pool: all speech.
        count: utterances to set aside, at most; `HELD_SHARE` of all is another bound.
        seed: of which they are.

    Returns:
        What is left to train on, and what is held out; None where that would be fewer than `FEWEST`.
    """
    count = min(count, int(HELD_SHARE * len(pool)))
    return pool.split(count, seed) if count >= FEWEST else (pool, None)
