from __future__ import annotations

from pathlib import Path

import pytest

from secateur.reporting.quotes import quotes, recordings


def heard(reference: str, hypothesis: str) -> str:
    """A hypothesis with [wrong] words, (missing) words and .. for what is left out."""
    row = {"id": "a", "seconds": 1, "reference": reference, "hypotheses": ["", hypothesis], "errors": [1, 1]}
    shown = {"right": "{}", "wrong": "[{}]", "missing": "({})", "left out": ".."}
    return " ".join(shown[word.kind].format(word.text) for word in quotes([row], {})[0].heard[1])


def test_words_that_are_wrong_added_or_missed_are_told_apart() -> None:
    assert heard("the cat sat on the mat", "the bat sat on so the") == "the [bat] sat on [so] the (mat)"


def test_what_lies_far_from_any_error_is_left_out() -> None:
    assert heard("a b c d e f g h i j", "a b c d X f g h i j") == ".. b c d [X] f g h .."
    assert heard("a b c", "a b c") == ".."


def test_nothing_heard_and_nothing_said_are_possible() -> None:
    assert heard("a b", "") == "(a) (b)"
    assert heard("", "a") == "[a]"


@pytest.mark.parametrize(("seconds", "found"), [(1.5, True), (1.2, False)])
def test_a_recording_is_embedded_if_it_is_as_long_as_the_one_that_was_heard(
    recording: Path, seconds: float, found: bool
) -> None:
    assert ("one" in recordings(recording, [{"id": "one", "seconds": seconds}])) is found


def test_recordings_that_are_gone_or_broken_are_left_out(recording: Path, tmp_path: Path) -> None:
    rows = [{"id": name, "seconds": 1.5} for name in ("broken", "one")]
    (recording / "broken.wav").write_bytes(b"RIFF")
    assert list(recordings(recording, rows)) == ["one"]
    assert recordings(tmp_path / "nowhere", rows) == {}
