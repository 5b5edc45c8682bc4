from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import SecateurError
from secateur.speech import batching
from secateur.speech.audio import Waveform, audio_seconds, read_audio
from secateur.speech.batching import SpeechBatch, read_batches
from secateur.speech.corpus import Corpus, Utterance, open_corpus
from secateur.speech.skips import SkipLog, Skipped

RATE = 100


def fake_reader(utterance: Utterance, sample_rate: int) -> Waveform:
    """`read_utterance` without files: the name says how many samples there are, or that there is a fault."""
    path = utterance.path
    time.sleep(0.0002 * (hash(path) % 5))
    if path.name == "broken":
        raise SecateurError(f"{path} is damaged: leave it out")
    if path.name == "bug":
        raise ZeroDivisionError
    return np.full(int(path.name), float(path.parent.name), dtype=np.float32)


@pytest.fixture
def fake_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "read_utterance", fake_reader)


def corpus_of(lengths: list[int | None]) -> list[Utterance]:
    """Utterances of these lengths in samples, None a broken one; the samples' value is the utterance's position."""
    return [
        Utterance(f"u{position}", Path(str(position), "broken" if length is None else str(length)))
        for position, length in enumerate(lengths)
    ]


def readers_alive() -> int:
    return sum(thread.name == "secateur-reader" for thread in threading.enumerate())


lengths_strategy = st.lists(st.one_of(st.none(), st.integers(1, 3000)), max_size=60)


@given(
    lengths=lengths_strategy,
    batch_seconds=st.floats(0.01, 60.0),
    window_seconds=st.floats(1e-9, 200.0),
    readers=st.integers(1, 5),
)
def test_batches_hold_every_utterance_once_within_the_padded_bound(
    lengths: list[int | None], batch_seconds: float, window_seconds: float, readers: int
) -> None:
    utterances = corpus_of(lengths)
    skips = SkipLog(limit=100)
    batches: list[SpeechBatch] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "read_utterance", fake_reader)
        try:
            batches.extend(
                read_batches(
                    utterances,
                    RATE,
                    batch_seconds,
                    skips=skips,
                    readers=readers,
                    window_seconds=window_seconds,
                )
            )
        except SecateurError:
            assert all(length is None for length in lengths)

    for batch in batches:
        assert len(batch.utterances) == len(batch.waveforms) == len(batch.positions) > 0
        padded = len(batch.waveforms) * max(map(len, batch.waveforms))
        assert padded <= batch_seconds * RATE or len(batch.waveforms) == 1
        for utterance, waveform, position in zip(
            batch.utterances, batch.waveforms, batch.positions, strict=True
        ):
            assert utterance is utterances[position]
            assert len(waveform) == lengths[position]
            assert (waveform == position).all()
    positions = sorted(position for batch in batches for position in batch.positions)
    assert positions == [position for position, length in enumerate(lengths) if length is not None]
    assert (skips.read, skips.skipped) == (len(positions), lengths.count(None))


@given(lengths=lengths_strategy.filter(any), seed=st.integers(0, 3))
def test_batches_do_not_depend_on_the_threads(lengths: list[int | None], seed: int) -> None:
    def positions(readers: int) -> list[list[int]]:
        batches = read_batches(
            corpus_of(lengths), RATE, 20.0, skips=SkipLog(limit=100), readers=readers, window_seconds=40.0
        )
        return [batch.positions for batch in batches]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "read_utterance", fake_reader)
        assert positions(1) == positions(seed + 2)


@pytest.mark.usefixtures("fake_audio")
def test_lengths_are_sorted_within_a_window_and_not_across_windows() -> None:
    utterances = corpus_of([100, 300, 200, 50, 10, 40])
    batches = read_batches(utterances, RATE, 1e-3, skips=SkipLog(), window_seconds=6.0)
    assert [batch.positions[0] for batch in batches] == [1, 2, 0, 3, 5, 4]


@pytest.mark.usefixtures("fake_audio")
def test_broken_lines_and_broken_audio_are_counted_in_the_order_of_the_corpus() -> None:
    def source() -> Iterator[Utterance | Skipped]:
        for number, utterance in enumerate(corpus_of([10, None, 20, None, 30])):
            yield Skipped(f"line {number}", "is not JSON")
            yield utterance

    skips = SkipLog(named=10)
    batches = list(read_batches(Corpus(source), RATE, 60.0, skips=skips))
    assert [batch.positions for batch in batches] == [[4, 2, 0]]
    assert [entry.name for entry in skips.first] == [
        "line 0",
        "line 1",
        "u1",
        "line 2",
        "line 3",
        "u3",
        "line 4",
    ]
    assert skips.read == 3


@pytest.mark.usefixtures("fake_audio")
def test_more_broken_audio_than_the_limit_is_an_error_and_ends_the_threads() -> None:
    with pytest.raises(SecateurError, match="skipped 3 of 4: u1: 1/broken is damaged"):
        list(read_batches(corpus_of([10, None, None, None, *[10] * 50]), RATE, 60.0, skips=SkipLog(2, 0.0)))
    assert readers_alive() == 0


@pytest.mark.usefixtures("fake_audio")
@pytest.mark.parametrize("lengths", [[], [None], [None, None]])
def test_a_corpus_of_which_nothing_can_be_heard_is_an_error(lengths: list[int | None]) -> None:
    with pytest.raises(SecateurError, match="there is nothing to hear"):
        list(read_batches(corpus_of(lengths), RATE, 60.0, skips=SkipLog()))


@pytest.mark.usefixtures("fake_audio")
def test_a_bug_in_a_reader_thread_reaches_the_consumer() -> None:
    with pytest.raises(ZeroDivisionError):
        list(
            read_batches(
                [Utterance("a", Path("0/10")), Utterance("b", Path("1/bug"))], RATE, 60.0, skips=SkipLog()
            )
        )
    assert readers_alive() == 0


@pytest.mark.usefixtures("fake_audio")
def test_an_error_of_the_corpus_reaches_the_consumer_after_what_came_before_it() -> None:
    def source() -> Iterator[Utterance | Skipped]:
        yield from corpus_of([1000, 1000])
        raise SecateurError("the manifest has gone")

    batches = read_batches(Corpus(source), RATE, 10.0, skips=SkipLog(), window_seconds=10.0)
    assert next(batches).positions == [0]
    assert next(batches).positions == [1]
    with pytest.raises(SecateurError, match="the manifest has gone"):
        next(batches)


@pytest.mark.usefixtures("fake_audio")
def test_reading_ahead_is_bounded_and_an_endless_corpus_can_be_left() -> None:
    taken = 0

    def endless() -> Iterator[Utterance | Skipped]:
        nonlocal taken
        while True:
            yield Utterance(str(taken), Path(str(taken), "100"))
            taken += 1

    window_seconds, readers = 50.0, 3
    batches = read_batches(
        Corpus(endless), RATE, 10.0, skips=SkipLog(), readers=readers, window_seconds=window_seconds
    )
    next(batches)
    time.sleep(0.3)
    # Each utterance is a second: a window that is held, one read ahead, and one in each reader's hands.
    assert window_seconds < taken <= 2 * window_seconds + readers
    start = time.perf_counter()
    batches.close()  # type: ignore[attr-defined]
    assert time.perf_counter() - start < 0.5
    assert readers_alive() == 0


@pytest.mark.usefixtures("fake_audio")
def test_an_endless_run_of_broken_lines_is_not_read_ahead_without_end() -> None:
    taken = 0

    def source() -> Iterator[Utterance | Skipped]:
        nonlocal taken
        yield from corpus_of([1000])
        while True:
            taken += 1
            yield Skipped(str(taken), "is not JSON")

    batches = read_batches(Corpus(source), RATE, 10.0, skips=SkipLog(), window_seconds=10.0)
    next(batches)
    time.sleep(0.2)
    assert taken < 2000
    with pytest.raises(SecateurError, match="too much of the data"):
        next(batches)


@pytest.mark.parametrize(
    "options", [{"batch_seconds": 0.0}, {"readers": 0}, {"window_seconds": float("inf")}]
)
def test_bounds_that_make_no_batches_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(SecateurError, match="cannot be made"):
        read_batches([], RATE, skips=SkipLog(), **({"batch_seconds": 1.0} | options))  # type: ignore[arg-type]


LEAVING = """
import sys, time
from secateur.speech.batching import read_batches
from secateur.speech.corpus import open_corpus
from secateur.speech.skips import SkipLog
corpus = list(open_corpus(sys.argv[1])) * 100_000
batches = read_batches(corpus, 16000, 10.0, skips=SkipLog(), window_seconds=100.0)
next(batches)
print("reading", flush=True)
"""


def folder_of_sounds(folder: Path) -> Path:
    for number in range(5):
        noise = np.random.default_rng(number).standard_normal(16000 * (1 + number)).astype(np.float32)
        soundfile.write(folder / f"{number}.wav", noise * 0.1, 16000)
    return folder


def test_a_program_that_never_closes_its_batches_ends(tmp_path: Path) -> None:
    folder = folder_of_sounds(tmp_path)
    subprocess.run([sys.executable, "-c", LEAVING, str(folder)], check=True, timeout=30)


def test_ctrl_c_ends_reading_at_once(tmp_path: Path) -> None:
    program = LEAVING + "for batch in batches: time.sleep(0.01)\n"
    command = [sys.executable, "-c", program, str(folder_of_sounds(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=5)
    assert complaint.rstrip().endswith("KeyboardInterrupt")
    assert complaint.count("Traceback") == 1


def test_real_files_are_read_as_read_audio_reads_them(tmp_path: Path) -> None:
    corpus = open_corpus(folder_of_sounds(tmp_path))
    (batch,) = read_batches(corpus, 8000, 60.0, skips=SkipLog())
    assert [utterance.id for utterance in batch.utterances] == ["4", "3", "2", "1", "0"]
    for utterance, waveform in zip(batch.utterances, batch.waveforms, strict=True):
        np.testing.assert_array_equal(waveform, read_audio(utterance.path, 8000))


def test_real_speech_is_read_whole_with_little_padding(shared: Path) -> None:
    skips = SkipLog()
    corpus = open_corpus(shared / "data/librispeech/valid", limit=150)
    real = padded = 0
    for batch in read_batches(corpus, 16000, 60.0, skips=skips):
        real += sum(map(len, batch.waveforms))
        padded += len(batch.waveforms) * max(map(len, batch.waveforms))
    assert skips.read == 150
    assert real / 16000 == pytest.approx(sum(audio_seconds(each.path) for each in corpus), rel=1e-3)
    assert padded < 1.15 * real
