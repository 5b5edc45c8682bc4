"""Forward passes of two recognisers over the same audio, timed in turns."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from secateur.recognizer import Recognizer
from secateur.timing import Timings, interleave


def time_forward(before: Recognizer, after: Recognizer, *, seconds: float, rounds: int) -> Timings:
    """Time both on one utterance of noise, features aside.

    Args:
        before: one recogniser; its features are used.
        after: another on the same device, that takes the same inputs.
        seconds: length of the utterance.
        rounds: runs of each that are timed.

    Returns:
        Those of ``before`` and of ``after``, by these names.
    """
    samples = round(seconds * before.sample_rate)
    noise = np.random.default_rng(0).normal(scale=0.1, size=samples).astype(np.float32)
    inputs = before.prepare([noise])
    with torch.inference_mode():
        return interleave(
            {"before": partial(before.model, **inputs), "after": partial(after.model, **inputs)},
            rounds=rounds,
            device=before.model.device,
        )
