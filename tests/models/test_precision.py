"""Casting a model's weights, and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import ParakeetCTCConfig, ParakeetForCTC

from secateur.models.precision import cast


@pytest.fixture
def model() -> ParakeetForCTC:
    torch.manual_seed(0)
    encoder = {"num_mel_bins": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return ParakeetForCTC(ParakeetCTCConfig(vocab_size=7, pad_token_id=6, encoder_config=encoder)).eval()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_stay_exact_where_weights_are_rounded(model: ParakeetForCTC, dtype: torch.dtype) -> None:
    exact = copy.deepcopy(model)
    cast(model, dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    for name, buffer in exact.named_buffers():
        if name.endswith("inv_freq"):
            assert torch.equal(model.get_buffer(name), buffer)
        elif buffer.is_floating_point():
            assert model.get_buffer(name).dtype == dtype
    assert model(input_features=torch.zeros(1, 100, 16, dtype=dtype)).logits.isfinite().all()
    # And back.
    cast(model, torch.float32)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}


def test_to_double_everything_goes(model: ParakeetForCTC) -> None:
    cast(model, torch.float64)
    assert {each.dtype for each in model.buffers() if each.is_floating_point()} == {torch.float64}
    before = [tensor.dtype for tensor in model.state_dict().values()]
    cast(model, None)
    assert [tensor.dtype for tensor in model.state_dict().values()] == before


def test_a_model_without_buffers_is_cast() -> None:
    layer = nn.Linear(2, 2)
    cast(layer, torch.float16)
    assert layer.weight.dtype == torch.float16
