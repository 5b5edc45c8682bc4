"""Who speaks: accents of English crossed with espeak-ng's variants of a voice, no variant in two parts of the corpus."""

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

_WORDS_PER_MINUTE = (130, 210)
_PITCH = (30, 70)
_RANGE = (30, 80)


def voices(part: str) -> list[str]:
    """All voices of a part of the corpus."""
    return [f"gmw/{accent}+{variant}" for accent in ACCENTS for variant in VARIANTS[part]]


def draw_manner(part: str, rng: random.Random) -> Manner:
    """Any voice of the part, at any speed and pitch that people speak with."""
    return Manner(
        rng.choice(voices(part)),
        rng.randint(*_WORDS_PER_MINUTE),
        rng.randint(*_PITCH),
        rng.randint(*_RANGE),
    )
