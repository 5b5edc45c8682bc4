"""What a training begins with: random weights, or those of another model, which may have to write with other pieces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import ParakeetFeatureExtractor, PreTrainedTokenizerBase

from secateur.errors import SecateurError
from secateur.models.conformer import ConformerConfig, ConformerForCTC
from secateur.models.vocabulary import tokenizer_from_pieces
from secateur.recognizer import Recognizer, load
from secateur.supervised.settings import TrainSettings


def untrained(
    settings: TrainSettings,
    features: ParakeetFeatureExtractor,
    pieces: Sequence[str],
    needed: Sequence[float],
    device: str | torch.device,
) -> Recognizer:
    """A recogniser of random weights that writes with pieces of words, which are needed as often as `find_pieces` says."""
    tokenizer = tokenizer_from_pieces(pieces, needed)
    shape, blank = settings.shape, len(tokenizer) - 1
    config = ConformerConfig(
        vocab_size=blank + 1,
        pad_token_id=blank,
        num_mel_bins=int(features.feature_size),
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width,
        conv_kernel_size=shape.kernel,
        subsampling_conv_channels=shape.channels,
        dropout=settings.dropout or 0.0,
        attention_dropout=settings.dropout or 0.0,
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(settings.seed)
        model = ConformerForCTC(config)
        # PyTorch's own, which NeMo's Conformers begin with too: the larger a layer, the smaller its weights.
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
                module.reset_parameters()
    return Recognizer(model.to(device), features, tokenizer)


def with_vocabulary(
    begun: Recognizer, pieces: Sequence[str], needed: Sequence[float], seed: int
) -> Recognizer:
    """A recogniser that hears as before, and has yet to learn to write with pieces found anew.

    It begins with writing each where it wrote the longest piece that the new one ends with, as often as the new one is needed among
    all that end so. From a head of random weights it would first have to learn to write nothing, and then something.
    """
    tokenizer, model = tokenizer_from_pieces(pieces, needed), begun.model
    before, known = model.ctc_head, begun.tokenizer.get_vocab()
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        head = nn.Linear(model.config.hidden_size, len(tokenizer)).to(model.device)
    tails = ([piece[first:] for first in range(len(piece))] for piece in pieces)
    ends = [next((known[tail] for tail in each if tail in known), None) for each in tails]
    with torch.no_grad():
        for end in {*ends, begun.blank} - {None}:
            those = [new for new, each in enumerate([*ends, begun.blank]) if each == end]
            head.weight[those] = before.weight[end]
            shares = torch.tensor([*needed, 0.0])[those].log_softmax(0)
            head.bias[those] = before.bias[end] + shares.to(head.bias)
    model.ctc_head = head
    model.config.update({"vocab_size": len(tokenizer), "pad_token_id": len(tokenizer) - 1})
    return Recognizer(model, begun.features, tokenizer)


def going_on(init: str | Path, device: str | torch.device, dropout: float | None) -> Recognizer:
    """A recogniser to go on from, in full precision, with another dropout where one is given."""
    recognizer = load(init, device=device, dtype=torch.float32)
    if type(recognizer.model) is not ConformerForCTC:
        raise SecateurError(
            f"{init} is a {type(recognizer.model).__name__}, and training goes on from unpruned Conformer-CTC models only"
        )
    if dropout is not None:
        recognizer.model.config.update({"dropout": dropout, "attention_dropout": dropout})
        for module in recognizer.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
    return recognizer


def check_writable(tokenizer: PreTrainedTokenizerBase, transcripts: Sequence[str], whose: str) -> None:
    """Refuse transcripts that a tokenizer has no letters for; ``whose`` it is stands in the refusal."""
    for letter in sorted({*"".join(transcripts)} - {" "}):
        try:
            ids = tokenizer(letter).input_ids
        except Exception:  # noqa: BLE001 - tokenizers raises nothing narrower where nothing stands for the unknown
            ids = []
        if not ids or tokenizer.unk_token_id in ids:
            raise SecateurError(
                f"{whose} cannot write {letter!r}, which is in the transcripts: give it another --vocabulary, or give other speech"
            )
