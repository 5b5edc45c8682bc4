"""Reading NeMo archives: small ones made here, with everything that can be wrong with one."""

from __future__ import annotations

import copy
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import yaml
from transformers import ParakeetForCTC

from secateur.errors import SecateurError
from secateur.models.conformer import ConformerForCTC
from secateur.models.nemo import RENAMES, read_nemo
from secateur.models.vocabulary import tokenizer_from_pieces

PIECES = ["<unk>", "▁the", "▁c", "a", "t", "s", "▁"]

CONFIG: dict[str, Any] = {
    "target": "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE",
    "tokenizer": {"type": "bpe"},
    "preprocessor": {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "sample_rate": 16000,
        "normalize": "per_feature",
        "features": 16,
    },
    "encoder": {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": 16,
        "n_layers": 2,
        "d_model": 8,
        "n_heads": 2,
        "subsampling": "striding",
        "subsampling_factor": 4,
        "subsampling_conv_channels": 4,
        "self_attention_model": "rel_pos",
        "conv_kernel_size": 5,
        "xscaling": True,
    },
    "decoder": {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
        "num_classes": len(PIECES),
        "vocabulary": PIECES,
    },
}
FAST = {"subsampling": "dw_striding", "subsampling_factor": 8, "xscaling": False}


def edited(**sections: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    for name, value in sections.items():
        if isinstance(value, dict):
            config[name] = config.get(name, {}) | value
        else:
            config[name] = value
    return config


def nemo_weights(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Random weights under NeMo's names: ours, renamed back."""
    encoder, vocabulary = config["encoder"], len(config["decoder"]["vocabulary"])
    width, channels = encoder["d_model"], encoder["subsampling_conv_channels"]
    shapes: dict[str, tuple[int, ...]] = {"encoder.pre_encode.conv.0.weight": (channels, 1, 3, 3)}
    shapes["encoder.pre_encode.conv.0.bias"] = (channels,)
    if encoder["subsampling"] == "striding":
        shapes["encoder.pre_encode.conv.2.weight"] = (channels, channels, 3, 3)
        shapes["encoder.pre_encode.conv.2.bias"] = (channels,)
    else:
        for depthwise in (2, 5):
            shapes[f"encoder.pre_encode.conv.{depthwise}.weight"] = (channels, 1, 3, 3)
            shapes[f"encoder.pre_encode.conv.{depthwise + 1}.weight"] = (channels, channels, 1, 1)
            shapes |= {f"encoder.pre_encode.conv.{depthwise + i}.bias": (channels,) for i in (0, 1)}
    frequencies = config["preprocessor"]["features"] // encoder["subsampling_factor"]
    shapes["encoder.pre_encode.out.weight"] = (width, channels * frequencies)
    shapes["encoder.pre_encode.out.bias"] = (width,)
    for i in range(encoder["n_layers"]):
        layer = f"encoder.layers.{i}"
        for norm in ("norm_feed_forward1", "norm_self_att", "norm_conv", "norm_feed_forward2", "norm_out"):
            shapes |= {f"{layer}.{norm}.{part}": (width,) for part in ("weight", "bias")}
        for feed_forward in ("feed_forward1", "feed_forward2"):
            shapes[f"{layer}.{feed_forward}.linear1.weight"] = (4 * width, width)
            shapes[f"{layer}.{feed_forward}.linear1.bias"] = (4 * width,)
            shapes[f"{layer}.{feed_forward}.linear2.weight"] = (width, 4 * width)
            shapes[f"{layer}.{feed_forward}.linear2.bias"] = (width,)
        for name in ("q", "k", "v", "out"):
            shapes[f"{layer}.self_attn.linear_{name}.weight"] = (width, width)
            shapes[f"{layer}.self_attn.linear_{name}.bias"] = (width,)
        shapes[f"{layer}.self_attn.linear_pos.weight"] = (width, width)
        shapes |= {
            f"{layer}.self_attn.pos_bias_{b}": (encoder["n_heads"], width // encoder["n_heads"]) for b in "uv"
        }
        shapes[f"{layer}.conv.pointwise_conv1.weight"] = (2 * width, width, 1)
        shapes[f"{layer}.conv.pointwise_conv1.bias"] = (2 * width,)
        shapes[f"{layer}.conv.depthwise_conv.weight"] = (width, 1, encoder["conv_kernel_size"])
        shapes[f"{layer}.conv.pointwise_conv2.weight"] = (width, width, 1)
        shapes |= {f"{layer}.conv.{name}.bias": (width,) for name in ("depthwise_conv", "pointwise_conv2")}
        statistics = ("weight", "bias", "running_mean", "running_var")
        shapes |= {f"{layer}.conv.batch_norm.{name}": (width,) for name in statistics}
    shapes["decoder.decoder_layers.0.weight"] = (vocabulary + 1, width, 1)
    shapes["decoder.decoder_layers.0.bias"] = (vocabulary + 1,)
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    for i in range(encoder["n_layers"]):
        weights[f"encoder.layers.{i}.conv.batch_norm.num_batches_tracked"] = torch.tensor(3)
    return weights


def archive(
    path: Path,
    config: dict[str, Any],
    weights: Any = None,
    extra: dict[str, bytes] | None = None,
    mode: str = "w",
) -> Path:
    stream = io.BytesIO()
    torch.save(nemo_weights(config) if weights is None else weights, stream)
    files = {
        "./model_config.yaml": yaml.safe_dump(config).encode(),
        "./model_weights.ckpt": stream.getvalue(),
    }
    with tarfile.open(path, mode) as tar:
        for name, data in (files | (extra or {})).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_conformer_becomes_ours_with_every_weight_in_its_place(tmp_path: Path, mode: str) -> None:
    weights = nemo_weights(CONFIG)
    model, features, tokenizer = read_nemo(archive(tmp_path / "m.nemo", CONFIG, weights, mode=mode))
    assert isinstance(model, ConformerForCTC)
    assert not model.training
    assert (model.config.pad_token_id, len(tokenizer), features.feature_size) == (7, 8, 16)
    state = model.state_dict()
    assert torch.equal(
        state["encoder.layers.1.self_attn.k_proj.weight"],
        weights["encoder.layers.1.self_attn.linear_k.weight"],
    )
    assert torch.equal(state["ctc_head.weight"], weights["decoder.decoder_layers.0.weight"].squeeze(-1))
    assert len(state) == len(weights)
    assert tokenizer.decode([1, 7, 2, 3, 3, 4, 7, 4]) == "the catt"


def test_a_fast_conformer_becomes_a_parakeet_with_the_same_arithmetic_as_ours(tmp_path: Path) -> None:
    fast = edited(encoder=FAST)
    parakeet, _, _ = read_nemo(archive(tmp_path / "fast.nemo", fast))
    assert isinstance(parakeet, ParakeetForCTC)
    ours = ConformerForCTC(
        ConformerForCTC.config_class(
            vocab_size=8, pad_token_id=7, num_mel_bins=16, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, conv_kernel_size=5, subsampling="dw_striding", subsampling_factor=8,
            subsampling_conv_channels=4, scale_input=False,
        )
    ).eval()  # fmt: skip
    state = parakeet.state_dict()
    state["ctc_head.weight"] = state["ctc_head.weight"].squeeze(-1)
    ours.load_state_dict(state)
    x, mask = torch.randn(2, 40, 16), torch.arange(40) < torch.tensor([[40], [25]])
    x = x * mask[..., None]
    with torch.inference_mode():
        expected, actual = parakeet(x, mask).logits, ours(x, mask).logits
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actual[1, :4], expected[1, :4], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", ["EncDecHybridRNNTCTCBPEModel", "EncDecHybridRNNTCTCModel"])
def test_of_a_hybrid_with_a_transducer_the_ctc_head_is_read(tmp_path: Path, target: str) -> None:
    weights = nemo_weights(CONFIG)
    hybrid = {f"ctc_{name}" if name.startswith("decoder.") else name: each for name, each in weights.items()}
    hybrid["decoder.prediction.embed.weight"] = torch.rand(8, 6)
    hybrid["joint.joint_net.2.bias"] = torch.rand(8)
    config = edited(target=f"nemo.x.{target}", aux_ctc={"ctc_loss_weight": 0.3, "decoder": CONFIG["decoder"]})
    config["decoder"] = {
        "_target_": "nemo.collections.asr.modules.RNNTDecoder",
        "prednet": {"pred_hidden": 6},
    }
    model, _, tokenizer = read_nemo(archive(tmp_path / "hybrid.nemo", config, hybrid))
    alone, _, pieces = read_nemo(archive(tmp_path / "ctc.nemo", CONFIG, weights))
    assert tokenizer.get_vocab() == pieces.get_vocab()
    for (name, ours), (_, theirs) in zip(model.state_dict().items(), alone.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name
    del config["aux_ctc"]
    with pytest.raises(SecateurError, match=r"has no aux_ctc\.decoder"):
        read_nemo(archive(tmp_path / "none.nemo", config, hybrid))


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_sentencepiece_model_in_the_archive_spells_the_texts(tmp_path: Path, kind: str) -> None:
    text, model = tmp_path / "text", io.BytesIO()
    text.write_text("the cat sat\nthe cats sat at the cat\nthat chat has a taste, eh\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_writer=model, vocab_size=20, model_type=kind, minloglevel=2
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(20)]
    config = edited(
        decoder={"vocabulary": pieces, "num_classes": 20},
        tokenizer={"type": "bpe", "model_path": "nemo:0f_tokenizer.model"},
    )
    path = archive(tmp_path / "m.nemo", config, extra={"./0f_tokenizer.model": model.getvalue()})
    _, _, tokenizer = read_nemo(path)
    for sentence in (
        "the cat sat",
        "cats at the cat",
        "that taste has a cat",
        "he eats the chat",
        "a hat as the",
    ):
        ids = tokenizer.encode(sentence)
        assert ids == processor.encode(sentence)
        assert tokenizer.decode(ids, group_tokens=False) == sentence


def test_a_character_model_spells_with_its_labels(tmp_path: Path) -> None:
    labels = [" ", "a", "b", "'"]
    config = edited(
        target="nemo.collections.asr.models.ctc_models.EncDecCTCModel",
        decoder={"vocabulary": labels, "num_classes": 4},
        tokenizer=None,
    )
    _, _, tokenizer = read_nemo(archive(tmp_path / "m.nemo", config))
    ids = tokenizer.encode("ab 'a")
    assert ids == [1, 2, 0, 3, 1]
    assert tokenizer.decode(ids, group_tokens=False) == "ab 'a"


@pytest.mark.parametrize(
    ("settings", "n_fft"),
    [
        ({}, 512),
        ({"window_size": 0.04}, 1024),
        ({"sample_rate": 8000, "n_fft": None}, 256),
        ({"n_fft": 1024}, 1024),
    ],
)
def test_the_transform_is_as_long_as_the_window_asks_unless_the_archive_says_it(
    tmp_path: Path, settings: dict[str, Any], n_fft: int
) -> None:
    _, features, _ = read_nemo(archive(tmp_path / "m.nemo", edited(preprocessor=settings)))
    assert features.n_fft == n_fft
    assert features.mel_filters.shape == (16, n_fft // 2 + 1)


@pytest.mark.parametrize("shape", [(1, 16, 257), (1, 16, 129), (16, 257), (1, 80, 257)])
def test_mel_filters_of_another_make_or_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    weights = nemo_weights(CONFIG) | {"preprocessor.featurizer.fb": torch.ones(shape)}
    with pytest.raises(SecateurError, match="mel filters are not the Slaney filters"):
        read_nemo(archive(tmp_path / "m.nemo", CONFIG, weights))


@pytest.mark.parametrize(
    ("settings", "window", "hop"),
    [
        ({}, 320, 160),
        ({"window_size": 0.025}, 400, 160),
        (
            {"window_size": None, "n_window_size": 512, "window_stride": None, "n_window_stride": 128},
            512,
            128,
        ),
    ],
)
def test_lengths_that_an_archive_does_not_give_in_seconds_are_in_samples_or_those_of_nemo(
    tmp_path: Path, settings: dict[str, Any], window: int, hop: int
) -> None:
    config = edited(preprocessor=settings)
    weights = nemo_weights(config) | {
        "preprocessor.featurizer.window": torch.hann_window(window, periodic=False)
    }
    _, features, _ = read_nemo(archive(tmp_path / "m.nemo", config, weights))
    assert (features.win_length, features.hop_length) == (window, hop)


@pytest.mark.parametrize("window", [torch.hann_window(400, periodic=False), torch.ones(320)])
def test_a_window_of_another_length_or_shape_is_refused(tmp_path: Path, window: torch.Tensor) -> None:
    weights = nemo_weights(CONFIG) | {"preprocessor.featurizer.window": window}
    with pytest.raises(SecateurError, match="its window is not that of 320 samples"):
        read_nemo(archive(tmp_path / "m.nemo", CONFIG, weights))


def test_every_renamed_tensor_is_in_the_table_once() -> None:
    assert len({pattern for pattern, _ in RENAMES}) == len(RENAMES)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (
            edited(target="nemo.x.EncDecRNNTBPEModel"),
            "holds a EncDecRNNTBPEModel; supported are EncDecCTCModel",
        ),
        (
            edited(encoder={"_target_": "a.SqueezeformerEncoder"}),
            "encoder._target_ is 'SqueezeformerEncoder'",
        ),
        (edited(encoder={"self_attention_model": "abs_pos"}), "self_attention_model is 'abs_pos'"),
        (edited(encoder={"att_context_size": [70, 1]}), r"att_context_size is \[70, 1\]"),
        (edited(encoder={"untie_biases": False}), "untie_biases is False"),
        (edited(encoder={"causal_downsampling": True}), "causal_downsampling is True"),
        (edited(preprocessor={"normalize": "all_features"}), "normalize is 'all_features'"),
        (
            edited(preprocessor={"log_zero_guard_value": 1e-5}),
            "log_zero_guard_value is 1e-05; supported: 5.96.*e-08",
        ),
        (edited(tokenizer={"type": "wpe"}), "tokenizer.type is 'wpe'"),
        (edited(decoder={"num_classes": 5}), "the vocabulary has 7 pieces, the decoder 5 classes"),
        (edited(decoder={"vocabulary": PIECES[:-1]}), "the vocabulary has 6 pieces"),
        (edited(decoder={"vocabulary": ["a", *PIECES[1:]]}), "lists 'a' more than once"),
        (edited(encoder={"n_layers": 3}), "lacks encoder.layers.2"),
        (edited(encoder={"n_layers": 1}), "has encoder.layers.1"),
        (
            edited(encoder={"subsampling_conv_channels": 5}),
            "is .* in the checkpoint, .* by its configuration",
        ),
        (edited(encoder=None), "has no encoder section"),
        (
            CONFIG | {"encoder": {k: v for k, v in CONFIG["encoder"].items() if k != "d_model"}},
            "model_config.yaml makes no sense .it has no 'd_model'",
        ),
        (edited(encoder={"n_layers": "${n}"}), "model_config.yaml makes no sense .invalid literal for int"),
        (edited(encoder={"n_heads": 3}), "makes no sense .hidden_size 8 does not divide into 3"),
        (edited(tokenizer="bpe"), "model_config.yaml makes no sense ."),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    tmp_path: Path, config: dict[str, Any], complaint: str
) -> None:
    path = archive(tmp_path / "m.nemo", config, nemo_weights(CONFIG))
    with pytest.raises(SecateurError, match=complaint) as caught:
        read_nemo(path)
    assert "\n" not in str(caught.value)


def test_a_member_that_points_out_of_the_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.nemo", CONFIG, extra={"../../evil.txt": b"x"})
    with pytest.raises(SecateurError, match="outside of the archive"):
        read_nemo(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.nemo"]


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (exec, ("raise SystemExit",))


@pytest.mark.parametrize("weights", [Trap(), [1, 2], {"a": 1}])
def test_a_checkpoint_that_is_not_a_state_dict_is_refused_and_not_run(
    tmp_path: Path, weights: object
) -> None:
    with pytest.raises(SecateurError, match="state dict"):
        read_nemo(archive(tmp_path / "m.nemo", CONFIG, weights))


@pytest.mark.parametrize(
    ("member", "content", "complaint"),
    [
        ("model_config.yaml", b"a: 2020-13-45", "model_config.yaml is damaged: month must be"),
        ("model_config.yaml", b"[" * 5000, "model_config.yaml is damaged"),
        # An opcode that takes from an empty stack.
        ("model_weights.ckpt", b"\x80\x02s.", "model_weights.ckpt is damaged"),
    ],
)
def test_a_damaged_member_is_one_sentence(
    tmp_path: Path, member: str, content: bytes, complaint: str
) -> None:
    path = archive(tmp_path / "m.nemo", CONFIG)
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo(member)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(SecateurError, match=complaint) as caught:
        read_nemo(path)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_what_was_written_are_refused(tmp_path: Path) -> None:
    """PyTorch reads them as if nothing was wrong."""
    path = archive(tmp_path / "m.nemo", CONFIG)
    data = bytearray(path.read_bytes())
    number = nemo_weights(CONFIG)["encoder.layers.0.feed_forward1.linear1.weight"][3, :4].numpy().tobytes()
    data[data.index(number)] ^= 1
    path.write_bytes(data)
    with pytest.raises(SecateurError, match="model_weights.ckpt is damaged"):
        read_nemo(path)


def test_a_piece_with_the_name_of_the_blank_is_refused() -> None:
    with pytest.raises(SecateurError, match="has a piece '<pad>'"):
        tokenizer_from_pieces(["<unk>", "▁a", "<pad>", "b"], merges=True)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("kept", [0.3, 0.6])
def test_a_truncated_archive_is_one_sentence(tmp_path: Path, mode: str, kept: float) -> None:
    path = archive(tmp_path / "m.nemo", CONFIG, mode=mode)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(SecateurError, match=r"cut short or damaged|no NeMo archive"):
        read_nemo(path)


@pytest.mark.parametrize("data", [b"", b"RIFF....WAVE", b"\x1f\x8bnot gzip"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.nemo"
    path.write_bytes(data)
    with pytest.raises(SecateurError, match="no NeMo archive"):
        read_nemo(path)
