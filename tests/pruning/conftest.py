"""Tiny recognisers of every supported family, with weights that leave no unit without effect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    ParakeetCTCConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

from secateur.models.conformer import ConformerConfig, ConformerForCTC
from secateur.models.vocabulary import tokenizer_from_pieces
from secateur.recognizer import Recognizer

MakeRecognizer = Callable[..., Recognizer]
MELS = 16
RATE = 16000


@pytest.fixture(scope="session")
def make_recognizer() -> MakeRecognizer:
    """``make_recognizer("parakeet", layers=3, seed=1)``: its model in float64."""

    def make(
        family: str,
        *,
        layers: int = 2,
        heads: int = 4,
        width: int = 16,
        units: int = 20,
        channels: int = 6,
        seed: int = 0,
        **settings: object,
    ) -> Recognizer:
        common = {
            "num_mel_bins": MELS,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": units,
            "subsampling_conv_channels": channels,
            "conv_kernel_size": 5,
            **settings,
        }
        if family == "conformer":
            model = ConformerForCTC(ConformerConfig(vocab_size=7, pad_token_id=6, **common))
        elif family == "parakeet":
            model = ParakeetForCTC(ParakeetCTCConfig(vocab_size=7, pad_token_id=6, encoder_config=common))
        else:
            config = Wav2Vec2Config(
                vocab_size=7,
                pad_token_id=6,
                hidden_size=width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=units,
                conv_dim=(channels, channels, 8),
                conv_kernel=(10, 3, 3),
                conv_stride=(5, 2, 2),
                num_feat_extract_layers=3,
                num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2,
                **settings,
            )
            model = Wav2Vec2ForCTC(config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if tensor.is_floating_point() and not name.endswith("inv_freq"):
                    tensor.normal_(0.0, 0.3, generator=generator)
                    if name.endswith("running_var") or ("norm" in name and name.endswith("weight")):
                        tensor.abs_().add_(0.5)
        features = (
            Wav2Vec2FeatureExtractor(return_attention_mask=True)
            if family == "wav2vec2"
            else ParakeetFeatureExtractor(feature_size=MELS)
        )
        return Recognizer(model.double(), features, tokenizer_from_pieces(["<unk>", *"▁abcd"]))

    return make


@pytest.fixture(scope="session")
def save_conformer(
    make_recognizer: MakeRecognizer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """``save_conformer(width=32)``: a small random Conformer on disk, in single precision."""

    def save(**dimensions: int) -> Path:
        recognizer = make_recognizer("conformer", **dimensions)
        recognizer.model.float()
        folder = tmp_path_factory.mktemp("model")
        recognizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def record_noise(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``record_noise(1.0, 1.2)``: a folder with transcribed recordings of noise, that many seconds long."""

    def record(*seconds: float) -> Path:
        folder = tmp_path_factory.mktemp("speech")
        draw = np.random.default_rng(0)
        for number, each in enumerate(seconds):
            noise = draw.normal(scale=0.1, size=round(RATE * each))
            soundfile.write(folder / f"{number}.wav", noise, RATE)
            (folder / f"{number}.txt").write_text("abc dab", encoding="utf-8")
        return folder

    return record
