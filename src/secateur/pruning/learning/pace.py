"""How much speech a run by the clock scores, refits and validates on: what was asked for, or what a slow model has the time for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter

from secateur.pruning.learning.learned import Learned
from secateur.pruning.learning.mixing import PARTS
from secateur.pruning.learning.validation import FEWEST
from secateur.pruning.oneshot import OneShot
from secateur.pruning.trials import JUDGED_SECONDS, REFIT_SECONDS
from secateur.recognizer import Recognizer
from secateur.speech.audio import Waveform
from secateur.speech.batching import BATCH_SECONDS
from secateur.speech.sampling import first_batches

SHARE = 0.25
"""Of a run's time, what scoring may take, and as much each for refitting in closed form and for trials; most of the rest is for training."""

TRYING = 1 / 6
"""What scoring and refitting may take each where plans are tried as well."""

VALIDATING = 0.15
"""Of a run's time, what all its validations may take, and as much for steps of refitting."""

SCORING, REFITTING, SETTLING = 8.0, 3.0, 2.0
"""Forward passes of the unpruned model in whose time speech is scored, refitted on, and settled on in a step (`benchmarks.pace`).

Scores that take parts of a model out hear a minute for each, whatever they are told, and may take longer.
"""

FEWEST_MINUTES = 1.0
"""Of speech, below which scores and refitting come to nothing, whatever they take."""

HEARD_SECONDS, TIMES, LONG = 20.0, 4, 10.0
"""Speech that the pace is measured on, and how often: the first time is slower, and of the others another job may slow down some. After
so many seconds two will do."""

VALIDATED_SECONDS = 240.0
"""Speech that is validated on at least, or `FEWEST` utterances where they are shorter."""

FINE, COARSE = 10.0, 5.0
"""Below `FINE` minutes are rounded down to whole ones, above to multiples of `COARSE`, so that settings seldom change with the noise of
the measured pace."""


def in_time(
    oneshot: OneShot,
    learned: Learned,
    measure: Callable[[], float],
    utterance_seconds: float,
    tell: Callable[[str], object] | None = None,
) -> tuple[OneShot, Learned]:
    """Settings that leave the time to train of a run that has ``minutes``; as they are where it has ``steps``.

    Args:
        oneshot: what was asked for.
        learned: what was asked for.
        measure: says the pace of the unpruned recogniser, in seconds for a second of speech.
        utterance_seconds: length of an utterance that is validated on.
        tell: told in a sentence if that is less than was asked for.
    """
    if learned.steps is not None:
        return oneshot, learned
    slow = measure()
    within = fitted(oneshot, learned, slow, utterance_seconds)
    if within != (oneshot, learned) and tell is not None:
        less, validated = within
        many = f"{validated.valid_utterances} utterances are" if validated.validates else "nothing is"
        tell(
            f"this model takes {slow:.2g} s for a second of speech here, so in {learned.minutes:g} minutes at most {less.score_minutes:g} "
            f"of speech are scored on and {less.reconstruct_minutes:g} refitted on in {less.reconstruct_steps} steps, {less.trials} plans are tried, and "
            f"{many} validated on; the rest is for training"
        )
    return within


Speech = Sequence[Sequence[Waveform]]
"""Waveforms in batches."""


def pace(recognizer: Recognizer, speech: Speech) -> float:
    """Seconds that a forward pass takes for a second of speech, here and now.

    Args:
        recognizer: the model.
        speech: the first batches of it are heard.
    """
    batches = first_batches(speech, HEARD_SECONDS * recognizer.sample_rate)
    samples = sum(len(wave) for batch in batches for wave in batch)
    seconds = []
    for _ in range(TIMES):
        start = perf_counter()
        for batch in batches:
            # Fetched, so that a GPU has done its work.
            recognizer.logits(batch)[0].cpu()
        seconds.append(perf_counter() - start)
        if len(seconds) > 1 and sum(seconds) > LONG:
            break
    return max(min(seconds), 1e-6) * recognizer.sample_rate / max(1, samples)


def fitted(
    oneshot: OneShot, learned: Learned, pace: float, utterance_seconds: float
) -> tuple[OneShot, Learned]:
    """What of the settings fits into their ``minutes`` at a pace, see `in_time`."""
    # Minutes of speech that the model could hear in all of the time, and of them in what scoring and refitting have each.
    everything = learned.minutes / pace
    passes = (TRYING if oneshot.trials else SHARE) * everything
    utterances = VALIDATING * 60 * everything / utterance_seconds
    # Beside those that were asked for there is one before the first step, and one of each part of the way back.
    more = 1 + len(PARTS)
    fewest = max(1, min(FEWEST, math.ceil(VALIDATED_SECONDS / utterance_seconds)))
    validated = min(learned.valid_utterances, max(fewest, _tens(utterances / (more + learned.validations))))
    trial = (REFITTING * REFIT_SECONDS + JUDGED_SECONDS) / 60
    return (
        replace(
            oneshot,
            score_minutes=min(oneshot.score_minutes, _whole(passes / SCORING)),
            reconstruct_minutes=min(oneshot.reconstruct_minutes, _whole(passes / REFITTING)),
            reconstruct_steps=min(
                oneshot.reconstruct_steps,
                _tens(VALIDATING * everything / (SETTLING * BATCH_SECONDS / 60)),
            ),
            # Beside the plans that are tried there is the usual one.
            trials=min(oneshot.trials, max(0, int(SHARE * everything / trial) - 1)),
        ),
        replace(
            learned,
            valid_utterances=validated,
            validations=min(learned.validations, max(0, int(utterances / max(1, validated)) - more)),
        ),
    )


def _tens(number: float) -> int:
    """Rounded down to a multiple of ten, or below ten to a whole number."""
    return int(number) if number < 10 else int(number / 10) * 10


def _whole(minutes: float) -> float:
    unit = 1.0 if minutes < FINE else COARSE
    return max(FEWEST_MINUTES, minutes // unit * unit)
