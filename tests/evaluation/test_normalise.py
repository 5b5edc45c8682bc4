"""Text normalisation before scoring."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import SecateurError
from secateur.evaluation.normalise import NORMALISERS, character_normaliser, normaliser


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("IT'S  A\tDOG\n", "it's a dog"),
        ("“Well-known,” he said: don\u2019t!", "well known he said don't"),
        ("'Yes,' he said. \u2018Don\u00b4t, I\uff07ll go.\u2019", "yes he said don't i'll go"),
        ("'Tis the boys' rock 'n' roll ''here''", "tis the boys rock n roll here"),
        ("cafe\u0301", "café"),
        ("ДА, конечно…", "да конечно"),
        ("...", ""),
        ("\ufeffso\u00adft\u200b hyphens", "soft hyphens"),
        ("cafe\u200b\u0301", "café"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("so happy \u2764\ufe0f \U0001f469\u200d\U0001f4bb!", "so happy"),
        ("İSTANBUL'A", "istanbul'a"),
        ("你好，世界。OK吗", "你 好 世 界 ok 吗"),
        ("カメラ、きれい", "カ メ ラ き れ い"),
        ("\u0e19\u0e49\u0e33 abc", "\u0e19\u0e49 \u0e33 abc"),
        ("한국어 좋아", "한국어 좋아"),
        ("\x1b\u103f", "\u103f"),
    ],
)
def test_basic_lowers_case_and_drops_punctuation_but_keeps_apostrophes(text, expected):
    assert normaliser("basic")(text) == expected


@pytest.mark.parametrize(("name", "expected"), [("basic", "你好 世界 ok吗"), ("none", "你好，世界。OK吗")])
def test_character_error_rates_count_no_space_that_is_not_there(name, expected):
    assert character_normaliser(name)("你好，世界。OK吗") == expected


def test_none_changes_nothing_but_spaces():
    assert normaliser("none")("  Mr. Quilter\tis  ") == "Mr. Quilter is"


def test_english_writes_out_contractions_and_turns_number_words_into_digits():
    assert normaliser("english")("Mr. Smith won't pay twenty-one dollars") == "mister smith will not pay $21"


def test_an_unknown_normalisation_is_refused_with_the_ones_there_are():
    with pytest.raises(SecateurError, match=r"'klingon'.*none, basic, english"):
        normaliser("klingon")


@given(text=st.text(), name=st.sampled_from(NORMALISERS))
def test_words_are_separated_by_single_spaces(text, name):
    normalised = normaliser(name)(text)
    assert normalised == " ".join(normalised.split())


@given(st.text())
def test_basic_normalisation_is_idempotent(text):
    once = normaliser("basic")(text)
    assert normaliser("basic")(once) == once
