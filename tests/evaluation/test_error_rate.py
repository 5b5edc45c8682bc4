"""Word and character error rates, and the bootstrap interval."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.evaluation.error_rate import (
    Counts,
    bootstrap_interval,
    character_counts,
    resampled_sums,
    resampled_units,
    total,
    word_counts,
)

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "dd"]), max_size=8).map(" ".join)
COUNTS = st.builds(Counts, *[st.integers(0, 30)] * 4)


def test_a_hand_counted_alignment():
    [counts] = word_counts(["the cat sat on the mat"], ["so the cat sits on mat"])
    # "so" inserted, "sat" heard as "sits", the second "the" deleted.
    assert counts == Counts(hits=4, substitutions=1, deletions=1, insertions=1)
    assert counts.errors == 3
    assert counts.reference == 6
    assert counts.rate == 0.5


def test_characters_count_the_spaces_between_words():
    [counts] = character_counts(["ab cd"], ["abcd"])
    assert counts == Counts(hits=4, deletions=1)


def test_an_empty_reference_makes_every_word_an_insertion():
    empty, both = word_counts(["", ""], ["two words", ""])
    assert empty == Counts(insertions=2)
    assert empty.rate == 2
    assert both == Counts()
    assert both.rate == 0


def test_an_empty_hypothesis_makes_every_word_a_deletion():
    assert word_counts(["three more words"], [""]) == [Counts(deletions=3)]


def test_the_corpus_rate_weights_utterances_by_their_length():
    counts = word_counts(["a", "a b c d e f g h i"], ["b", "a b c d e f g h i"])
    assert total(counts).rate == 0.1


def test_a_list_that_is_too_short_is_an_error():
    with pytest.raises(ValueError):
        word_counts(["a", "b"], ["a"])


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
def test_counts_add_up_to_what_jiwer_says_of_the_corpus(pairs):
    references, hypotheses = map(list, zip(*pairs, strict=True))
    counts = word_counts(references, hypotheses)
    corpus = total(counts)
    expected = jiwer.process_words(references, hypotheses)
    assert corpus.rate == expected.wer
    for item, reference, hypothesis in zip(counts, references, hypotheses, strict=True):
        assert item.reference == len(reference.split())
        assert item.hits + item.substitutions + item.insertions == len(hypothesis.split())


@given(TEXTS)
def test_a_text_has_no_errors_against_itself(text):
    for counts in (*word_counts([text], [text]), *character_counts([text], [text])):
        assert counts.errors == 0
        assert counts.rate == 0


@given(TEXTS, TEXTS)
def test_swapping_texts_swaps_insertions_and_deletions(one, other):
    [forth], [back] = word_counts([one], [other]), word_counts([other], [one])
    assert forth.errors == back.errors
    assert forth.deletions - forth.insertions == back.insertions - back.deletions


@given(st.lists(COUNTS, min_size=1, max_size=40), st.integers(0, 5))
def test_the_interval_contains_the_rate(counts, seed):
    interval = bootstrap_interval(counts, replicates=1000, seed=seed)
    assert interval.low <= total(counts).rate <= interval.high


@given(st.lists(COUNTS, min_size=1, max_size=10), st.randoms())
def test_the_order_of_utterances_changes_neither_rate_nor_interval(counts, random):
    shuffled = random.sample(counts, len(counts))
    assert total(shuffled) == total(counts)
    assert bootstrap_interval(shuffled, replicates=100) == bootstrap_interval(counts, replicates=100)


def test_the_interval_is_that_of_the_normal_approximation_where_it_holds():
    generator = np.random.default_rng(3)
    counts = [
        Counts(hits=20 - errors, substitutions=errors) for errors in generator.binomial(20, 0.1, size=1000)
    ]
    rates = np.array([item.rate for item in counts])
    half = 1.96 * rates.std(ddof=1) / np.sqrt(len(rates))
    interval = bootstrap_interval(counts)
    assert interval.low == pytest.approx(rates.mean() - half, abs=0.03 * half)
    assert interval.high == pytest.approx(rates.mean() + half, abs=0.03 * half)


def test_the_same_seed_gives_the_same_interval():
    counts = [Counts(hits=9, deletions=1), Counts(hits=3, substitutions=4), Counts(hits=7)]
    assert bootstrap_interval(counts, seed=1) == bootstrap_interval(counts, seed=1)


def test_an_interval_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one utterance"):
        bootstrap_interval([])


def test_resampling_in_pieces_draws_the_same_as_in_one(monkeypatch):
    values = np.random.default_rng(0).integers(10, size=(7, 2))
    whole = resampled_sums(values, replicates=50, seed=2)
    monkeypatch.setattr("secateur.evaluation.error_rate._DRAWS_AT_ONCE", 7 * 8)
    assert (resampled_sums(values, replicates=50, seed=2) == whole).all()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 20))
def test_resampled_corpora_are_as_large_as_the_corpus(errors, replicates):
    values = np.stack([errors, np.ones(len(errors), dtype=np.int64)], axis=1)
    sums = resampled_sums(values, replicates=replicates, seed=0)
    assert sums.shape == (replicates, 2)
    assert (sums[:, 1] == len(errors)).all()


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=25))
def test_what_a_bootstrap_draws_from_adds_up_and_is_cut_by_the_reference_alone(texts):
    references, first, second = ([text[i] for text in texts] for i in range(3))
    counts = word_counts(references, first)
    units = resampled_units(counts, references, first)
    others = resampled_units(word_counts(references, second), references, second)
    assert total(units) == total(counts)
    assert [unit.reference for unit in units] == [unit.reference for unit in others]
    if len(texts) >= 20:
        assert units == counts


def test_one_long_recording_has_an_interval_of_its_stretches():
    reference = " ".join(["right"] * 1000)
    hypothesis = " ".join((["right"] * 9 + ["wrong"]) * 100)
    counts = word_counts([reference], [hypothesis])
    alone = bootstrap_interval(counts)
    assert alone.low == alone.high == 0.1
    units = resampled_units(counts, [reference], [hypothesis])
    assert [unit.reference for unit in units] == [20] * 50
    uneven = " ".join(["wrong"] * 100 + ["right"] * 900)
    interval = bootstrap_interval(resampled_units(word_counts([reference], [uneven]), [reference], [uneven]))
    assert interval.low < 0.05 < 0.15 < interval.high
