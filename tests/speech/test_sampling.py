from __future__ import annotations

from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import SecateurError
from secateur.speech import batching, cutting, sampling
from secateur.speech.audio import Waveform
from secateur.speech.corpus import Corpus, Utterance
from secateur.speech.sampling import LONGEST_SECONDS, sample_batches, spread
from secateur.speech.skips import SkipLog, Skipped

RATE = 10


def fake_reader(utterance: Utterance, sample_rate: int) -> Waveform:
    """`read_utterance` without files: `7/30` is the utterance 7 of 30 seconds."""
    path, duration = utterance.path, utterance.duration
    if path.name == "broken":
        raise SecateurError(f"{path} is damaged: leave it out")
    seconds = float(path.name) - utterance.offset if duration is None else duration
    return np.full(round(seconds * sample_rate), float(path.parent.name), dtype=np.float32)


def fake_length(path: Path) -> float:
    """The same for `audio_seconds`."""
    if path.name == "broken":
        raise SecateurError(f"{path} is damaged: leave it out")
    return float(path.name)


@pytest.fixture(autouse=True, scope="module")
def fake_audio() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "read_utterance", fake_reader)
        patch.setattr(cutting, "audio_seconds", fake_length)
        yield


def corpus_of(lengths: list[float | str]) -> Corpus:
    utterances = [Utterance(f"u{i}", Path(str(i), str(length))) for i, length in enumerate(lengths)]
    return Corpus(lambda: iter(utterances))


def draw(
    corpus: Corpus,
    minutes: float,
    *,
    seed: int = 0,
    batch_seconds: float = 30.0,
    skips: SkipLog | None = None,
) -> list[list[Waveform]]:
    return sample_batches(corpus, minutes, RATE, batch_seconds, seed=seed, skips=skips or SkipLog())


def drawn(batches: list[list[Waveform]]) -> list[int]:
    """Which utterances they are."""
    return [int(wave[0]) for batch in batches for wave in batch]


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    minutes=st.floats(0.01, 20),
    batch_seconds=st.floats(5, 60),
    seed=st.integers(0, 99),
)
def test_the_minutes_are_reached_and_passed_by_less_than_an_utterance(
    lengths: list[float | str], minutes: float, batch_seconds: float, seed: int
) -> None:
    batches = draw(corpus_of(lengths), minutes, seed=seed, batch_seconds=batch_seconds)
    chosen = drawn(batches)
    seconds = sum(lengths[i] for i in chosen)
    assert len(set(chosen)) == len(chosen)
    assert len(chosen) == len(lengths) or seconds >= 60 * minutes
    assert seconds - max(lengths) < 60 * minutes
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(map(len, batch)) <= batch_seconds * RATE


def test_a_seed_decides_what_is_drawn() -> None:
    corpus = corpus_of([3.0] * 200)
    first, again, other = (drawn(draw(corpus, 1.0, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert set(first) != set(other)
    assert max(first) > 100


def test_a_short_sample_is_not_made_of_the_longest_utterances() -> None:
    lengths: list[float | str] = [20.0, 2.0] * 100
    chosen = [lengths[i] for seed in range(5) for i in drawn(draw(corpus_of(lengths), 1.0, seed=seed))]
    assert 0.3 < chosen.count(2.0) / len(chosen) < 0.7


def test_whoever_stops_early_has_not_heard_the_longest_alone() -> None:
    lengths: list[float | str] = [2.0 + i % 15 for i in range(200)]
    first = [lengths[drawn(draw(corpus_of(lengths), 20.0, seed=seed)[:1])[0]] for seed in range(40)]
    assert 7 < sum(map(float, first)) / len(first) < 12


def test_a_large_corpus_is_read_no_further_than_the_draw_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "DRAWN_FROM", 50)
    endless = Corpus(lambda: (Utterance(f"u{i}", Path(str(i), "4")) for i in count()))
    chosen = drawn(draw(endless, 60.0))
    assert sorted(chosen) == list(range(50))


def test_long_recordings_are_drawn_in_pieces_of_several() -> None:
    hours = corpus_of([3600.0] * 30)
    batches = draw(hours, 20.0)
    chosen = drawn(batches)
    assert max(len(wave) for batch in batches for wave in batch) <= LONGEST_SECONDS * RATE
    assert 20 <= len(chosen) <= 21
    # Of 200 minutes in four recordings.
    assert len(set(chosen)) == 4


def test_all_of_a_single_long_recording_is_heard() -> None:
    batches = draw(corpus_of([601.0]), 60.0)
    assert sum(len(wave) for batch in batches for wave in batch) == pytest.approx(601 * RATE, abs=11)


@pytest.mark.parametrize(("there", "asked"), [(199, 100), (100, 199), (1, 1), (10, 3)])
def test_a_part_is_spread_over_all_of_a_corpus(there: int, asked: int) -> None:
    ids = [int(entry.id[1:]) for entry in spread(corpus_of([1.0] * there), asked).entries()]
    assert len(set(ids)) == len(ids) == min(there, asked)
    gaps = [b - a for a, b in pairwise([0, *ids, there])]
    assert max(gaps) <= -(-there // len(ids))


def test_what_cannot_be_read_is_counted_and_left_out() -> None:
    good = [Utterance(f"u{i}", Path(str(i), "4")) for i in range(9)]
    bad = Utterance("bad", Path("9", "broken"))
    skips = SkipLog()
    corpus = Corpus(lambda: iter([Skipped("line 1", "is not JSON"), bad, *good]))
    assert sorted(drawn(draw(corpus, 60.0, skips=skips))) == list(range(9))
    assert (skips.skipped, skips.read) == (2, 9)


@pytest.mark.parametrize("entries", [[], [Utterance("bad", Path("9", "broken"))], [Skipped("a", "is empty")]])
def test_nothing_to_hear_is_refused(entries: list[Utterance | Skipped]) -> None:
    with pytest.raises(SecateurError, match="nothing to hear"):
        draw(Corpus(lambda: iter(entries)), 1.0)


def test_mostly_unreadable_data_is_refused() -> None:
    with pytest.raises(SecateurError, match="too much of the data has to be left out"):
        draw(corpus_of([4.0] * 20 + ["broken"] * 20), 60.0)
