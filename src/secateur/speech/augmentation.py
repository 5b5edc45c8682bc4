"""What is done to training audio, so that little speech goes a long way: speed, splices, rooms, noise, level, masks.

Teacher and student hear the same augmented audio, so nothing here has to preserve what was said, only to sound like
something that a recogniser may meet.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import soxr
import torch
from torch import Tensor

from secateur.errors import SecateurError
from secateur.speech.audio import Waveform

# Noise is between its loudest and this much quieter.
_NOISE_RANGE_DB = 20.0
# Samples of noise, after which it repeats itself: 8 s at 16 kHz, whose transform is fast.
_MOST_NOISE = 1 << 17
# Noise is as loud at all frequencies below as here: else most of brown noise would be where nobody hears it.
_NOISE_FLAT_BELOW_HZ = 50.0
# Rooms are between this reverberation time, of a furnished closet, and the longest.
_SHORTEST_ROOM_SECONDS = 0.1
# How much more of the sound comes straight from the mouth than from the walls: of a speaker across the room, of one nearby.
_DIRECT_DB = (0.0, 12.0)
# The first reflection has gone a metre further than the direct sound.
_FIRST_REFLECTION_SECONDS = 0.003

AUGMENTATIONS = ("speeds", "masks", "all", "none")
"""What runs choose among; the first is the default."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How much is done to training audio; drawn anew for every utterance, or stretch of two, that is heard.

    The defaults are moderate: heavier ones need more steps than a run of an hour has before they pay. Every method is
    a function of its arguments and the generator alone.

    Attributes:
        splice: probability that an utterance is followed by another, as one stretch of speech.
        speed: probability that an utterance is spoken faster or slower, by resampling (Ko et al. 2015, "Audio
            augmentation for speech recognition"). Its pitch and the speaker's formants change by the same factor.
        speed_change: the factor is drawn from 1 ± this; Ko et al. use .9, 1 and 1.1.
        room: probability of reverberation: noise that decays exponentially, after the direct sound (Polack 1988;
            simulated rooms for recognisers: Ko et al. 2017, "A study on data augmentation of reverberant speech").
        room_seconds: the longest reverberation time, to a decay of 60 dB; drawn from 0.1 s on.
        noise: probability of steady noise, anything between white and brown.
        noise_db: the lowest ratio of speech to noise; drawn from this to 20 dB above. Ko et al. 2017 go down to 0.
        gain_db: the level changes by up to this, up or down. Features that are normalised do not notice.
        frequency_masks: bands of features that are hidden (SpecAugment, Park et al. 2019, arXiv 1904.08779, who hide two).
        frequency_share: the widest band, as a share of all: 15 of 80 bins. Park et al. hide up to 27.
        time_masks: stretches of time that are hidden (SpecAugment; two there).
        time_share: the longest stretch, as a share of the utterance (Park et al. 2019b, arXiv 1912.05533, and the
            Conformer, Gulati et al. 2020: .05).

    Raises:
        SecateurError: a setting is out of its range.
    """

    splice: float = 0.1
    speed: float = 0.5
    speed_change: float = 0.1
    room: float = 0.2
    room_seconds: float = 0.6
    noise: float = 0.3
    noise_db: float = 10.0
    gain_db: float = 6.0
    frequency_masks: int = 2
    frequency_share: float = 0.19
    time_masks: int = 2
    time_share: float = 0.05

    def __post_init__(self) -> None:
        highest = {
            "speed_change": 0.5,
            "room_seconds": 10.0,
            "noise_db": 100.0,
            "gain_db": 60.0,
        } | dict.fromkeys(["frequency_masks", "time_masks"], 100)
        lowest = {"room_seconds": _SHORTEST_ROOM_SECONDS, "noise_db": -100.0}
        for field in fields(self):
            low, high, value = (
                lowest.get(field.name, 0.0),
                highest.get(field.name, 1.0),
                getattr(self, field.name),
            )
            if not low <= value <= high:
                raise SecateurError(f"augmentation: {field.name} is {value}; give {low:g} to {high:g}")

    @classmethod
    def of(cls, name: str) -> Augmentation:
        """One of `AUGMENTATIONS`: speeds alone, speeds and masks, all that there is at its default, or none.

        Raises:
            SecateurError: it is none of them.
        """
        if name not in AUGMENTATIONS:
            raise SecateurError(f"there is no augmentation {name!r}; give {', '.join(AUGMENTATIONS)}")
        named = {"speeds": cls.speeds(), "masks": cls.masks(), "all": cls(), "none": cls.none()}
        return named[name]

    @classmethod
    def none(cls) -> Augmentation:
        """Speech as it is."""
        return cls(splice=0, speed=0, room=0, noise=0, gain_db=0, frequency_masks=0, time_masks=0)

    @classmethod
    def speeds(cls) -> Augmentation:
        """Every utterance at a speed of its own, and so in another voice, but else as it is.

        Of all that can be done to a few hours of speech this teaches a pruned model most (docs/notes/learned.md).
        """
        return replace(cls.none(), speed=1.0, speed_change=0.2)

    @classmethod
    def masks(cls) -> Augmentation:
        """Speeds, and bands and stretches hidden: for a model that has heard all its speech many times and is to go on."""
        usual = cls()
        return replace(cls.speeds(), frequency_masks=usual.frequency_masks, time_masks=usual.time_masks)

    def draw_splice(self, rng: np.random.Generator) -> bool:
        """Whether an utterance is followed by another."""
        return bool(rng.random() < self.splice)

    def draw_speed(self, rng: np.random.Generator) -> float:
        """How many times as fast an utterance is spoken."""
        if rng.random() >= self.speed:
            return 1.0
        return float(rng.uniform(1 - self.speed_change, 1 + self.speed_change))

    def disturb(self, wave: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        """Put a speaker in a room, with noise, at another level; the length stays.

        Args:
            wave: float32 [samples].
            sample_rate: in Hz.
            rng: what is drawn from.
        """
        if rng.random() < self.room:
            seconds = rng.uniform(_SHORTEST_ROOM_SECONDS, self.room_seconds)
            wave = reverberate(wave, sample_rate, seconds, rng.uniform(*_DIRECT_DB), rng)
        if rng.random() < self.noise:
            ratio = rng.uniform(self.noise_db, self.noise_db + _NOISE_RANGE_DB)
            wave = add_noise(wave, sample_rate, ratio, rng.uniform(0.0, 2.0), rng)
        if self.gain_db:
            wave = wave * np.float32(10 ** (rng.uniform(-self.gain_db, self.gain_db) / 20))
        return wave

    def hide(self, inputs: Tensor, real: Tensor, rng: np.random.Generator) -> Tensor:
        """Hide bands and stretches of a batch of model inputs behind each utterance's mean of every feature.

        Of models that hear samples only stretches of time are hidden, as silence.

        Args:
            inputs: features [B, T, M], or samples [B, T].
            real: bool [B, T], false where a row is padding, at its end, which stays as it is.
            rng: what is drawn from.

        Returns:
            Like ``inputs``, which are not changed; the inputs themselves when nothing is hidden.
        """
        features_BTM = inputs if inputs.dim() == 3 else inputs[..., None]
        lengths = real.sum(1)
        hidden_BTM = np.zeros(features_BTM.shape, dtype=np.bool_)
        for hidden_TM, length in zip(hidden_BTM, lengths.tolist(), strict=True):
            for _ in range(self.time_masks):
                hidden_TM[_stretch(length, self.time_share, rng)] = True
            for _ in range(self.frequency_masks if inputs.dim() == 3 else 0):
                hidden_TM[:length, _stretch(hidden_TM.shape[1], self.frequency_share, rng)] = True
        if not hidden_BTM.any():
            return inputs
        sums_B1M = (features_BTM.float() * real[..., None]).sum(1, keepdim=True)
        means_B1M = (sums_B1M / lengths.clamp(min=1)[:, None, None]).to(inputs.dtype)
        hidden = torch.from_numpy(hidden_BTM).to(inputs.device)
        return torch.where(hidden, means_B1M, features_BTM).view_as(inputs)


def change_speed(wave: Waveform, factor: float) -> Waveform:
    """Speak ``factor`` times as fast, and as many times higher.

    Args:
        wave: float32 [samples].
        factor: above 0.

    Returns:
        float32 [samples / factor], rounded.
    """
    if factor == 1.0:
        return wave
    changed: Waveform = soxr.resample(wave, factor, 1.0)
    return changed


def add_noise(
    wave: Waveform, sample_rate: int, ratio_db: float, tilt: float, rng: np.random.Generator
) -> Waveform:
    """Add steady noise whose power falls with the frequency, as f^-tilt.

    Args:
        wave: float32 [samples].
        sample_rate: in Hz.
        ratio_db: power of the speech over that of the noise, both averaged over the whole waveform.
        tilt: 0 is white noise, 1 pink, 2 brown.
        rng: what is drawn from.
    """
    size = min(_MOST_NOISE, 1 << len(wave).bit_length())
    frequencies = np.arange(size // 2 + 1, dtype=np.float32) * np.float32(sample_rate / size)
    spectrum = rng.standard_normal(size + 2, dtype=np.float32).view(np.complex64)
    spectrum *= np.maximum(frequencies, np.float32(_NOISE_FLAT_BELOW_HZ)) ** np.float32(-tilt / 2)
    # Its end meets its beginning, so that it can be repeated.
    noise = np.resize(np.fft.irfft(spectrum).astype(np.float32, copy=False), len(wave))
    wanted = _power(wave) * 10 ** (-ratio_db / 10)
    noisy: Waveform = wave + noise * np.float32(np.sqrt(wanted / _power(noise)))
    return noisy


def reverberate(
    wave: Waveform, sample_rate: int, room_seconds: float, direct_db: float, rng: np.random.Generator
) -> Waveform:
    """Hear a speaker in a room: the direct sound, then noise that decays; as loud, as long and as early as before.

    Args:
        wave: float32 [samples].
        sample_rate: in Hz.
        room_seconds: the time in which the reverberation decays by 60 dB.
        direct_db: energy of the direct sound over that of the reverberation.
        rng: what is drawn from.
    """
    taps = max(2, round(room_seconds * sample_rate))
    decay = 10 ** np.linspace(0, -3, taps, dtype=np.float32)
    response = rng.standard_normal(taps, dtype=np.float32) * decay
    response[: min(taps - 1, max(1, round(_FIRST_REFLECTION_SECONDS * sample_rate)))] = 0
    response *= np.float32(np.sqrt(10 ** (-direct_db / 10) / (_power(response) * taps)))
    response[0] = 1
    heard = _convolved(wave, response)
    power = _power(heard)
    if not power:
        return wave
    scaled: Waveform = heard * np.float32(np.sqrt(_power(wave) / power))
    return scaled


def _power(wave: Waveform) -> float:
    return float(np.dot(wave, wave)) / len(wave)


def _convolved(wave: Waveform, response: Waveform) -> Waveform:
    """The first samples of their convolution, as many as the waveform has.

    In blocks that fit a processor's cache (overlap-save), ten times as fast as one transform of half a minute.
    """
    block = 1 << (4 * len(response)).bit_length()
    lead = len(response) - 1
    hop = block - lead
    padded = torch.from_numpy(np.pad(wave, (lead, -len(wave) % hop)))
    spectra = torch.fft.rfft(padded.unfold(0, block, hop)) * torch.fft.rfft(
        torch.from_numpy(response), n=block
    )
    convolved: Waveform = torch.fft.irfft(spectra, n=block)[:, lead:].flatten()[: len(wave)].numpy()
    return convolved


def _stretch(length: int, share: float, rng: np.random.Generator) -> slice:
    """A stretch of up to that share of a length, anywhere in it."""
    width = int(rng.integers(0, int(share * length) + 1))
    first = int(rng.integers(0, length - width + 1))
    return slice(first, first + width)
