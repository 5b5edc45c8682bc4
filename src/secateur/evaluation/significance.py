"""Whether two recognisers differ on the same utterances: paired bootstrap and the matched-pairs test."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jiwer import AlignmentChunk
from numpy.typing import NDArray

from secateur.evaluation.error_rate import (
    REPLICATES,
    Counts,
    Interval,
    align_words,
    quantile_interval,
    resampled_sums,
)

BOUNDARY_WORDS = 2

_NO_SEGMENTS = np.zeros((0, 2), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class PairedBootstrap:
    """Difference of two word error rates, first minus second: negative where the first hears better.

    Attributes:
        difference: of the corpus error rates, as a fraction.
        interval: of that difference.
        p: two-sided: twice the share of resampled corpora in which the sign turns or the difference vanishes.
    """

    difference: float
    interval: Interval
    p: float


@dataclass(frozen=True, slots=True)
class MatchedPairs:
    """Outcome of the matched-pairs sentence-segment word error test.

    Attributes:
        segments: how many segments hold an error of either system. The normal approximation wants about 50.
        mean_difference: errors of the first minus errors of the second system, per segment.
        z: the mean in units of its standard error; negative where the first hears better.
        p: two-sided.
    """

    segments: int
    mean_difference: float
    z: float
    p: float


def paired_bootstrap(
    first: Sequence[Counts],
    second: Sequence[Counts],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> PairedBootstrap:
    """Resample utterances, the same for both systems (Bisani & Ney, ICASSP 2004).

    p counts the actual corpus as one more replicate, hence is never below 2 / (replicates + 1). Swapping the
    systems negates the difference and its interval, and keeps p, exactly.

    Args:
        first: one system's word counts, an entry for each utterance.
        second: the other's, for the same utterances in the same order.
        replicates: how many corpora to draw.
        seed: of the draws.

    Raises:
        ValueError: there are no utterances, or the two do not have the same reference lengths.
    """
    if not first or [item.reference for item in first] != [item.reference for item in second]:
        raise ValueError("a paired test needs both systems' counts of the same utterances, at least one")
    values = np.array(
        [(a.errors, b.errors, a.reference) for a, b in zip(first, second, strict=True)], dtype=np.int64
    )
    sums = np.concatenate(
        [values.sum(axis=0)[None], resampled_sums(values, replicates=replicates, seed=seed)]
    )
    gaps = sums[:, 0] - sums[:, 1]
    difference, *differences = gaps / np.maximum(sums[:, 2], 1)
    tail = min(np.count_nonzero(gaps[1:] <= 0), np.count_nonzero(gaps[1:] >= 0))
    p = min(1.0, 2 * (tail + 1) / (replicates + 1))
    return PairedBootstrap(float(difference), quantile_interval(np.array(differences)), p)


def matched_segments(
    first: Sequence[AlignmentChunk], second: Sequence[AlignmentChunk], *, boundary: int = BOUNDARY_WORDS
) -> NDArray[np.int64]:
    """Cut one utterance into segments whose errors are taken as independent of each other.

    A segment is a stretch that holds an error of either system and is bounded on both sides by the utterance's
    end or by at least `boundary` reference words in a row that both systems have right, with nothing inserted
    between them. Segments without an error do not enter the test and are not returned.

    Returns:
        Errors of the first and of the second system, [segments, 2].
    """
    words = max((chunk.ref_end_idx for chunk in (*first, *second)), default=0)
    errors = np.stack([_errors_by_slot(first, words), _errors_by_slot(second, words)], axis=1)
    slots = np.flatnonzero(errors.any(axis=1))
    if not slots.size:
        return _NO_SEGMENTS
    right_between = slots[1:] // 2 - (slots[:-1] + 1) // 2
    starts = np.concatenate([[0], 1 + np.flatnonzero(right_between >= boundary)])
    return np.add.reduceat(errors[slots], starts, axis=0)


def _errors_by_slot(alignment: Sequence[AlignmentChunk], words: int) -> NDArray[np.int64]:
    """Errors along the reference, [2 * words + 1]: of word w at 2w + 1, words inserted before it at 2w."""
    slots = np.zeros(2 * words + 1, dtype=np.int64)
    for chunk in alignment:
        if chunk.type == "insert":
            slots[2 * chunk.ref_start_idx] += chunk.hyp_end_idx - chunk.hyp_start_idx
        elif chunk.type != "equal":
            slots[2 * chunk.ref_start_idx + 1 : 2 * chunk.ref_end_idx : 2] = 1
    return slots


def mapsswe(
    references: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
) -> MatchedPairs:
    """Matched-pairs sentence-segment word error test (Gillick & Cox, ICASSP 1989), as NIST's sc_stats runs it.

    With d_i the errors of the first minus those of the second system in segment i of n (see
    `matched_segments`), z = mean(d) / sqrt(var(d) / n), var having n - 1 below, and ``p = P(|N(0, 1)| >= |z|)``.

    Where all d_i are the same number, the variance is zero and z is undefined: sc_stats then says z = 0. Here p
    is that of the exact test by random signs, 2^(1 - n), and z the normal quantile that goes with it. One more
    thing differs: words that only the second system adds after the last reference word count here, so
    that the test does not depend on which system is called the first.

    Args:
        references: what was said, normalised.
        first: what one system heard, for the same utterances in the same order.
        second: what the other one heard.
    """
    pairs = zip(align_words(references, first), align_words(references, second), strict=True)
    segments = np.concatenate([_NO_SEGMENTS, *(matched_segments(a, b) for a, b in pairs)])
    differences = segments[:, 0] - segments[:, 1]
    if not differences.any():
        return MatchedPairs(len(segments), 0.0, 0.0, 1.0)
    mean = float(differences.mean())
    if (differences == differences[0]).all():
        p = max(2.0 ** (1 - len(differences)), 4 * sys.float_info.min)
        z = math.copysign(NormalDist().inv_cdf(p / 2), mean)
    else:
        z = mean / (float(differences.std(ddof=1)) / math.sqrt(len(differences)))
        p = math.erfc(abs(z) / math.sqrt(2))
    return MatchedPairs(len(segments), mean, z, p)
