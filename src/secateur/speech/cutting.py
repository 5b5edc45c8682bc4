"""Long recordings in pieces, before they are read, so that none is ever in memory as a whole."""

from __future__ import annotations

import math
from dataclasses import replace

from secateur.speech.audio import audio_seconds
from secateur.speech.utterance import Utterance


def cut(utterance: Utterance, longest_seconds: float) -> list[tuple[Utterance, float]]:
    """An utterance, or the equal pieces of a longer one, which have no text; each with its length in seconds.

    No audio is read, and no header either of an utterance whose ``duration`` is given and short enough.

    Raises:
        SecateurError: the header cannot be read.
    """
    seconds = utterance.duration
    if seconds is None or seconds > longest_seconds:
        left = audio_seconds(utterance.path) - utterance.offset
        seconds = left if seconds is None else min(seconds, left)
    count = math.ceil(seconds / longest_seconds)
    if count <= 1:
        return [(utterance, seconds)]
    each = seconds / count
    return [
        (
            replace(
                utterance,
                id=f"{utterance.id}[{k}]",
                text=None,
                offset=utterance.offset + k * each,
                duration=each,
            ),
            each,
        )
        for k in range(count)
    ]
