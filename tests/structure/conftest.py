"""Tiny models, and what they hear."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tiny_models import MELS, tiny_model

MakeModel = Callable[..., PreTrainedModel]


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """``make_model("parakeet", layers=3, seed=1)``: a model in evaluation mode and float64."""
    return tiny_model


@pytest.fixture(scope="session")
def inputs_for() -> Callable[[PreTrainedModel], dict[str, Tensor]]:
    """Two utterances in one batch, the second padded."""

    def inputs(model: PreTrainedModel) -> dict[str, Tensor]:
        length, shape = (50, (2, 50, MELS)) if model.main_input_name == "input_features" else (700, (2, 700))
        samples = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(model.dtype)
        mask = torch.ones(2, length, dtype=torch.long)
        mask[1, 2 * length // 3 :] = 0
        return {
            model.main_input_name: samples * mask.reshape(2, length, *[1] * (samples.dim() - 2)),
            "attention_mask": mask,
        }

    return inputs
