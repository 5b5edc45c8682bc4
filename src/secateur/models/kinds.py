"""The kinds of CTC models that can be heard, by the ``model_type`` of their configuration."""

from __future__ import annotations

from transformers import PreTrainedConfig

HEARD_TOGETHER = frozenset(
    "secateur_conformer parakeet_ctc wav2vec2 hubert wavlm unispeech unispeech-sat".split()
)
"""They hear an utterance beside a longer one as they hear it alone."""

HEARD_ALONE = frozenset("data2vec-audio sew wav2vec2-conformer".split())
"""Convolutions or poolings over time read what an utterance is padded with."""

HEARD = HEARD_TOGETHER | HEARD_ALONE


def pads_cleanly(config: PreTrainedConfig) -> bool:
    """Whether padding leaves no trace in what a model hears; a norm over time, as wav2vec 2.0 base has it, reads it too."""
    reads_it = (
        getattr(config, "feat_extract_norm", None) == "group"
        # A norm of HuBERT's, before its positions, makes something of the padding.
        or getattr(config, "conv_pos_batch_norm", False)
    )
    return config.model_type in HEARD_TOGETHER and not reads_it
