from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from secateur.speech.synthetic import grammar, numbers
from secateur.speech.synthetic.grammar import draw_sentence, spoken, transcript, vocabulary


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    rng = random.Random(0)
    return [draw_sentence(rng) for _ in range(20_000)]


def test_thousands_of_words_are_said(sentences: list[str]) -> None:
    said = Counter(word for sentence in sentences for word in transcript(sentence).split())
    assert len(said) > 5_000
    assert len(vocabulary()) > 5_000
    assert all(said[letter] for letter in "abcdefghijklmnopqrstuvwxyz")


def test_sentences_hardly_ever_repeat(sentences: list[str]) -> None:
    assert len(set(sentences)) > 0.95 * len(sentences)


def test_sentences_are_words_in_small_letters_with_punctuation_between_them(sentences: list[str]) -> None:
    for sentence in sentences:
        assert re.fullmatch(r"(([a-z]+('[a-z]+)?'?|[A-Z]),? )*([a-z]+('[a-z]+)?|[A-Z]),?[.?]", sentence), (
            sentence
        )
        assert 1 <= len(transcript(sentence).split()) < 60


def test_transcripts_are_small_letters_and_apostrophes(sentences: list[str]) -> None:
    assert all(re.fullmatch(r"[a-z']+( [a-z']+)*", transcript(sentence)) for sentence in sentences)
    assert transcript("It's T, A, M, at one o'clock?") == "it's t a m at one o'clock"


def test_articles_fit_what_follows(sentences: list[str]) -> None:
    assert spoken("a old apple and a hour at a university with a useful unknown A B") == (
        "an old apple and an hour at a university with a useful unknown A, B"
    )
    assert not any(re.search(r"\ba [aeio]", sentence) for sentence in sentences if " a one" not in sentence)


def test_a_spelled_a_is_no_article(sentences: list[str]) -> None:
    assert any("A" in sentence for sentence in sentences)
    assert not any(re.search(r"A(?![,.?])", sentence) for sentence in sentences)


def test_a_word_is_spelled_as_it_is_written() -> None:
    rng = random.Random(3)
    seen = 0
    while seen < 20:
        match = re.fullmatch(r"(\w+) is spelled (.*)", transcript(draw_sentence(rng)))
        if match:
            assert match[2].replace(" ", "") == match[1]
            seen += 1


@pytest.mark.parametrize(
    ("entry", "form", "expected"),
    [
        ("city", "s", "cities"),
        ("box", "s", "boxes"),
        ("policeman", "s", "policemen"),
        ("child", "s", "children"),
        ("toy", "s", "toys"),
        ("stop", "past", "stopped"),
        ("stop", "ing", "stopping"),
        ("visit", "ing", "visiting"),
        ("carry", "past", "carried"),
        ("enjoy", "past", "enjoyed"),
        ("bake", "ing", "baking"),
        ("see:saw:seen", "ing", "seeing"),
        ("tie", "ing", "tying"),
        ("take:took:taken", "past", "took"),
        ("take:took:taken", "done", "taken"),
        ("build:built", "done", "built"),
        ("fix", "past", "fixed"),
        ("show", "past", "showed"),
        ("prefer:preferred", "ing", "preferring"),
    ],
)
def test_words_have_their_forms(entry: str, form: str, expected: str) -> None:
    assert grammar._formed(entry, form) == expected


def test_every_symbol_is_known() -> None:
    known = grammar._rules().keys() | grammar._lists().keys() | grammar._DRAWN.keys()
    for lines, _ in grammar._rules().values():
        for line in lines:
            for name, mark, form in grammar._SYMBOL.findall(line):
                assert (form if mark == ":" else name) in known, line
            assert "<" not in grammar._SYMBOL.sub("", line)


def test_lists_hold_words_of_small_letters() -> None:
    for kind, words in grammar._lists().items():
        assert len(words) > 50, kind
        assert len(set(words)) == len(words), kind
        assert all(re.fullmatch(r"[a-z]+(:[a-z]+){0,2}", word) for word in words), kind


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (100, "one hundred"),
        (512, "five hundred and twelve"),
        (2_047, "two thousand and forty seven"),
        (12_300, "twelve thousand three hundred"),
        (999_999, "nine hundred and ninety nine thousand nine hundred and ninety nine"),
        (1_000_000, "one million"),
    ],
)
def test_numbers_are_said_in_words(number: int, words: str) -> None:
    assert numbers.cardinal(number) == words
    assert numbers.cardinal(number, " ") == words.replace(" and ", " ")


def test_years_and_ordinals_are_said_in_words() -> None:
    years = {1066: "ten sixty six", 1900: "nineteen hundred", 1906: "nineteen oh six", 2000: "two thousand"}
    years |= {2003: "two thousand and three", 2026: "twenty twenty six"}
    assert {number: numbers.year(number) for number in years} == years
    ordinals = {
        1: "first",
        12: "twelfth",
        20: "twentieth",
        21: "twenty first",
        100: "one hundredth",
        8: "eighth",
    }
    assert {number: numbers.ordinal(number) for number in ordinals} == ordinals
