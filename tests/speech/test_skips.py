from __future__ import annotations

import pytest

from secateur.errors import SecateurError
from secateur.speech.skips import SkipLog, Skipped


def test_the_first_skipped_entries_are_named_and_the_others_counted() -> None:
    log = SkipLog(named=2)
    log.count()
    for number in range(4):
        log.skip(Skipped(f"{number}.wav", "is empty"))
    assert log.summary() == "skipped 4 of 5: 0.wav: is empty; 1.wav: is empty; and 2 more"
    assert SkipLog(read=7).summary() == "nothing skipped of 7"


def test_one_more_than_the_limit_is_an_error_that_names_the_first() -> None:
    log = SkipLog(limit=2, share=0.0)
    log.skip(Skipped("a", "is empty"))
    log.skip(Skipped("b", "is empty"))
    with pytest.raises(SecateurError, match="skipped 3 of 3: a: is empty; b: is empty; c: is empty"):
        log.skip(Skipped("c", "is empty"))


def test_a_large_corpus_may_lose_its_share() -> None:
    log = SkipLog(limit=2, share=0.01)
    for _ in range(1000):
        log.count()
    for number in range(10):
        log.skip(Skipped(str(number), "is empty"))
    with pytest.raises(SecateurError):
        log.skip(Skipped("one too many", "is empty"))


def test_a_log_can_forgive_nothing() -> None:
    with pytest.raises(SecateurError):
        SkipLog(limit=0, share=0.0).skip(Skipped("a", "is empty"))
