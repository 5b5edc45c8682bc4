"""Who speaks: accents of English crossed with espeak-ng's variants of a voice, no variant in two parts of the corpus.

Variants are few: a model comes to know those of training by heart, and those of a test say little about any other. So most
utterances have a voice of their own, drawn for them.
"""

from __future__ import annotations

import random

from secateur.speech.synthetic.espeak import Manner

ACCENTS = (
    "en",
    "en-029",
    "en-GB-scotland",
    "en-GB-x-gbclan",
    "en-GB-x-gbcwmd",
    "en-GB-x-rp",
    "en-US",
    "en-US-nyc",
)
"""Of Great Britain, the Caribbean, Scotland, Lancaster, the West Midlands, Received Pronunciation, America, New York."""

# Those of people: of robots, whispers and caricatures nobody would understand a word. Variants that differ little
# (klatt and klatt2, steph and steph2) are in the same part.
VARIANTS = {
    "train": (
        "m1 m2 m3 m5 m6 m7 f1 f2 f5 klatt klatt2 klatt3 klatt4 Andy Annie Denis Gene Gene2 Jacky Marco Mario Mike Nguyen "
        "Storm announcer antonio croak ed gustave ian iven iven2 iven3 iven4 linda marcelo max pablo paul rob sandro "
        "shelby steph steph2 steph3 travis zac"
    ).split(),
    "valid": "m4 f3 grandpa aunty robert norbert".split(),
    "test": "m8 f4 grandma edward belinda victor quincy Michael".split(),
}

DRAWN_SHARE = 0.75
"""Of the utterances, those that are spoken by a voice of their own."""

_WORDS_PER_MINUTE = (130, 210)
_PITCH = (30, 70)
_RANGE = (30, 80)

# What a drawn voice is made of, in the units of espeak-ng's variants: percent of those of its own voice, Hz, and ranks.
_TRACT = (0.85, 1.3)
_PITCH_HZ = 90
# Short vocal tracts come with high voices.
_PITCH_EXPONENT = 2.5
_FORMANTS = range(9)
# Formants above these are hardly heard, and may be missing.
_VOWEL_FORMANTS = range(6)


def voices(part: str) -> list[str]:
    """All voices of a part of the corpus that have a name."""
    return [f"gmw/{accent}+{variant}" for accent in ACCENTS for variant in VARIANTS[part]]


def draw_manner(part: str, rng: random.Random) -> Manner:
    """Any voice of the part, at any speed and pitch that people speak with."""
    if rng.random() < DRAWN_SHARE:
        voice, timbre = f"gmw/{rng.choice(ACCENTS)}", draw_timbre(rng)
    else:
        voice, timbre = rng.choice(voices(part)), ""
    return Manner(
        voice,
        rng.randint(*_WORDS_PER_MINUTE),
        rng.randint(*_PITCH),
        rng.randint(*_RANGE),
        timbre,
    )


def draw_timbre(rng: random.Random) -> str:
    """A voice that espeak-ng does not have: a vocal tract of any length, and a source of any roughness."""
    tract = rng.uniform(*_TRACT)
    pitch = _PITCH_HZ * tract**_PITCH_EXPONENT * rng.uniform(0.8, 1.3)
    lines = [
        f"pitch {pitch:.0f} {pitch * rng.uniform(1.2, 1.7):.0f}",
        f"flutter {rng.randint(0, 20)}",
        f"roughness {rng.randint(0, 4)}",
        f"voicing {rng.randint(60, 130)}",
        f"consonants {rng.randint(55, 130)} {rng.randint(70, 125)}",
        f"intonation {rng.choice((1, 1, 2, 3))}",
        *_formants(tract, rng),
    ]
    if rng.random() < 0.3:
        lines.append(f"breath 0 {_numbers(1, 0, 3, rng)} {_numbers(6, 1, 4, rng)}")
    if rng.random() < 0.4:
        lines.append(
            "tone " + " ".join(f"{hertz} {rng.randint(40, 255)}" for hertz in (600, 1200, 2000, 4000))
        )
    if rng.random() < 0.2:
        lines.append(f"echo {rng.randint(10, 140)} {rng.randint(5, 30)}")
    if rng.random() < 0.2:
        lines.append(f"klatt {rng.randint(1, 5)}")
    if rng.random() < 0.5:
        lines.append(f"stressAdd {_numbers(6, -20, 10, rng)} {rng.randint(0, 60)} {rng.randint(0, 120)}")
    return "\n".join(lines)


def _formants(tract: float, rng: random.Random) -> list[str]:
    """Frequency, height and width of each."""
    width, tilt = rng.uniform(0.55, 1.7), rng.uniform(-0.12, 0.03)
    odd = rng.choice(_VOWEL_FORMANTS) if rng.random() < 0.3 else None
    lines = []
    for formant in _FORMANTS:
        frequency = tract * rng.uniform(0.93, 1.07) * (rng.uniform(0.8, 1.2) if formant == odd else 1.0)
        height = (1 + tilt * formant) * rng.uniform(0.6, 1.15) if formant in _VOWEL_FORMANTS else rng.random()
        breadth = width * rng.uniform(0.8, 1.2)
        lines.append(f"formant {formant} {100 * frequency:.0f} {100 * height:.0f} {100 * breadth:.0f}")
    return lines


def _numbers(count: int, low: int, high: int, rng: random.Random) -> str:
    return " ".join(str(rng.randint(low, high)) for _ in range(count))
