from __future__ import annotations

import math
import subprocess
import sys

import pytest

from secateur.errors import SecateurError
from secateur.models.vocabulary import tokenizer_from_pieces
from secateur.supervised.pieces import find_pieces

TEXTS = ["the cat sat on the mat", "the rat that sat there", "don't say é", "that hat"] * 5


def test_what_is_written_in_pieces_is_read_as_it_was() -> None:
    tokenizer = tokenizer_from_pieces(*find_pieces(TEXTS, 40))
    for text in [*TEXTS, "on a rat", "a year there"]:
        ids = tokenizer(text).input_ids
        assert max(ids) < len(tokenizer) - 1, "the blank"
        assert tokenizer.decode(ids) == text


def test_frequent_words_become_pieces_and_rare_ones_are_spelled() -> None:
    pieces, scores = find_pieces(TEXTS, 25)
    assert len(pieces) == len(scores) == len(set(pieces)) == 25
    assert "▁the" in pieces
    assert "▁say" not in pieces
    assert scores[pieces.index("▁the")] > scores[pieces.index("é")]
    assert sum(map(math.exp, scores)) == pytest.approx(1)
    assert tokenizer_from_pieces(pieces, scores).tokenize("the cat")[0] == "▁the"


def test_a_corpus_with_nothing_left_to_join_has_fewer_pieces() -> None:
    assert find_pieces(["ab", "ab"], 100)[0] == ["a", "b", "▁", "ab", "▁ab"]


def test_pieces_are_the_same_in_every_process() -> None:
    code = f"from secateur.supervised.pieces import find_pieces; print(find_pieces({TEXTS!r}, 40))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert other.strip() == str(find_pieces(TEXTS, 40))


def test_more_characters_than_pieces_are_refused() -> None:
    with pytest.raises(SecateurError, match="pieces cannot hold the 15 characters of the transcripts"):
        find_pieces(TEXTS, 10)
