"""Tiny models of every family that can be pruned, with weights that leave no unit without effect."""

from __future__ import annotations

import torch
from transformers import ParakeetCTCConfig, ParakeetForCTC, PreTrainedModel, Wav2Vec2Config, Wav2Vec2ForCTC

from secateur.models.conformer import ConformerConfig, ConformerForCTC

MELS = 16


def _conformer(
    layers: int, heads: int, width: int, units: int, channels: int, **settings: object
) -> PreTrainedModel:
    config = ConformerConfig(
        vocab_size=7,
        pad_token_id=6,
        num_mel_bins=MELS,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=units,
        conv_kernel_size=5,
        subsampling_conv_channels=channels,
        **settings,
    )
    return ConformerForCTC(config)


def _parakeet(
    layers: int, heads: int, width: int, units: int, channels: int, **settings: object
) -> PreTrainedModel:
    encoder = {
        "conv_kernel_size": 5,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": units,
        "subsampling_conv_channels": channels,
        "num_mel_bins": MELS,
        **settings,
    }
    return ParakeetForCTC(ParakeetCTCConfig(vocab_size=7, pad_token_id=6, encoder_config=encoder))


def _wav2vec2(
    layers: int,
    heads: int,
    width: int,
    units: int,
    channels: int,
    conv_stride: tuple[int, ...] = (5, 2, 2),
    **settings: object,
) -> PreTrainedModel:
    config = Wav2Vec2Config(
        vocab_size=7,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=units,
        conv_dim=(channels, channels, 8),
        conv_kernel=(10, 3, 3),
        conv_stride=conv_stride,
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        **settings,
    )
    return Wav2Vec2ForCTC(config)


_MAKERS = {"conformer": _conformer, "parakeet": _parakeet, "wav2vec2": _wav2vec2}

FAMILIES = tuple(_MAKERS)
"""One that is added here is held to everything that the others are."""


def tiny_model(
    family: str,
    *,
    layers: int = 2,
    heads: int = 4,
    width: int = 16,
    units: int = 20,
    channels: int = 6,
    seed: int = 0,
    **settings: object,
) -> PreTrainedModel:
    """``tiny_model("parakeet", layers=3, seed=1)``: a model in evaluation mode and float64."""
    model = _MAKERS[family](layers, heads, width, units, channels, **settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and not name.endswith("inv_freq"):
                tensor.normal_(0.0, 0.3, generator=generator)
                if name.endswith("running_var") or ("norm" in name and name.endswith("weight")):
                    tensor.abs_().add_(0.5)
    return model.double().eval()
