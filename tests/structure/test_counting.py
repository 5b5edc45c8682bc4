from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import (
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    ParakeetForCTC,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    Wav2Vec2ConformerForCTC,
    Wav2Vec2ForCTC,
)

from secateur.models.conformer import ConformerConfig, ConformerForCTC
from secateur.structure import counting


@dataclass(frozen=True)
class Conformer:
    """The closed form: the dimensions of a Conformer-CTC, and what they cost by the paper's formulas."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    kernel: int
    factor: int
    channels: int
    separable: bool
    vocabulary: int
    mels: int = 80
    bias: bool = True

    def stages(self, frames: int) -> list[tuple[int, int]]:
        """Frames and frequencies after each stride-2, 3 x 3 convolution padded by one."""
        sizes, frequencies = [], self.mels
        for _ in range(self.factor.bit_length() - 1):
            frames, frequencies = (frames - 1) // 2 + 1, (frequencies - 1) // 2 + 1
            sizes.append((frames, frequencies))
        return sizes

    def parameters(self) -> int:
        d, c, f, b = self.width, self.channels, self.feed_forward, int(self.bias)
        stages = self.stages(1)
        later = (9 * c + c) + (c * c + c) if self.separable else 9 * c * c + c
        front_end = (9 * c + c) + (len(stages) - 1) * later + c * stages[-1][1] * d + d
        one_feed_forward = d * f + b * f + f * d + b * d
        attention = 4 * (d * d + b * d) + d * d + 2 * d
        convolution = (d * 2 * d + b * 2 * d) + (d * self.kernel + b * d) + 2 * d + (d * d + b * d)
        layer = 2 * one_feed_forward + attention + convolution + 5 * 2 * d
        return front_end + self.layers * layer + d * self.vocabulary + self.vocabulary

    def macs(self, frames: int) -> int:
        d, c = self.width, self.channels
        stages = self.stages(frames)
        positions = [t * f for t, f in stages]
        later = 9 * c + c * c if self.separable else 9 * c * c
        t, frequencies = stages[-1]
        front_end = positions[0] * 9 * c + sum(positions[1:]) * later + t * c * frequencies * d
        distances = 2 * t - 1
        feed_forwards = 2 * 2 * t * d * self.feed_forward
        attention = 4 * t * d * d + distances * d * d + t * t * d + t * distances * d + t * t * d
        convolution = t * d * 2 * d + t * d * self.kernel + t * d * d
        return front_end + self.layers * (feed_forwards + attention + convolution) + t * d * self.vocabulary


SHAPES = st.builds(
    lambda per_head, heads, **others: Conformer(width=per_head * heads, heads=heads, **others),
    per_head=st.sampled_from([4, 6, 8]),
    heads=st.integers(1, 4),
    layers=st.integers(1, 3),
    feed_forward=st.integers(1, 40),
    kernel=st.sampled_from([1, 5, 9, 31]),
    factor=st.sampled_from([2, 4, 8]),
    channels=st.integers(1, 12),
    separable=st.booleans(),
    vocabulary=st.integers(2, 40),
    bias=st.booleans(),
)


def our_conformer(shape: Conformer, **settings: object) -> ConformerForCTC:
    return ConformerForCTC(
        ConformerConfig(
            vocab_size=shape.vocabulary,
            pad_token_id=shape.vocabulary - 1,
            num_mel_bins=shape.mels,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.feed_forward,
            conv_kernel_size=shape.kernel,
            subsampling="dw_striding" if shape.separable else "striding",
            subsampling_factor=shape.factor,
            subsampling_conv_channels=shape.channels,
            use_bias=shape.bias,
            **settings,
        )
    )


def parakeet(shape: Conformer) -> ParakeetForCTC:
    encoder = ParakeetEncoderConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        conv_kernel_size=shape.kernel,
        subsampling_factor=shape.factor,
        subsampling_conv_channels=shape.channels,
        attention_bias=shape.bias,
        convolution_bias=shape.bias,
    )
    return ParakeetForCTC(
        ParakeetCTCConfig(
            vocab_size=shape.vocabulary, pad_token_id=shape.vocabulary - 1, encoder_config=encoder
        )
    )


SMALL = Conformer(
    width=16,
    layers=2,
    heads=2,
    feed_forward=24,
    kernel=9,
    factor=4,
    channels=8,
    separable=False,
    vocabulary=11,
)
REAL = Conformer(
    width=176,
    layers=16,
    heads=4,
    feed_forward=704,
    kernel=31,
    factor=4,
    channels=176,
    separable=False,
    vocabulary=1025,
)


@given(shape=SHAPES, frames=st.integers(1, 150))
def test_a_conformer_counts_what_the_closed_form_says_to_the_unit(shape: Conformer, frames: int) -> None:
    model = our_conformer(shape)
    assert counting.parameters(model) == shape.parameters()
    assert counting.macs(model, frames / 100) == shape.macs(frames)


@pytest.mark.parametrize(
    "settings", [{"conv_context": "causal"}, {"conv_norm": "layer_norm"}, {"scale_input": False}], ids=str
)
def test_causal_convolution_layer_norm_and_scaling_cost_the_same(settings: dict[str, object]) -> None:
    model = our_conformer(SMALL, **settings)
    assert counting.parameters(model) == SMALL.parameters()
    assert counting.macs(model, 1.0) == SMALL.macs(100)


@given(shape=SHAPES.map(lambda s: Conformer(**{**vars(s), "separable": True})), frames=st.integers(1, 150))
def test_parakeet_counts_what_the_closed_form_says_to_the_unit(shape: Conformer, frames: int) -> None:
    model = parakeet(shape)
    assert counting.parameters(model) == shape.parameters()
    assert counting.macs(model, frames / 100) == shape.macs(frames)


def test_wav2vec2_counts_what_the_closed_form_says_to_the_unit() -> None:
    d, f, c, layers, vocabulary, taps, groups = 32, 48, 12, 2, 20, 16, 4
    kernels, strides = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
    model = Wav2Vec2ForCTC(
        Wav2Vec2Config(
            hidden_size=d,
            intermediate_size=f,
            conv_dim=(c,) * 7,
            num_hidden_layers=layers,
            num_attention_heads=4,
            vocab_size=vocabulary,
            num_conv_pos_embeddings=taps,
            num_conv_pos_embedding_groups=groups,
        )
    )
    extractor = 10 * c + sum(kernels[1:]) * c * c + 2 * c
    projection = 2 * c + c * d + d
    # Weight norm: a gain for each tap beside the direction. One more vector replaces masked frames in training.
    positions = taps * d * d // groups + taps + d
    layer = 4 * (d * d + d) + d * f + f + f * d + d + 2 * 2 * d
    head = d * vocabulary + vocabulary
    assert (
        counting.parameters(model) == extractor + projection + positions + layers * layer + 2 * d + d + head
    )

    t, expected, inputs = 8000, 0, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        t = (t - kernel) // stride + 1
        expected += t * kernel * inputs * c
        inputs = c
    expected += t * c * d
    expected += (
        (t + 1) * taps * d * d // groups
    )  # an even kernel makes one frame too many, cut off afterwards
    expected += layers * (4 * t * d * d + 2 * t * t * d + 2 * t * d * f) + t * d * vocabulary
    assert counting.macs(model, 0.5) == expected


def test_the_front_end_of_the_small_conformer_has_close_to_30_percent_of_the_macs() -> None:
    by_module = counting.macs_by_module(our_conformer(REAL), 10.0)
    assert by_module[""] == REAL.macs(1000)
    assert by_module["encoder.subsampling"] / by_module[""] == pytest.approx(0.30, abs=0.02)


def test_the_parts_of_a_layer_add_up_to_the_layer() -> None:
    by_module = counting.macs_by_module(our_conformer(SMALL), 1.0)
    layer = "encoder.layers.1"
    parts = ("feed_forward1", "self_attn", "conv", "feed_forward2")
    assert by_module[layer] == sum(by_module[f"{layer}.{part}"] for part in parts)
    assert by_module[""] == by_module["encoder"] + by_module["ctc_head"]


def test_layers_sliced_differently_are_counted_as_they_are() -> None:
    model = our_conformer(SMALL)
    before, parameters = counting.macs(model, 1.0), counting.parameters(model)
    frames, d = SMALL.stages(100)[-1][0], SMALL.width

    narrow = model.encoder.layers[0].feed_forward1
    narrow.linear1, narrow.linear2 = nn.Linear(d, 5), nn.Linear(5, d)
    attention, kept = model.encoder.layers[1].self_attn, SMALL.width // SMALL.heads
    attention.num_heads = 1
    for name in ("q_proj", "k_proj", "v_proj"):
        setattr(attention, name, nn.Linear(d, kept))
    attention.relative_k_proj, attention.o_proj = nn.Linear(d, kept, bias=False), nn.Linear(kept, d)
    attention.bias_u = nn.Parameter(torch.zeros(1, kept))
    attention.bias_v = nn.Parameter(torch.zeros(1, kept))

    gone = SMALL.feed_forward - 5
    assert parameters - counting.parameters(model) == (
        gone * (2 * d + 1) + 5 * d * (d - kept) + 3 * (d - kept) + 2 * (d - kept)
    )
    distances = 2 * frames - 1
    assert before - counting.macs(model, 1.0) == 2 * frames * d * gone + (d - kept) * (
        4 * frames * d + distances * d + 2 * frames**2 + frames * distances
    )


def test_what_a_forward_pass_left_behind_is_in_nobodys_way() -> None:
    config = Wav2Vec2ConformerConfig(
        vocab_size=6, pad_token_id=0, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        conv_dim=(8,) * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, position_embeddings_type="rotary",
    )  # fmt: skip
    model = Wav2Vec2ConformerForCTC(config).eval()
    before = counting.macs(model, 2.0)
    with torch.no_grad():
        model(torch.zeros(1, 32000))
    assert counting.macs(model, 2.0) == before


def test_counting_leaves_the_model_as_it_was() -> None:
    model = our_conformer(SMALL).train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attention = model.config._attn_implementation
    counting.macs(model, 1.0)
    assert model.training
    assert model.config._attn_implementation == attention
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_a_model_too_large_for_memory_is_counted_on_the_meta_device() -> None:
    shape = Conformer(
        width=4096,
        layers=2,
        heads=8,
        feed_forward=1_000_000,
        kernel=9,
        factor=8,
        channels=256,
        separable=True,
        vocabulary=1025,
    )
    with torch.device("meta"):
        model = parakeet(shape)
    assert counting.parameters(model) == shape.parameters()
    assert counting.macs(model, 10.0) == shape.macs(1000)


def test_parameters_that_two_modules_share_count_once() -> None:
    first = nn.Linear(3, 4)
    second = nn.Linear(3, 4)
    second.weight = first.weight
    assert counting.parameters(nn.Sequential(first, second)) == 12 + 4 + 4
