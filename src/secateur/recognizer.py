"""Recognizer: a CTC model with its features, tokenizer and decoding; audio in, text out."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoFeatureExtractor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SequenceFeatureExtractor,
)

from secateur.decoding import Frames, Transcript, decode
from secateur.errors import SecateurError, reason
from secateur.files import expanded, is_there
from secateur.models.conformer import frame_mask
from secateur.models.kinds import pads_cleanly
from secateur.models.precision import cast
from secateur.speech.audio import Waveform, audio_blocks

Inputs = Mapping[str, Tensor]
"""A batch as `Recognizer.prepare` makes it."""

# A recording of up to WHOLE_SECONDS is heard in one piece; a longer one in windows of WINDOW_SECONDS that share
# OVERLAP_SECONDS with their neighbours, because memory grows with the square of the length.
WHOLE_SECONDS = 60.0
WINDOW_SECONDS = 40.0
OVERLAP_SECONDS = 6.0
# Features of less sound than this are undefined (a variance over one frame); shorter audio is padded with silence.
SHORTEST_SECONDS = 0.1
_WITH_LM = "WithLM"  # How transformers calls processors that want a language model's files, of which a result has none.


class Recognizer:
    """A trained CTC model, its feature extractor and its tokenizer.

    Attributes:
        model: any transformers CTC model, ours included, in evaluation mode.
        features: from waveforms to model inputs.
        tokenizer: from token ids to text.
        blank: id of the CTC blank.
        pads_cleanly: whether the model can hear utterances of several lengths at once; where it cannot, they are heard one
            by one.
    """

    def __init__(
        self, model: PreTrainedModel, features: SequenceFeatureExtractor, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.model = model.eval()
        self.features = features
        self.tokenizer = tokenizer
        self.blank = _blank(model, tokenizer)
        self.pads_cleanly = pads_cleanly(model.config)

    @property
    def sample_rate(self) -> int:
        return int(self.features.sampling_rate)

    @property
    def inputs_per_second(self) -> float:
        """Frames of features, or samples, that the model is given for a second of audio."""
        return self.sample_rate / int(getattr(self.features, "hop_length", 1))

    @property
    def samples_per_frame(self) -> int:
        """Audio samples from one output frame to the next."""
        config = self.model.config
        if hasattr(config, "conv_stride"):
            return math.prod(config.conv_stride)
        encoder = getattr(config, "encoder_config", config)
        return int(encoder.subsampling_factor) * int(self.features.hop_length)

    @property
    def seconds_per_frame(self) -> float:
        return self.samples_per_frame / self.sample_rate

    def with_model(self, model: PreTrainedModel) -> Recognizer:
        """The same features and tokenizer around another model."""
        return Recognizer(model, self.features, self.tokenizer)

    def copy(self) -> Recognizer:
        """The same around a copy of the model."""
        return self.with_model(copy.deepcopy(self.model))

    def prepare(self, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Model inputs for a batch, on the model's device: features or samples, padded, and the mask of what is real.

        Features are computed waveform by waveform, so that not even their rounding depends on the rest of the batch.
        """
        shortest = round(SHORTEST_SECONDS * self.sample_rate)
        name = self.features.model_input_names[0]
        rows: list[Tensor] = []
        for wave in waveforms:
            padded = np.pad(wave, (0, max(0, shortest - len(wave))))
            extracted = self.features(
                padded, sampling_rate=self.sample_rate, return_tensors="pt", return_attention_mask=True
            )
            rows.append(extracted[name][0, : int(extracted["attention_mask"].sum())])
        inputs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = frame_mask(torch.tensor([len(row) for row in rows]), inputs.shape[1])
        return {
            name: inputs.to(self.model.device, self.model.dtype),
            "attention_mask": mask.to(self.model.device),
        }

    @torch.inference_mode()
    def logits(self, waveforms: Sequence[Waveform]) -> tuple[Tensor, Tensor]:
        """Logits [batch, frames, vocabulary] and the number of frames [batch] that belong to each waveform."""
        if not self.pads_cleanly and len({len(wave) for wave in waveforms}) > 1:
            return self._logits_one_by_one(waveforms)
        inputs = self.prepare(waveforms)
        logits: Tensor = self.model(**inputs).logits
        return logits, self.output_lengths(inputs["attention_mask"].sum(-1))

    def _logits_one_by_one(self, waveforms: Sequence[Waveform]) -> tuple[Tensor, Tensor]:
        each = [self.logits([wave])[0][0] for wave in waveforms]
        lengths = torch.tensor([len(logits) for logits in each], device=self.model.device)
        return torch.nn.utils.rnn.pad_sequence(each, batch_first=True), lengths

    def output_lengths(self, input_lengths: Tensor) -> Tensor:
        """Output frames, [batch], for numbers of input frames or samples, [batch]."""
        model = self.model
        for name in ("_get_feat_extract_output_lengths", "_get_subsampling_output_length"):
            if hasattr(model, name):
                lengths: Tensor = getattr(model, name)(input_lengths)
                return lengths
        raise SecateurError(
            f"{type(model).__name__} does not tell its output lengths, so it cannot be batched"
        )

    def transcribe(self, audio: str | Path | Waveform) -> Transcript:
        """Hear one recording of any length: a file, or mono samples at ``sample_rate``.

        Memory does not grow with the length of a file; only its windows are held.

        Raises:
            SecateurError: the file is missing, empty, or no audio.
        """
        if isinstance(audio, np.ndarray):
            return self.transcribe_batch([audio])[0]
        blocks = audio_blocks(audio, self.sample_rate, WINDOW_SECONDS)
        first = _gather(blocks, round(WHOLE_SECONDS * self.sample_rate) + 1)
        if len(first) <= WHOLE_SECONDS * self.sample_rate:
            return self.transcribe_batch([first])[0]
        return self._hear_long(first, blocks)

    def transcribe_batch(self, waveforms: Sequence[Waveform]) -> list[Transcript]:
        """Hear waveforms (mono, at ``sample_rate``) together; each transcript is as if it were heard alone.

        Raises:
            SecateurError: one is not mono, or the model's output is not a number.
        """
        for wave in waveforms:
            if wave.ndim != 1:
                raise SecateurError(
                    f"a waveform has the shape {tuple(wave.shape)}: give one of mono samples, [samples], or the file"
                )
        whole = [wave for wave in waveforms if len(wave) <= WHOLE_SECONDS * self.sample_rate]
        heard = iter(self._frames(whole) if whole else [])
        return [
            self._decode(next(heard), len(wave) / self.sample_rate)
            if len(wave) <= WHOLE_SECONDS * self.sample_rate
            else self._hear_long(wave, iter(()))
            for wave in waveforms
        ]

    def _frames(self, waveforms: Sequence[Waveform]) -> list[Frames]:
        logits, lengths = self.logits(waveforms)
        # Half precision has two or three digits of a probability.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        best, tokens = logits.max(-1)
        if not best.isfinite().all():
            raise SecateurError(
                "what the model puts out is not a number: its weights are damaged, it needs --dtype float32, or the audio is far too loud"
            )
        probabilities = (best - logits.logsumexp(-1)).float().exp()
        return [
            Frames(tokens[i, :n].cpu().numpy(), probabilities[i, :n].cpu().numpy())
            for i, n in enumerate(lengths.tolist())
        ]

    def _hear_long(self, start: Waveform, rest: Iterator[Waveform]) -> Transcript:
        """Hear overlapping windows one after the other and join their frames where both agree."""
        stride = self.samples_per_frame
        window = round(WINDOW_SECONDS * self.sample_rate) // stride * stride
        overlap = round(OVERLAP_SECONDS * self.sample_rate) // stride * stride
        joined: Frames | None = None
        samples, buffer, ended = 0, start, False
        while not ended:
            if len(buffer) <= window:
                buffer = np.concatenate([buffer, _gather(rest, window + 1 - len(buffer))])
            ended = len(buffer) <= window
            frames = self._frames([buffer[:window]])[0]
            joined = frames if joined is None else joined.join(frames, samples // stride, self.blank)
            step = len(buffer) if ended else window - overlap
            samples, buffer = samples + step, buffer[step:]
        assert joined is not None
        return self._decode(joined, samples / self.sample_rate)

    def _decode(self, frames: Frames, seconds: float) -> Transcript:
        return decode(frames, self.tokenizer, self.blank, seconds, self.seconds_per_frame)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, the feature extractor and the tokenizer as a transformers checkpoint, without pickle."""
        from secateur.structure.checkpoint import write_model

        write_model(self.model, folder)
        self.features.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load(
    source: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Recognizer:
    """Load a recogniser.

    Args:
        source: a ``.nemo`` archive, a folder with a transformers or Secateur checkpoint, or the name of a
            transformers checkpoint on the Hugging Face Hub.
        device: where the model computes.
        dtype: precision of its weights; those of the checkpoint if None.

    Raises:
        SecateurError: nothing is there, it is damaged, or it is no CTC model that Secateur supports.
    """
    from secateur.structure.counting import inputs_per_second

    path = find(source)
    if path is not None and path.is_file():
        from secateur.models.nemo import read_nemo

        model, features, tokenizer = read_nemo(path)
    else:
        model, features, tokenizer = _read_pretrained(str(path or source))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise SecateurError(f"{source}: {name} has values that are not finite (NaN or infinity)")
    config = getattr(model.config, "encoder_config", model.config)
    if model.main_input_name == "input_features" and features.feature_size != config.num_mel_bins:
        raise SecateurError(
            f"{source}: its features have {features.feature_size} bins for each frame, and its model hears {config.num_mel_bins}"
        )
    cast(model, dtype)
    recognizer = Recognizer(model.to(device=device), features, tokenizer)
    counted = inputs_per_second(model)
    if recognizer.inputs_per_second != counted:
        raise SecateurError(
            f"{source} is given {recognizer.inputs_per_second:g} {recognizer.features.model_input_names[0]} for a second of "
            f"audio; supported are {counted}"
        )
    return recognizer


def find(source: str | Path) -> Path | None:
    """Where a model lies; None where it may be the name of a checkpoint on the Hugging Face Hub, which is not asked.

    Raises:
        SecateurError: it looks like a path, and nothing is there.
    """
    if not str(source).strip():
        raise SecateurError(
            "the name of the model is empty; give a .nemo archive, a checkpoint folder or a hub name"
        )
    path = expanded(source)
    if is_there(path):
        return path
    if _looks_like_path(str(source)):
        raise SecateurError(
            f"{source} does not exist, or is closed to this user; give a .nemo archive, a checkpoint folder or a hub name"
        )
    return None


def _read_pretrained(
    source: str,
) -> tuple[PreTrainedModel, SequenceFeatureExtractor, PreTrainedTokenizerBase]:
    from secateur.structure.checkpoint import load_model

    model = load_model(source)
    try:
        features = AutoFeatureExtractor.from_pretrained(source, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - tokenizers raises nothing narrower, and files that are not there lead to many errors
        raise SecateurError(
            f"{source}: its feature extractor or tokenizer does not load ({reason(error)}): are its files there, such as "
            "preprocessor_config.json, and vocab.json or tokenizer.json?"
        ) from None
    if str(tokenizer.init_kwargs.get("processor_class")).endswith(_WITH_LM):
        tokenizer._processor_class = tokenizer.init_kwargs["processor_class"] = None
    return model, features, tokenizer


def _blank(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of CTC's blank, which transformers keeps as that of padding."""
    for said in (model.config.pad_token_id, tokenizer.pad_token_id):
        if said is not None:
            return int(said)
    raise SecateurError(
        "neither the model nor its tokenizer says which token is the blank: give config.json a pad_token_id"
    )


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or source.endswith(".nemo")


def _gather(blocks: Iterator[Waveform], samples: int) -> Waveform:
    """Concatenate blocks until there are at least that many samples, or no more blocks."""
    parts: list[Waveform] = []
    while samples > 0 and (block := next(blocks, None)) is not None:
        parts.append(block)
        samples -= len(block)
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
