"""The Conformer against the definitions of its parts, and as a transformers model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCTC

import secateur.structure.checkpoint  # noqa: F401  (it makes the Conformer known to AutoModelForCTC)
from secateur.models.conformer import ConformerConfig, ConformerForCTC, relative_positions, relative_shift

FRAMES, BINS = 70, 16


def tiny(**settings: object) -> ConformerForCTC:
    """A random model in float64 whose norms and biases are random too, so that nothing hides behind a default."""
    dimensions: dict[str, object] = {
        "vocab_size": 11,
        "pad_token_id": 10,
        "num_mel_bins": BINS,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "intermediate_size": 24,
        "conv_kernel_size": 5,
        "subsampling_conv_channels": 6,
    }
    torch.manual_seed(0)
    model = ConformerForCTC(ConformerConfig(**dimensions | settings)).double().eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model


def features(*lengths: int, padding: float = 1e3) -> tuple[torch.Tensor, torch.Tensor]:
    """Random features of these lengths; what stands in the padding is large, to be seen if it leaks."""
    x = torch.randn(
        len(lengths), max(lengths), BINS, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.where(mask[..., None], x, padding), mask


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_the_relative_shift_aligns_scores_by_distance_with_keys(frames: int) -> None:
    scores = torch.randn(2, 3, frames, 2 * frames - 1)
    shifted = relative_shift(scores)
    assert shifted.shape == (2, 3, frames, frames)
    for query in range(frames):
        for key in range(frames):
            assert torch.equal(shifted[..., query, key], scores[..., query, frames - 1 - query + key])


def test_attention_is_the_sum_of_the_four_terms_of_transformer_xl() -> None:
    model = tiny()
    attention, frames = model.encoder.layers[0].self_attn, 6
    x = torch.randn(1, frames, 16, dtype=torch.float64)
    q, k, v = (
        proj(x)[0].view(frames, 4, 4) for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    table = {d: relative_positions(frames, 16)[frames - 1 - d].double() for d in range(1 - frames, frames)}
    out = torch.zeros(frames, 4, 4, dtype=torch.float64)
    for head in range(4):
        logits = torch.zeros(frames, frames, dtype=torch.float64)
        for i in range(frames):
            for j in range(frames):
                r = attention.relative_k_proj(table[i - j]).view(4, 4)[head]
                content = (q[i, head] + attention.bias_u[head]) @ k[j, head]
                position = (q[i, head] + attention.bias_v[head]) @ r
                logits[i, j] = (content + position) / 2
        out[:, head] = logits.softmax(-1) @ v[:, head]
    expected = attention.o_proj(out.flatten(1))
    actual = attention(x, relative_positions(frames, 16).double(), None)[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [(FRAMES,), (FRAMES, 33)])
def test_the_scaled_dot_product_kernel_agrees_with_plain_attention(lengths: tuple[int, ...]) -> None:
    model = tiny()
    x, mask = features(*lengths)
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    plain = model(x, mask).logits
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(model(x, mask).logits, plain, rtol=0, atol=1e-10)


@given(
    short=st.integers(1, FRAMES),
    subsampling=st.sampled_from(["striding", "dw_striding"]),
    factor=st.sampled_from([2, 4, 8]),
    norm=st.sampled_from(["batch_norm", "layer_norm"]),
    context=st.sampled_from(["symmetric", "causal"]),
    padding=st.sampled_from([0.0, 1e3, float("nan")]),
)
def test_an_utterance_has_the_same_logits_alone_and_beside_a_longer_one(
    short: int, subsampling: str, factor: int, norm: str, context: str, padding: float
) -> None:
    model = tiny(subsampling=subsampling, subsampling_factor=factor, conv_norm=norm, conv_context=context)
    x, mask = features(short, FRAMES, padding=padding)
    together = model(x, mask).logits[0]
    alone = model(x[:1, :short], mask[:1, :short]).logits[0]
    unmasked = model(x[:1, :short]).logits[0]
    frames = int(model._get_feat_extract_output_lengths(torch.tensor(short)))
    assert len(alone) == frames
    torch.testing.assert_close(together[:frames], alone, rtol=0, atol=1e-9)
    torch.testing.assert_close(unmasked, alone, rtol=0, atol=1e-9)


def test_the_norm_over_a_batch_learns_from_frames_and_not_from_padding() -> None:
    module = tiny().encoder.layers[0].conv.train()
    x_BTD = torch.randn(2, 12, module.norm.num_features, dtype=module.norm.weight.dtype)
    mask_BT = torch.arange(12) < torch.tensor([[12], [7]])
    outputs, statistics = [], []
    for padding in (0, 30):
        module.norm.reset_running_stats()
        longer = torch.nn.functional.pad(x_BTD, (0, 0, 0, padding))
        mask = torch.nn.functional.pad(mask_BT, (0, padding))
        outputs.append(module(longer, mask)[mask])
        statistics.append((module.norm.running_mean.clone(), module.norm.running_var.clone()))
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(statistics[0], statistics[1])


def test_a_causal_convolution_hears_no_later_frame() -> None:
    conv = tiny(conv_context="causal").encoder.layers[0].conv
    x = torch.randn(1, 12, 16, dtype=torch.float64)
    later = x.clone()
    later[:, 7:] += 1
    assert torch.equal(conv(x, None)[:, :7], conv(later, None)[:, :7])
    assert not torch.equal(conv(x, None)[:, 7:], conv(later, None)[:, 7:])


def test_the_loss_is_that_of_ctc_on_the_true_frames_and_ignores_padded_labels() -> None:
    model = tiny()
    x, mask = features(FRAMES, 40)
    labels = torch.tensor([[1, 2, 3], [4, 4, -100]])
    together = model(x, mask, labels=labels).loss
    alone = [
        model(x[:1], labels=labels[:1]).loss,
        model(x[1:, :40], mask[1:, :40], labels=labels[1:, :2]).loss,
    ]
    torch.testing.assert_close(together, sum(alone) / 2, rtol=1e-5, atol=1e-5)


def test_hidden_states_are_the_stream_before_the_first_and_after_every_layer() -> None:
    model = tiny()
    x, mask = features(FRAMES)
    out = model(x, mask, output_hidden_states=True)
    assert len(out.hidden_states) == 3
    assert torch.equal(model.ctc_head(out.hidden_states[-1]), out.logits)


def test_saved_and_loaded_in_a_new_process_it_gives_identical_logits(tmp_path: Path) -> None:
    model = tiny().float()
    x, mask = (tensor.float() if tensor.is_floating_point() else tensor for tensor in features(FRAMES, 40))
    with torch.inference_mode():
        expected = model(x, mask).logits
    model.save_pretrained(tmp_path / "model")
    torch.save({"x": x, "mask": mask}, tmp_path / "inputs.pt")
    code = (
        "import sys, torch, secateur.structure.checkpoint\n"
        "from transformers import AutoModelForCTC\n"
        "folder, inputs, out = sys.argv[1:]\n"
        "torch.set_num_threads(int(torch.get_num_threads()))\n"
        "data = torch.load(inputs)\n"
        "model = AutoModelForCTC.from_pretrained(folder)\n"
        "with torch.inference_mode():\n"
        "    torch.save(model(data['x'], data['mask']).logits, out)\n"
    )
    arguments = [str(tmp_path / name) for name in ("model", "inputs.pt", "logits.pt")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), expected)


def test_the_auto_class_builds_it_from_its_configuration() -> None:
    assert isinstance(AutoModelForCTC.from_config(tiny().config), ConformerForCTC)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"conv_norm": "group_norm"}, "conv_norm is 'group_norm'"),
        ({"subsampling_factor": 3}, "subsampling_factor is 3"),
        ({"num_attention_heads": 3}, "does not divide into 3 attention heads"),
        ({"conv_kernel_size": 30}, "conv_kernel_size 30 is even"),
    ],
)
def test_impossible_dimensions_are_refused_by_name(setting: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ConformerConfig(**setting)  # type: ignore[arg-type]
