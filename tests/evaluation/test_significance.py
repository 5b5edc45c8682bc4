"""Paired tests between two recognisers, against hand-computed and published cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.evaluation.error_rate import Counts, align_words, total, word_counts
from secateur.evaluation.significance import mapsswe, matched_segments, paired_bootstrap

WORDS = st.sampled_from(["a", "b", "c", "d"])
TEXTS = st.lists(WORDS, max_size=12).map(" ".join)
TRIPLES = st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=6)

# The example of Jurafsky & Martin, Speech and Language Processing, section on comparing recognisers: four
# segments whose differences are 2, -1, -1 and 1.
TEXTBOOK = (
    "it was the best of times it was the worst of times it was",
    "its the best of times it is the worst of times or it was",
    "it was the best times it won the test of times it was",
)


def segments(reference: str, first: str, second: str, boundary: int = 2) -> list[list[int]]:
    [one], [other] = align_words([reference], [first]), align_words([reference], [second])
    return matched_segments(one, other, boundary=boundary).tolist()


def test_the_textbook_example_falls_into_its_four_segments():
    assert segments(*TEXTBOOK) == [[2, 0], [0, 1], [1, 2], [1, 0]]


def test_the_textbook_example_gives_the_z_computed_by_hand():
    outcome = mapsswe(*[[text] for text in TEXTBOOK])
    # Differences 2, -1, -1, 1: mean 1/4, variance 6.75 / 3, z = (1/4) / (1.5 / 2).
    assert outcome.segments == 4
    assert outcome.mean_difference == 0.25
    assert outcome.z == pytest.approx(1 / 3)
    assert outcome.p == pytest.approx(0.738883, abs=1e-6)


def test_one_right_word_does_not_part_two_errors_and_two_do():
    assert segments("a b c d", "x b y d", "a b c d") == [[2, 0]]
    assert segments("a b c d", "x b c y", "a b c d") == [[1, 0], [1, 0]]
    assert segments("a b c d", "x b c y", "a b c d", boundary=3) == [[2, 0]]


def test_a_word_counts_as_right_only_where_both_systems_have_it():
    assert segments("a b c d", "x b c d", "a b z d") == [[1, 1]]


def test_an_insertion_between_two_right_words_keeps_a_segment_open():
    assert segments("a b c d", "x b c y", "a b k c d") == [[2, 1]]


def test_insertions_at_either_end_are_counted_for_both_systems():
    assert segments("a b c", "k a b c", "a b c k k") == [[1, 0], [0, 2]]
    assert segments("", "k", "") == [[1, 0]]


def test_an_utterance_without_errors_has_no_segment():
    assert segments("a b c", "a b c", "a b c") == []


@given(TRIPLES, st.integers(1, 3))
def test_segments_hold_all_errors_of_both_systems(triples, boundary):
    for reference, first, second in triples:
        rows = np.array(segments(reference, first, second, boundary)).reshape(-1, 2)
        [one], [other] = word_counts([reference], [first]), word_counts([reference], [second])
        assert rows.sum(axis=0).tolist() == [one.errors, other.errors]
        assert (rows.sum(axis=1) > 0).all()


@given(TRIPLES, st.integers(1, 3))
def test_segments_are_those_found_by_walking_along_the_reference(triples, boundary):
    for reference, first, second in triples:
        length = len(reference.split())
        wrong = np.zeros((length, 2), dtype=int)
        added = np.zeros((length + 1, 2), dtype=int)
        for system, hypothesis in enumerate((first, second)):
            for chunk in align_words([reference], [hypothesis])[0]:
                if chunk.type == "insert":
                    added[chunk.ref_start_idx, system] += chunk.hyp_end_idx - chunk.hyp_start_idx
                elif chunk.type != "equal":
                    wrong[chunk.ref_start_idx : chunk.ref_end_idx, system] = 1

        found: list[np.ndarray] = []
        right_in_a_row = boundary
        for place in range(length + 1):
            for errors in (added[place], *wrong[place : place + 1]):
                if errors.any():
                    if right_in_a_row >= boundary:
                        found.append(np.zeros(2, dtype=int))
                    found[-1] += errors
                    right_in_a_row = 0
                elif errors.base is wrong:
                    right_in_a_row += 1
        assert segments(reference, first, second, boundary) == [errors.tolist() for errors in found]


@given(TRIPLES)
def test_swapping_the_systems_negates_both_tests(triples):
    references, first, second = map(list, zip(*triples, strict=True))
    forth, back = mapsswe(references, first, second), mapsswe(references, second, first)
    assert (back.segments, back.mean_difference, back.p) == (forth.segments, -forth.mean_difference, forth.p)
    assert back.z == -forth.z

    one, other = word_counts(references, first), word_counts(references, second)
    there, again = paired_bootstrap(one, other, replicates=200), paired_bootstrap(other, one, replicates=200)
    assert again.difference == -there.difference
    assert (again.interval.low, again.interval.high) == (-there.interval.high, -there.interval.low)
    assert again.p == there.p


@given(TRIPLES)
def test_a_system_does_not_differ_from_itself(triples):
    references, hypotheses, _ = map(list, zip(*triples, strict=True))
    assert mapsswe(references, hypotheses, hypotheses).p == 1
    counts = word_counts(references, hypotheses)
    outcome = paired_bootstrap(counts, counts, replicates=100)
    assert (outcome.difference, outcome.interval.low, outcome.interval.high, outcome.p) == (0, 0, 0, 1)


@pytest.mark.parametrize("count", [1, 2, 5, 2000])
def test_equal_differences_in_every_segment_give_the_exact_test_by_signs(count):
    outcome = mapsswe(["a b"] * count, ["a x"] * count, ["a b"] * count)
    assert outcome.segments == count
    assert outcome.mean_difference == 1
    assert outcome.p == pytest.approx(max(2.0 ** (1 - count), 1e-307))
    assert math.isfinite(outcome.z)
    assert math.erfc(outcome.z / math.sqrt(2)) == pytest.approx(outcome.p, rel=1e-6)


def test_a_clear_difference_is_significant_by_both_tests_and_a_small_one_by_neither():
    references = ["a b c d e f"] * 200
    worse = ["x b c d e f" if index % 4 else "a b c d e f" for index in range(200)]
    better = ["x b c d e f" if index % 10 == 1 else "a b c d e f" for index in range(200)]
    near = ["x b c d e f" if index % 10 == 2 else "a b c d e f" for index in range(200)]

    clear = paired_bootstrap(word_counts(references, worse), word_counts(references, better))
    assert clear.p < 0.001
    assert clear.interval.low > 0
    assert mapsswe(references, worse, better).p < 0.001
    level = paired_bootstrap(word_counts(references, near), word_counts(references, better))
    assert level.p > 0.5
    assert level.interval.low < 0 < level.interval.high
    assert mapsswe(references, near, better).p == 1


def test_the_bootstrap_p_of_a_known_case_is_near_the_normal_one():
    generator = np.random.default_rng(1)
    first = [
        Counts(hits=20 - errors, substitutions=errors) for errors in generator.binomial(20, 0.11, size=800)
    ]
    second = [
        Counts(hits=20 - errors, substitutions=errors) for errors in generator.binomial(20, 0.10, size=800)
    ]
    gaps = np.array([a.errors - b.errors for a, b in zip(first, second, strict=True)])
    z = gaps.mean() / (gaps.std(ddof=1) / np.sqrt(len(gaps)))
    outcome = paired_bootstrap(first, second)
    assert outcome.difference == pytest.approx(total(first).rate - total(second).rate)
    assert outcome.p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.01)


def test_counts_of_different_references_are_refused():
    with pytest.raises(ValueError, match="same utterances"):
        paired_bootstrap([Counts(hits=3)], [Counts(hits=4)])
    with pytest.raises(ValueError, match="at least one"):
        paired_bootstrap([], [])
