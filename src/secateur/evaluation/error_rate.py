"""Word and character error rates as counts over one alignment per utterance, with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jiwer
import numpy as np
from jiwer import AlignmentChunk
from numpy.typing import NDArray

LEVEL = 0.95
REPLICATES = 10_000

FEWEST, STRETCH = 20, 20
"""Utterances below which stretches of words are resampled instead, and the most words in one."""

# Draws held at once while resampling: bounds memory to some tens of megabytes whatever the corpus.
_DRAWS_AT_ONCE = 1 << 21


@dataclass(frozen=True, slots=True)
class Counts:
    """What a minimum-edit-distance alignment of a hypothesis with its reference consists of.

    Counts add up over utterances; the rate of the sum is the error rate of the corpus (sum of errors over sum
    of reference words), which is not the mean of the utterances' rates.
    """

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference(self) -> int:
        """Words (or characters) in the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per reference word, a fraction that may exceed 1; for an empty reference, the insertions."""
        return self.errors / max(self.reference, 1)

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @classmethod
    def of(cls, alignment: Iterable[AlignmentChunk]) -> Counts:
        """Count one utterance's alignment as jiwer gives it."""
        lengths = dict.fromkeys(("equal", "substitute", "delete", "insert"), 0)
        for chunk in alignment:
            words = (chunk.ref_end_idx - chunk.ref_start_idx) or (chunk.hyp_end_idx - chunk.hyp_start_idx)
            lengths[chunk.type] += words
        return cls(*lengths.values())


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, both ends included."""

    low: float
    high: float


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[AlignmentChunk]]:
    """Align each hypothesis with its reference, word by word, at the least number of errors (unit costs).

    Texts are compared as they are: normalise them first (`secateur.evaluation.normalise`). An empty reference
    makes every hypothesis word an insertion, an empty hypothesis every reference word a deletion.

    Raises:
        ValueError: the two lists differ in length.
    """
    alignments: list[list[AlignmentChunk]] = jiwer.process_words(
        list(references), list(hypotheses)
    ).alignments
    return alignments


def word_counts(references: Sequence[str], hypotheses: Sequence[str]) -> list[Counts]:
    """Counts of each utterance's words; see `align_words`."""
    return [Counts.of(alignment) for alignment in align_words(references, hypotheses)]


def character_counts(references: Sequence[str], hypotheses: Sequence[str]) -> list[Counts]:
    """Counts of each utterance's characters, the spaces between words included; see `align_words`."""
    output = jiwer.process_characters(list(references), list(hypotheses))
    return [Counts.of(alignment) for alignment in output.alignments]


def total(counts: Iterable[Counts]) -> Counts:
    """Sum the counts of a corpus."""
    return sum(counts, Counts())


def resampled_units(
    utterances: Sequence[Counts], references: Sequence[str], hypotheses: Sequence[str]
) -> list[Counts]:
    """What a bootstrap draws from: utterances or, where they are few, stretches of them.

    A single recording of an hour is one utterance, and all corpora drawn from it are the same. Its words fail together
    over a few words only, so that stretches of up to `STRETCH` stand for utterances then, or of fewer if there would be
    less than `FEWEST` of them. Which they are depends on the references alone.

    Args:
        utterances: word counts of each.
        references: what was said, normalised.
        hypotheses: what was heard.
    """
    if len(utterances) >= FEWEST:
        return list(utterances)
    words = sum(counts.reference for counts in utterances)
    length = min(STRETCH, max(1, words // FEWEST))
    return [
        stretch
        for alignment in align_words(references, hypotheses)
        for stretch in _stretches(alignment, length)
    ]


def _stretches(alignment: Sequence[AlignmentChunk], length: int) -> list[Counts]:
    """Counts of an utterance's stretches of so many reference words; the last one has the rest, and what is inserted at the end."""
    words = max((chunk.ref_end_idx for chunk in alignment), default=0)
    stretches = [Counts()] * max(1, words // length)
    for chunk in alignment:
        if chunk.type == "insert":
            at = min(chunk.ref_start_idx // length, len(stretches) - 1)
            stretches[at] += Counts(insertions=chunk.hyp_end_idx - chunk.hyp_start_idx)
        one = {
            "equal": Counts(hits=1),
            "substitute": Counts(substitutions=1),
            "delete": Counts(deletions=1),
        }.get(chunk.type, Counts())
        for word in range(chunk.ref_start_idx, chunk.ref_end_idx):
            stretches[min(word // length, len(stretches) - 1)] += one
    return stretches


def resampled_sums(values: NDArray[np.int64], *, replicates: int, seed: int) -> NDArray[np.int64]:
    """Draw as many utterances as there are, with replacement, and sum each column; many times.

    Args:
        values: what is summed, [utterances, columns].
        replicates: how many corpora to draw.
        seed: of the generator: the same seed and number of utterances draw the same utterances.

    Returns:
        The sums, [replicates, columns].
    """
    utterances, _ = values.shape
    columns = np.ascontiguousarray(values.T)
    generator = np.random.default_rng(seed)
    chunk = max(1, _DRAWS_AT_ONCE // utterances)
    sums = []
    for start in range(0, replicates, chunk):
        drawn = generator.integers(
            utterances, size=(min(chunk, replicates - start), utterances), dtype=np.int32
        )
        sums.append(np.stack([column[drawn].sum(axis=1) for column in columns], axis=1))
    return np.concatenate(sums)


def quantile_interval(samples: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """Cut equal tails off the samples; ends are samples themselves, the outer ones where between two."""
    tail = (1 - level) / 2
    low = np.quantile(samples, tail, method="lower")
    high = np.quantile(samples, 1 - tail, method="higher")
    return Interval(float(low), float(high))


def bootstrap_interval(counts: Sequence[Counts], *, replicates: int = REPLICATES, seed: int = 0) -> Interval:
    """Interval of the corpus error rate: percentile bootstrap over utterances (Bisani & Ney, ICASSP 2004).

    Utterances, not words, are drawn, for words of one utterance fail together; where they are few, give `resampled_units`. The order of the utterances
    does not matter. Speakers are taken as fixed: what another set of speakers would give is not in the interval.

    Raises:
        ValueError: there are no utterances.
    """
    if not counts:
        raise ValueError("an interval needs at least one utterance")
    values = np.array(sorted((item.errors, item.reference) for item in counts), dtype=np.int64)
    errors, words = resampled_sums(values, replicates=replicates, seed=seed).T
    return quantile_interval(errors / np.maximum(words, 1))
