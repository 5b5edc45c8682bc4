from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from secateur.recognizer import WHOLE_SECONDS
from secateur.speech.utterance import Utterance
from secateur.transcription import _is_long_file

LONG, SHORT = WHOLE_SECONDS + 2, WHOLE_SECONDS - 2


@pytest.mark.parametrize(
    ("seconds", "offset", "duration", "long"),
    [
        (LONG, 0.0, None, True),
        (SHORT, 0.0, None, False),
        # As manifests say it of whole files, which they round.
        (LONG, 0.0, LONG, True),
        (LONG, 0.0, LONG - 0.05, True),
        (LONG, 0.0, LONG - 1, False),
        (LONG, 1.0, LONG - 1, False),
        (LONG, 0.0, 5.0, False),
    ],
)
def test_a_long_file_is_heard_window_by_window_whoever_says_how_long_it_is(
    tmp_path: Path, seconds: float, offset: float, duration: float | None, long: bool
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(round(seconds * 100)), 100)
    assert _is_long_file(Utterance("a", tmp_path / "a.wav", offset=offset, duration=duration)) == long
