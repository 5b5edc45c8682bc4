"""Reader of NeMo archives: Conformer-CTC to our Conformer, FastConformer-CTC to transformers' Parakeet."""

from __future__ import annotations

import gzip
import io
import lzma
import math
import re
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
import yaml
from torch import Tensor
from transformers import (
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    ParakeetTokenizer,
    PreTrainedModel,
)

from secateur.errors import SecateurError, reason
from secateur.files import check_sums
from secateur.models.conformer import ConformerConfig, ConformerForCTC
from secateur.models.vocabulary import tokenizer_from_pieces, tokenizer_from_sentencepiece

HYBRIDS = ("EncDecHybridRNNTCTCModel", "EncDecHybridRNNTCTCBPEModel")
"""Classes with a transducer and a CTC head on one encoder."""
SUPPORTED = "EncDecCTCModel, EncDecCTCModelBPE, and the CTC heads of their hybrids with transducers"

# NeMo's names of modules, in the order in which they are rewritten, against ours (and Parakeet's).
RENAMES = (
    (r"^decoder\.decoder_layers\.0\.", "ctc_head."),
    (r"^encoder\.pre_encode\.conv\.", "encoder.subsampling.layers."),
    (r"^encoder\.pre_encode\.out\.", "encoder.subsampling.linear."),
    (r"\.self_attn\.linear_([qkv])\.", r".self_attn.\1_proj."),
    (r"\.self_attn\.linear_out\.", ".self_attn.o_proj."),
    (r"\.self_attn\.linear_pos\.", ".self_attn.relative_k_proj."),
    (r"\.self_attn\.pos_bias_([uv])$", r".self_attn.bias_\1"),
    (r"\.conv\.batch_norm\.", ".conv.norm."),
)
# Tensors of an archive that are not weights of the network.
NOT_WEIGHTS = re.compile(r"^(preprocessor\.|spec_augmentation\.|loss\.|wer\.|_wer\.|encoder\.pos_enc\.)")


def read_nemo(path: Path) -> tuple[PreTrainedModel, ParakeetFeatureExtractor, ParakeetTokenizer]:
    """Read a ``.nemo`` archive (a tar, plain or compressed) in memory; nothing is unpacked to disk.

    Returns:
        The model in evaluation mode with float32 weights, its feature extractor and its tokenizer.

    Raises:
        SecateurError: the file is no archive, is damaged, or holds a model or setting that is not supported.
    """
    files = _archive_files(path)
    config = _yaml(path, files)
    kind = str(config.get("target", "no class")).rsplit(".", 1)[-1]
    if kind not in ("EncDecCTCModel", "EncDecCTCModelBPE", *HYBRIDS):
        raise SecateurError(f"{path} holds a {kind}; supported are {SUPPORTED}")
    weights = _weights(path, files)
    if kind in HYBRIDS:
        config, weights = _ctc_half(path, config, weights)
    for part in ("preprocessor", "encoder", "decoder"):
        if not isinstance(config.get(part), dict):
            raise SecateurError(
                f"{path}: model_config.yaml has no {part} section, so the model cannot be built"
            )
    try:
        model, features, tokenizer = _built(path, config, files, weights)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else reason(error)
        raise SecateurError(f"{path}: model_config.yaml makes no sense ({what})") from None
    _load_weights(path, model, weights)
    return model.eval(), features, tokenizer


def _built(
    path: Path, config: dict[str, Any], files: dict[str, bytes], weights: dict[str, Tensor]
) -> tuple[PreTrainedModel, ParakeetFeatureExtractor, ParakeetTokenizer]:
    """What the settings describe, its weights still random."""
    tokenizer = _tokenizer(path, config, files)
    blank = len(tokenizer) - 1
    classes = config["decoder"].get("num_classes")
    head = weights.get("decoder.decoder_layers.0.bias")
    if classes not in (blank, -1, None) or (head is not None and len(head) != blank + 1):
        rows = "no" if head is None else len(head)
        raise SecateurError(
            f"{path}: the vocabulary has {blank} pieces, the decoder {classes} classes and {rows} output rows; "
            "they must be n, n and n + 1 (the blank)"
        )
    features = _feature_extractor(path, config["preprocessor"], weights)
    return _model(path, config, blank), features, tokenizer


def _ctc_half(
    path: Path, config: dict[str, Any], weights: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a hybrid would be without its transducer: its auxiliary CTC head is the decoder."""
    auxiliary = config.get("aux_ctc")
    head = auxiliary.get("decoder") if isinstance(auxiliary, dict) else None
    if not isinstance(head, dict):
        raise SecateurError(
            f"{path}: model_config.yaml has no aux_ctc.decoder, so there is no CTC head to take"
        )
    kept = {
        name.removeprefix("ctc_"): tensor
        for name, tensor in weights.items()
        if not name.startswith(("decoder.", "joint."))
    }
    return config | {"decoder": head}, kept


def _archive_files(path: Path) -> dict[str, bytes]:
    """The archive's regular files by base name; members that point out of the archive are refused."""
    files = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise SecateurError(
                        f"{path} has a member outside of the archive ({member.name}); not reading it"
                    )
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None:
                    files[name.name] = stream.read()
                    if len(files[name.name]) != member.size:
                        raise EOFError
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        why = "is cut short or damaged" if files else "is no NeMo archive (a tar, plain or gzip)"
        raise SecateurError(f"{path} {why}; get the file again") from error
    except OSError as error:
        raise SecateurError(f"{path} cannot be read: {error.strerror or error}") from None
    return files


def _yaml(path: Path, files: dict[str, bytes]) -> dict[str, Any]:
    if "model_config.yaml" not in files:
        raise SecateurError(f"{path} holds no model_config.yaml, so it is not a NeMo archive")
    try:
        config = yaml.safe_load(files["model_config.yaml"])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SecateurError(f"{path}: model_config.yaml is damaged: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise SecateurError(f"{path}: model_config.yaml is not a mapping")
    return config


def _weights(path: Path, files: dict[str, bytes]) -> dict[str, Tensor]:
    data = files.get("model_weights.ckpt")
    if data is None:
        raise SecateurError(f"{path} holds no model_weights.ckpt, so there are no weights to load")
    try:
        if is_zipfile(io.BytesIO(data)):
            check_sums(io.BytesIO(data))
        weights = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as any error of two parsers
        raise SecateurError(f"{path}: model_weights.ckpt is damaged or is not a plain state dict") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise SecateurError(f"{path}: model_weights.ckpt is not a state dict of tensors")
    return weights


def _tokenizer(path: Path, config: dict[str, Any], files: dict[str, bytes]) -> ParakeetTokenizer:
    vocabulary = config["decoder"].get("vocabulary") or config.get("labels")
    settings = config.get("tokenizer") or {}
    if settings.get("type", "bpe") not in ("bpe", "agg"):
        raise SecateurError(
            f"{path}: tokenizer.type is {settings['type']!r}; supported are bpe and characters"
        )
    if settings.get("type") == "agg":
        raise SecateurError(
            f"{path} has an aggregate of tokenizers, which is not supported; supported is one bpe"
        )
    named = str(settings.get("model_path") or "").removeprefix("nemo:")
    sentencepiece = files.get(named) or next((files[name] for name in files if name.endswith(".model")), None)
    if sentencepiece is not None:
        return tokenizer_from_sentencepiece(sentencepiece)
    if not vocabulary:
        raise SecateurError(
            f"{path} has neither a SentencePiece model nor decoder.vocabulary; texts cannot be spelled"
        )
    return tokenizer_from_pieces([str(piece) for piece in vocabulary])


def _feature_extractor(
    path: Path, config: dict[str, Any], weights: dict[str, Tensor]
) -> ParakeetFeatureExtractor:
    _refuse_others(
        path,
        "preprocessor",
        config,
        _target_=("AudioToMelSpectrogramPreprocessor",),
        normalize=("per_feature",),
        window=("hann",),
        log=(True,),
        frame_splicing=(1,),
        mag_power=(2, 2.0),
        log_zero_guard_type=("add",),
        log_zero_guard_value=(2**-24,),
        lowfreq=(0,),
        highfreq=(None,),
        mel_norm=("slaney",),
        exact_pad=(False,),
    )
    rate = int(config.get("sample_rate", 16000))
    # What an archive does not say has NeMo's default.
    window = _samples(config, "window_size", 0.02, rate)
    features = ParakeetFeatureExtractor(
        feature_size=int(config.get("features", 64)),
        sampling_rate=rate,
        hop_length=_samples(config, "window_stride", 0.01, rate),
        win_length=window,
        # NeMo's default: the next power of two.
        n_fft=int(config.get("n_fft") or 2 ** math.ceil(math.log2(window))),
        preemphasis=config.get("preemph", 0.97),
    )
    filters, shape = weights.get("preprocessor.featurizer.fb"), (1, *features.mel_filters.shape)
    if filters is not None and (
        tuple(filters.shape) != shape or not np.allclose(filters[0], features.mel_filters, atol=1e-5)
    ):
        raise SecateurError(
            f"{path}: its mel filters are not the Slaney filters that Secateur would hear with"
        )
    shown, hann = weights.get("preprocessor.featurizer.window"), torch.hann_window(window, periodic=False)
    if shown is not None and (
        shown.shape != hann.shape or not torch.allclose(shown.float(), hann, atol=1e-3)
    ):
        raise SecateurError(
            f"{path}: its window is not that of {window} samples which its configuration asks for"
        )
    return features


def _samples(config: dict[str, Any], name: str, default: float, rate: int) -> int:
    """A length, which an archive gives in seconds or in samples."""
    return int(config.get(f"n_{name}") or float(config.get(name) or default) * rate)


def _model(path: Path, config: dict[str, Any], blank: int) -> PreTrainedModel:
    encoder = config["encoder"]
    _refuse_others(
        path,
        "encoder",
        encoder,
        _target_=("ConformerEncoder",),
        self_attention_model=("rel_pos",),
        untie_biases=(True,),
        att_context_size=(None, [-1, -1]),
        att_context_style=("regular",),
        subsampling=("striding", "dw_striding"),
        subsampling_factor=(2, 4, 8),
        causal_downsampling=(False,),
        reduction=(None,),
        conv_norm_type=("batch_norm", "layer_norm"),
        conv_context_size=(None, "causal"),
        global_tokens=(0,),
        feat_out=(-1, None),
    )
    _refuse_others(path, "decoder", config["decoder"], _target_=("ConvASRDecoder",))
    width = int(encoder["d_model"])
    channels = int(encoder.get("subsampling_conv_channels", -1))
    use_bias, norm = bool(encoder.get("use_bias", True)), encoder.get("conv_norm_type", "batch_norm")
    context = "causal" if encoder.get("conv_context_size") == "causal" else "symmetric"
    subsampling = encoder.get("subsampling", "striding")
    common: dict[str, Any] = {
        "num_mel_bins": int(encoder["feat_in"]),
        "hidden_size": width,
        "num_hidden_layers": int(encoder["n_layers"]),
        "num_attention_heads": int(encoder.get("n_heads", 4)),
        "intermediate_size": width * int(encoder.get("ff_expansion_factor", 4)),
        "conv_kernel_size": int(encoder.get("conv_kernel_size", 31)),
        "subsampling_factor": int(encoder.get("subsampling_factor", 4)),
        "subsampling_conv_channels": width if channels == -1 else channels,
        "scale_input": bool(encoder.get("xscaling", True)),
        "dropout": float(encoder.get("dropout", 0.1)),
        "attention_dropout": float(encoder.get("dropout_att", 0.1)),
    }
    if subsampling == "dw_striding" and norm == "batch_norm" and context == "symmetric":
        # transformers would have whoever trains on leave out a tenth of the layers.
        layerdrop = float(encoder.get("stochastic_depth_drop_prob", 0.0))
        parakeet = ParakeetEncoderConfig(
            attention_bias=use_bias, convolution_bias=use_bias, layerdrop=layerdrop, **common
        )
        return ParakeetForCTC(
            ParakeetCTCConfig(encoder_config=parakeet.to_dict(), vocab_size=blank + 1, pad_token_id=blank)
        )
    return ConformerForCTC(
        ConformerConfig(
            vocab_size=blank + 1,
            pad_token_id=blank,
            subsampling=subsampling,
            conv_norm=norm,
            conv_context=context,
            use_bias=use_bias,
            **common,
        )
    )


def _refuse_others(path: Path, section: str, config: dict[str, Any], **supported: tuple[Any, ...]) -> None:
    """Refuse settings that are present with a value that is not supported, by name."""
    for name, values in supported.items():
        value = config.get(name, values[0])
        if name == "_target_":
            value = str(value).rsplit(".", 1)[-1]
        if value not in values:
            allowed = ", ".join(map(repr, values))
            raise SecateurError(f"{path}: {section}.{name} is {value!r}; supported: {allowed}")


def _load_weights(path: Path, model: PreTrainedModel, weights: dict[str, Tensor]) -> None:
    """Rename, fit the head's shape and load; what is missing, unknown or misshapen is refused by name."""
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    renamed = {}
    for name, tensor in weights.items():
        if NOT_WEIGHTS.match(name):
            continue
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        if name == "ctc_head.weight" and len(wanted[name]) == 2:
            tensor = tensor.squeeze(-1)
        renamed[name] = tensor.float() if tensor.is_floating_point() else tensor
    for name, shape in wanted.items():
        if name not in renamed:
            raise SecateurError(f"{path}: the checkpoint lacks {name}, which its configuration asks for")
        if renamed[name].shape != shape:
            raise SecateurError(
                f"{path}: {name} is {list(renamed[name].shape)} in the checkpoint, {list(shape)} by its configuration"
            )
    unknown = sorted(set(renamed) - set(wanted))
    if unknown:
        raise SecateurError(f"{path}: the checkpoint has {unknown[0]}, for which the model has no place")
    model.load_state_dict(renamed, assign=True)
