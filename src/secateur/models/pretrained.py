"""Reader of transformers CTC checkpoints: a folder, or a name on the hub."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SequenceFeatureExtractor,
)

from secateur.errors import SecateurError
from secateur.models import conformer  # noqa: F401  # registers our Conformer with transformers' Auto classes


def read_pretrained(
    source: str | Path,
) -> tuple[PreTrainedModel, SequenceFeatureExtractor, PreTrainedTokenizerBase]:
    """Load a CTC model in evaluation mode, its feature extractor and its tokenizer; no code of the checkpoint is run.

    Raises:
        SecateurError: there is no such checkpoint, it is damaged, or it is of a class without a CTC head.
    """
    source = str(source)
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise SecateurError(
            f"{source} is no checkpoint that transformers can read: {_first_line(error)}"
        ) from None
    if type(config) not in AutoModelForCTC._model_mapping:
        raise SecateurError(
            f"{source} is a {config.model_type} model; supported are CTC models (Conformer, Parakeet-CTC, wav2vec 2.0 "
            "and their kin)"
        )
    try:
        model, report = AutoModelForCTC.from_pretrained(source, config=config, output_loading_info=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise SecateurError(f"{source}: the weights do not load: {_first_line(error)}") from None
    if report["missing_keys"]:
        raise SecateurError(
            f"{source}: the checkpoint lacks {min(report['missing_keys'])}, so the model is not whole"
        )
    try:
        features = AutoFeatureExtractor.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise SecateurError(
            f"{source}: its feature extractor or tokenizer does not load: {_first_line(error)}"
        ) from None
    return model.eval(), features, tokenizer


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".")
