from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import SecateurError
from secateur.speech.audio import Waveform
from secateur.speech.augmentation import AUGMENTATIONS, Augmentation, add_noise, change_speed, reverberate

RATE = 16000
EVERYTHING = Augmentation(splice=1, speed=1, room=1, noise=1)


def speech(samples: int, seed: int = 0) -> Waveform:
    """Something with the rise and fall of speech."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / RATE
    envelope = 0.1 * (1.1 + np.sin(2 * np.pi * 3 * time))
    return (envelope * rng.standard_normal(samples)).astype(np.float32)


def tone(hertz: float, seconds: float = 1.0) -> Waveform:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


def decibels(ratio: float) -> float:
    return 10 * np.log10(ratio)


def power(wave: Waveform) -> float:
    return float(np.mean(np.square(wave, dtype=np.float64)))


def real_frames(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def test_none_changes_nothing() -> None:
    none = Augmentation.none()
    wave, features = speech(5000), torch.randn(2, 50, 80)
    rng = np.random.default_rng(0)
    assert none.disturb(wave, RATE, rng) is wave
    assert none.hide(features, real_frames([50, 30]), rng) is features
    assert change_speed(wave, none.draw_speed(rng)) is wave
    assert not none.draw_splice(rng)


def test_augmentations_have_names() -> None:
    assert [Augmentation.of(name) for name in AUGMENTATIONS] == [
        Augmentation.speeds(),
        Augmentation.masks(),
        Augmentation(),
        Augmentation.none(),
    ]
    with pytest.raises(SecateurError, match="no augmentation 'loud'; give speeds, masks, all, none"):
        Augmentation.of("loud")


def test_the_same_generator_disturbs_in_the_same_way_and_another_in_another() -> None:
    wave, features, real = speech(20000), torch.randn(2, 200, 80), real_frames([200, 150])

    def augmented(seed: int) -> tuple[Waveform, torch.Tensor]:
        rng = np.random.default_rng(seed)
        return EVERYTHING.disturb(wave, RATE, rng), EVERYTHING.hide(features, real, rng)

    assert np.array_equal(augmented(1)[0], augmented(1)[0])
    assert torch.equal(augmented(1)[1], augmented(1)[1])
    assert not np.array_equal(augmented(1)[0], augmented(2)[0])
    assert not torch.equal(augmented(1)[1], augmented(2)[1])


@given(samples=st.integers(1, 40000), seed=st.integers(0, 1000), rate=st.sampled_from([100, 8000, 16000]))
def test_disturbed_speech_is_as_long_as_before_and_finite(samples: int, seed: int, rate: int) -> None:
    wave = speech(samples, seed)
    disturbed = EVERYTHING.disturb(wave, rate, np.random.default_rng(seed))
    assert disturbed.shape == wave.shape
    assert disturbed.dtype == np.float32
    assert np.isfinite(disturbed).all()


def test_what_is_given_is_not_changed() -> None:
    wave, features = speech(20000), torch.randn(2, 200, 80)
    before = wave.copy(), features.clone()
    rng = np.random.default_rng(0)
    EVERYTHING.disturb(wave, RATE, rng)
    EVERYTHING.hide(features, real_frames([200, 150]), rng)
    assert np.array_equal(wave, before[0])
    assert torch.equal(features, before[1])


@given(factor=st.floats(0.5, 1.5), samples=st.integers(1000, 40000))
def test_faster_speech_is_shorter_by_the_same_factor(factor: float, samples: int) -> None:
    changed = change_speed(speech(samples), factor)
    assert len(changed) == pytest.approx(samples / factor, abs=1)
    assert changed.dtype == np.float32


def test_faster_speech_is_higher_by_the_same_factor() -> None:
    changed = change_speed(tone(1000.0, 2.0), 1.1)
    loudest = np.abs(np.fft.rfft(changed)).argmax() * RATE / len(changed)
    assert loudest == pytest.approx(1100.0, abs=2.0)


def test_speeds_are_drawn_around_one_and_as_often_as_asked() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([Augmentation(speed=0.5, speed_change=0.1).draw_speed(rng) for _ in range(2000)])
    changed = drawn[drawn != 1.0]
    assert len(changed) / len(drawn) == pytest.approx(0.5, abs=0.05)
    assert 0.9 <= changed.min() < 0.91
    assert 1.09 < changed.max() <= 1.1


@given(
    ratio=st.floats(-10, 40), tilt=st.floats(0, 2), samples=st.integers(100, 200_000), seed=st.integers(0, 99)
)
def test_noise_is_as_loud_as_asked(ratio: float, tilt: float, samples: int, seed: int) -> None:
    wave = speech(samples, seed)
    noise = add_noise(wave, RATE, ratio, tilt, np.random.default_rng(seed)) - wave
    assert decibels(power(wave) / power(noise)) == pytest.approx(ratio, abs=0.05)


@pytest.mark.parametrize("tilt", [0.0, 1.0, 2.0])
def test_the_power_of_noise_falls_by_its_tilt_with_every_octave(tilt: float) -> None:
    wave = np.full(1 << 17, 1.0, dtype=np.float32)
    noise = add_noise(wave, RATE, 0.0, tilt, np.random.default_rng(0)) - wave
    spectrum = np.abs(np.fft.rfft(noise)) ** 2
    hertz = np.fft.rfftfreq(len(noise), 1 / RATE)
    octaves = [spectrum[(hertz >= low) & (hertz < 2 * low)].mean() for low in (500.0, 1000.0, 2000.0)]
    assert decibels(octaves[0] / octaves[1]) == pytest.approx(3.01 * tilt, abs=0.5)
    assert decibels(octaves[1] / octaves[2]) == pytest.approx(3.01 * tilt, abs=0.5)


def test_silence_stays_silent() -> None:
    silence = np.zeros(8000, dtype=np.float32)
    assert not EVERYTHING.disturb(silence, RATE, np.random.default_rng(0)).any()


@given(
    samples=st.integers(1, 100_000),
    seconds=st.floats(0.05, 2.0),
    direct=st.floats(-10, 20),
    seed=st.integers(0, 99),
)
def test_a_room_keeps_level_and_length(samples: int, seconds: float, direct: float, seed: int) -> None:
    wave = speech(samples, seed)
    heard = reverberate(wave, RATE, seconds, direct, np.random.default_rng(seed))
    assert len(heard) == samples
    assert power(heard) == pytest.approx(power(wave), rel=1e-3)


def test_a_room_is_a_direct_sound_and_then_a_decay_of_60_db() -> None:
    click = np.zeros(RATE, dtype=np.float32)
    click[100] = 1.0
    heard = reverberate(click, RATE, 0.5, 6.0, np.random.default_rng(0)).astype(np.float64)
    assert np.abs(heard).argmax() == 100
    # Transforms round: what is before the click is silent to the precision of float32.
    assert np.abs(heard[:100]).max() < 1e-6
    reverberation = heard[101:]
    assert decibels(heard[100] ** 2 / np.sum(reverberation**2)) == pytest.approx(6.0, abs=0.1)
    early, late = power(reverberation[800:1600]), power(reverberation[4800:5600])
    assert decibels(early / late) == pytest.approx(60 * 4000 / 8000, abs=2.0)
    assert np.abs(reverberation[8100:]).max() < 1e-6


def test_a_room_is_a_convolution_whatever_the_lengths() -> None:
    click, wave = np.zeros(30000, dtype=np.float32), speech(30000)
    click[0] = 1.0
    response = reverberate(click, RATE, 0.3, 3.0, np.random.default_rng(5))
    expected = np.convolve(wave.astype(np.float64), response[:5000])[:30000]
    heard = reverberate(wave, RATE, 0.3, 3.0, np.random.default_rng(5))
    assert heard * np.sqrt(power(expected) / power(wave)) == pytest.approx(expected, abs=1e-5)


def test_gain_stays_within_what_was_asked() -> None:
    wave, rng = speech(1000), np.random.default_rng(0)
    only_gain = Augmentation(room=0, noise=0, gain_db=6)
    gains = [decibels(power(only_gain.disturb(wave, RATE, rng)) / power(wave)) for _ in range(300)]
    assert -6.01 < min(gains) < -5
    assert 5 < max(gains) < 6.01


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    bins=st.sampled_from([1, 8, 80]),
    seed=st.integers(0, 10_000),
)
def test_masks_stay_within_real_frames_and_their_bounds(lengths: list[int], bins: int, seed: int) -> None:
    features = torch.randn(len(lengths), max(lengths), bins, generator=torch.Generator().manual_seed(seed))
    real = real_frames(lengths)
    augmentation = Augmentation(time_masks=2, time_share=0.1, frequency_masks=2, frequency_share=0.2)
    hidden = augmentation.hide(features, real, np.random.default_rng(seed))
    changed = hidden != features
    assert not changed[~real].any()
    for row, length in zip(changed, lengths, strict=True):
        # One frame or bin that is its own mean looks unhidden; more than the bounds can't look hidden.
        frames, rest = row[:length].all(1), row[:length]
        assert int(frames.sum()) <= 2 * int(0.1 * length) or bins <= 1
        assert int(rest[~frames].any(0).sum()) <= 2 * int(0.2 * bins)


def test_what_is_hidden_is_the_mean_of_the_utterance_without_its_padding() -> None:
    features = torch.randn(1, 200, 80) + torch.arange(80)
    features[:, 150:] = 1e6
    mean = features[0, :150].mean(0)
    hidden = Augmentation().hide(
        features, real_frames([200]) & (torch.arange(200) < 150), np.random.default_rng(1)
    )
    changed = hidden[0] != features[0]
    assert changed.any()
    assert torch.allclose(hidden[0][changed], mean.expand(200, 80)[changed], atol=1e-3)


def test_samples_are_hidden_in_time_only() -> None:
    samples = torch.randn(2, 16000)
    hidden = Augmentation(time_masks=3).hide(samples, real_frames([16000, 8000]), np.random.default_rng(0))
    assert hidden.shape == samples.shape
    changed = hidden != samples
    assert 0 < int(changed[1].sum()) <= 3 * 400
    assert not changed[1, 8000:].any()
    assert hidden[1][changed[1]].unique().numel() == 1


def test_half_precision_stays_half_precision() -> None:
    features = torch.randn(1, 100, 80, dtype=torch.bfloat16)
    hidden = Augmentation().hide(features, real_frames([100]), np.random.default_rng(0))
    assert hidden.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("noise", 1.5),
        ("speed_change", 0.9),
        ("room_seconds", 0.0),
        ("time_masks", -1),
        ("splice", float("nan")),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(SecateurError, match=f"{setting} is {value}; give"):
        Augmentation(**{setting: value})  # type: ignore[arg-type]
