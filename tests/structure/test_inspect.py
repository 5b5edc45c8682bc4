from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    ParakeetForCTC,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)

from secateur.errors import SecateurError
from secateur.models.conformer import ConformerConfig, ConformerForCTC
from secateur.recognizer import load
from secateur.structure import counting
from secateur.structure.inspect import inspect

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}


def conformer() -> ConformerForCTC:
    return ConformerForCTC(
        ConformerConfig(
            vocab_size=5, pad_token_id=4, subsampling_conv_channels=4, conv_kernel_size=5, **SIZES
        )
    )


def parakeet() -> ParakeetForCTC:
    encoder = ParakeetEncoderConfig(subsampling_conv_channels=4, conv_kernel_size=5, **SIZES)
    return ParakeetForCTC(ParakeetCTCConfig(vocab_size=5, pad_token_id=4, encoder_config=encoder))


def wav2vec2() -> Wav2Vec2ForCTC:
    return Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=5,
            pad_token_id=4,
            conv_dim=(8,) * 7,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            **SIZES,
        )
    )


FAMILIES = pytest.mark.parametrize("build", [conformer, parakeet, wav2vec2])


@FAMILIES
def test_the_kinds_share_out_the_whole_model(build) -> None:
    inspection = inspect(build().eval(), seconds=1.0, runs=1)
    kinds = inspection.kinds.values()
    assert sum(kind.params for kind in kinds) == inspection.params == counting.parameters(build())
    assert sum(kind.macs for kind in kinds) == inspection.root.macs
    assert sum(kind.ms for kind in kinds) == pytest.approx(inspection.root.ms)


@FAMILIES
def test_everything_that_multiplies_has_a_kind(build) -> None:
    inspection = inspect(build().eval(), seconds=1.0, measure=False)
    assert {"front-end", "feed-forward", "attention", "norms", "head"} <= set(inspection.kinds)
    assert "other" not in inspection.kinds or inspection.kinds["other"].macs == 0
    assert ("convolution" in inspection.kinds) == (build is not wav2vec2)


@FAMILIES
def test_a_part_takes_no_longer_than_what_holds_it(build) -> None:
    root = inspect(build().eval(), seconds=1.0, runs=3).root
    assert root.ms > 0
    for part in root.walk():
        assert sum(child.params for child in part.children) <= part.params
        assert sum(child.macs for child in part.children) <= part.macs
        assert part.ms is None or part.ms <= root.ms


def test_json_has_every_part_with_its_figures() -> None:
    figures = json.loads(json.dumps(inspect(conformer().eval(), seconds=2.0, runs=1).to_json()))
    assert figures["params"] == counting.parameters(conformer())
    assert figures["macs_per_second"] == counting.macs(conformer(), 2.0) / 2.0
    parts = {part["name"]: part for part in figures["parts"]}
    assert {"encoder.subsampling", "encoder.layers.2.self_attn.q_proj", "ctc_head"} <= parts.keys()
    head = parts["ctc_head"]
    assert (head["kind"], head["params"], head["macs"]) == ("head", 16 * 5 + 5, 50 * 16 * 5)
    assert head["params_share"] == head["params"] / figures["params"]
    assert head["ms"] > 0


def test_without_measuring_there_are_no_milliseconds() -> None:
    figures = inspect(conformer().eval(), seconds=1.0, measure=False).to_json()
    assert figures["ms"] is None
    assert all(part["ms"] is None for part in figures["parts"])


def test_inspecting_leaves_the_model_and_the_threads_as_they_were() -> None:
    model, before = conformer().eval(), torch.get_num_threads()
    assert inspect(model, seconds=1.0, threads=before + 1, runs=1).threads == before + 1
    assert torch.get_num_threads() == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@FAMILIES
def test_audio_too_short_for_a_frame_is_refused(build) -> None:
    with pytest.raises(SecateurError, match=r"0\.001 s of audio are too short"):
        inspect(build().eval(), seconds=0.001)


def test_the_front_end_of_the_real_conformer_has_close_to_30_percent_of_the_macs(shared: Path) -> None:
    inspection = inspect(load(shared / "models" / "conformer-ctc-small.nemo").model, measure=False)
    assert inspection.params == 13_154_033
    assert inspection.kinds["front-end"].macs / inspection.root.macs == pytest.approx(0.30, abs=0.02)
