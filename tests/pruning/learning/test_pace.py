"""A run by the clock scores, refits and validates on as much speech as leaves it time to train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secateur.pruning.learning import pace as room
from secateur.pruning.learning.learned import Learned
from secateur.pruning.learning.method import LearnedMethod
from secateur.pruning.learning.mixing import PARTS
from secateur.pruning.learning.pace import (
    FEWEST_MINUTES,
    REFITTING,
    SCORING,
    SETTLING,
    SHARE,
    TRYING,
    VALIDATING,
    fitted,
    in_time,
    pace,
)
from secateur.pruning.learning.validation import FEWEST
from secateur.pruning.oneshot import Decision, OneShot
from secateur.pruning.prune import Given, prune
from secateur.pruning.settings import PruneSettings
from secateur.pruning.trials import JUDGED_SECONDS, REFIT_SECONDS
from secateur.recognizer import Recognizer
from secateur.speech.batching import BATCH_SECONDS

ASKED = OneShot(score_minutes=20.0, reconstruct_minutes=60.0, reconstruct_steps=200, trials=12)
LEARNED = Learned(minutes=45.0)


def test_a_fast_model_hears_all_that_was_asked_for() -> None:
    assert fitted(ASKED, LEARNED, 0.02, 12.0) == (ASKED, LEARNED)


@pytest.mark.parametrize("slow", [0.1, 0.3, 1.0])
def test_a_slow_one_takes_its_shares_of_the_time_at_most_and_not_much_less(slow: float) -> None:
    oneshot, learned = fitted(ASKED, LEARNED, slow, 12.0)
    share = TRYING * LEARNED.minutes
    assert share / 2 < oneshot.score_minutes * SCORING * slow <= share or oneshot.score_minutes in (1.0, 20.0)
    assert share / 2 < oneshot.reconstruct_minutes * REFITTING * slow <= share
    stepping = oneshot.reconstruct_steps * BATCH_SECONDS / 60 * SETTLING * slow
    assert VALIDATING * LEARNED.minutes * 0.8 < stepping <= VALIDATING * LEARNED.minutes or slow == 1.0
    trial = (REFIT_SECONDS * REFITTING + JUDGED_SECONDS) / 60 * slow
    assert not oneshot.trials or (1 + oneshot.trials) * trial <= SHARE * LEARNED.minutes
    validations = 1 + learned.validations + len(PARTS)
    heard = learned.valid_utterances * 12.0 * validations * slow / 60
    assert not learned.validates or heard <= VALIDATING * LEARNED.minutes


def test_without_trials_there_is_more_time_to_score_and_to_refit() -> None:
    oneshot, _ = fitted(replace(ASKED, trials=0), LEARNED, 0.3, 12.0)
    share = SHARE * LEARNED.minutes
    assert share / 2 < oneshot.score_minutes * SCORING * 0.3 <= share
    assert share / 2 < oneshot.reconstruct_minutes * REFITTING * 0.3 <= share


def test_long_recordings_are_validated_on_as_far_as_there_is_the_time() -> None:
    _, learned = fitted(ASKED, LEARNED, 0.02, 600.0)
    assert 1 <= learned.valid_utterances < FEWEST
    assert learned.validates
    heard = learned.valid_utterances * 600.0 * (1 + learned.validations + len(PARTS)) * 0.02
    assert heard <= VALIDATING * 60 * LEARNED.minutes
    _, learned = fitted(ASKED, LEARNED, 0.02, 3600.0)
    assert not learned.validates


def test_a_pace_that_is_little_different_is_the_same() -> None:
    assert fitted(ASKED, LEARNED, 0.205, 12.0) == fitted(ASKED, LEARNED, 0.207, 12.0)


def test_some_speech_is_heard_however_long_it_takes_but_never_more_than_was_asked_for() -> None:
    assert fitted(ASKED, LEARNED, 1e3, 12.0)[0].score_minutes == FEWEST_MINUTES
    little, few = (
        OneShot(score_minutes=0.1, reconstruct_minutes=0.0, reconstruct_steps=0),
        replace(LEARNED, valid_utterances=5),
    )
    assert fitted(little, few, 1e3, 12.0) == (little, replace(few, validations=0))


def test_the_pace_is_that_of_the_quickest_time(
    make_recognizer: Callable[..., Recognizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = make_recognizer("conformer")
    # Seconds when each time begins and ends: the first one compiles kernels, and another job is at work in the third.
    clock = iter([0.0, 5.0, 10.0, 11.5, 12.0, 15.0, 20.0, 21.0])
    monkeypatch.setattr(room, "perf_counter", lambda: next(clock))
    second = np.zeros(recognizer.sample_rate, np.float32)
    heard = []
    logits = recognizer.logits
    monkeypatch.setattr(recognizer, "logits", lambda batch: heard.append(len(batch)) or logits(batch))
    assert pace(recognizer, [[second] * 4, [second] * 20, [second]]) == pytest.approx(1.0 / 24)
    assert heard == [4, 20] * 4
    # A slow model is not heard more often than it must.
    clock = iter([0.0, 50.0, 60.0, 90.0])
    assert pace(recognizer, [[second] * 20]) == pytest.approx(30.0 / 20)


def test_no_speech_is_refused_elsewhere(make_recognizer: Callable[..., Recognizer]) -> None:
    recognizer = make_recognizer("conformer")
    assert in_time(ASKED, LEARNED, lambda: pace(recognizer, []), 12.0)[1] == LEARNED


def test_a_run_that_goes_on_keeps_to_the_pace_that_it_found_first(
    save_model: Callable[..., Path], record_noise: Callable[..., Path], tmp_path: Path
) -> None:
    speech = record_noise(*[1.0] * 30)
    learned = Learned(minutes=0.01, precision="float32", batch_seconds=2.0, validations=0)
    oneshot = OneShot(score="wanda", score_minutes=0.3, reconstruct_minutes=0.2, reconstruct_steps=2)
    settings = PruneSettings(save_model(), speech, "params=60%", oneshot=oneshot, learned=learned)
    measured: list[float] = []

    def stopped(run: LearnedMethod) -> Decision:
        raise KeyboardInterrupt

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def slower(*_: object) -> float:
        measured.append(1e-4 * 10 ** len(measured))
        return measured[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LearnedMethod, "_recover", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prune(settings, tmp_path / "out", given=Given(pace=slower))
    prune(settings, tmp_path / "out", given=Given(pace=slower))
    assert measured == [1e-4]
    # Nothing that was done depends on it yet, so nothing is left of it.
    with pytest.raises(KeyboardInterrupt):
        prune(settings, tmp_path / "other", given=Given(pace=slower, decide=stopped))
    assert not (tmp_path / "other.unfinished").exists()
    assert len(measured) == 2


@pytest.mark.parametrize("steps", [None, 2])
def test_a_run_by_the_clock_says_that_it_hears_less(
    save_model: Callable[..., Path],
    record_noise: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    steps: int | None,
) -> None:
    speech = record_noise(*[1.0] * 30)
    monkeypatch.setattr(room, "FEWEST_MINUTES", 0.1)
    learned = Learned(minutes=0.01, steps=steps, precision="float32", batch_seconds=2.0, validations=0)
    oneshot = OneShot(score="wanda", score_minutes=0.3, reconstruct_minutes=0.2, reconstruct_steps=2)
    told: list[str] = []
    pruned = prune(
        PruneSettings(save_model(), speech, "params=60%", oneshot=oneshot, learned=learned),
        tell=told.append,
        given=Given(pace=lambda *_: 60.0),
    )
    if steps is None:
        assert pruned.report["minutes_heard"] == {"start": 0.1, "reconstruct": 0.1}
        assert any("the rest is for training" in sentence for sentence in told)
    else:
        assert pruned.report["minutes_heard"] == {"start": 0.3, "reconstruct": 0.2}
        assert not told


def test_a_score_of_weights_alone_hears_nothing() -> None:
    assert OneShot(score="magnitude").minutes_scored == 0.0
    assert OneShot().minutes_scored == OneShot().score_minutes
