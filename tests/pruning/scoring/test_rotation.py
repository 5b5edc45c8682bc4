"""Heads are rotated so that what they hear stays the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from secateur.pruning.scoring.rotation import rotate_heads
from secateur.recognizer import Recognizer
from secateur.structure.groups import find_groups
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model

MakeRecognizer = Callable[..., Recognizer]
WAVE = np.random.default_rng(0).normal(scale=0.1, size=16000).astype(np.float32)


def test_a_rotated_model_hears_the_same_and_its_dimensions_are_in_order(
    make_recognizer: MakeRecognizer,
) -> None:
    recognizer = make_recognizer("conformer")
    rotated, shares = rotate_heads(recognizer, [WAVE])
    assert len(shares) == 2
    for share in shares.values():
        assert share.sum() == pytest.approx(1.0)
        assert (share.diff() <= 0).all()
    assert not torch.equal(
        *(each.model.encoder.layers[0].self_attn.q_proj.weight for each in (recognizer, rotated))
    )
    torch.testing.assert_close(rotated.logits([WAVE])[0], recognizer.logits([WAVE])[0])


@pytest.mark.parametrize("family", ["parakeet", "wav2vec2"])
def test_where_no_head_can_be_rotated_the_model_is_the_one_that_was_given(
    make_recognizer: MakeRecognizer, family: str
) -> None:
    recognizer = make_recognizer(family)
    assert rotate_heads(recognizer, [WAVE]) == (recognizer, {})


def test_a_residual_stream_that_is_narrower_than_a_head_leaves_values_as_they_are(
    make_recognizer: MakeRecognizer,
) -> None:
    recognizer = make_recognizer("conformer", heads=2)
    narrow = slice_model(
        recognizer.model, PruningPlan.keep(find_groups(recognizer.model, width=True), {"width": (0, 3, 5)})
    )
    pruned = Recognizer(narrow, recognizer.features, recognizer.tokenizer)
    rotated, _ = rotate_heads(pruned, [WAVE])
    torch.testing.assert_close(rotated.logits([WAVE])[0], pruned.logits([WAVE])[0])
