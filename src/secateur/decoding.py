"""Greedy CTC decoding: from the best token of every frame to text, words, their times and confidences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Word:
    """A recognised word; ``start`` and ``end`` in seconds, ``confidence`` in [0, 1]."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard in ``seconds`` of audio; ``confidence`` is the geometric mean over its tokens."""

    text: str
    seconds: float
    confidence: float
    words: list[Word] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Frames:
    """Greedy choices of a CTC model: per frame the best token and its probability, both [frames]."""

    tokens: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    def join(self, later: Frames, offset: int, blank: int) -> Frames:
        """Append a window that starts at frame ``offset`` of this one.

        Both heard the overlap; the cut is at the frame nearest its middle where both hear a blank, so that no token
        is heard twice or torn, and at the middle if there is none.
        """
        overlap = len(self.tokens) - offset
        silent = (self.tokens[offset:] == blank) & (later.tokens[:overlap] == blank)
        candidates = np.flatnonzero(silent) if silent.any() else np.array([overlap // 2])
        cut = int(candidates[np.abs(candidates - overlap // 2).argmin()])
        return Frames(
            np.concatenate([self.tokens[: offset + cut], later.tokens[cut:]]),
            np.concatenate([self.probabilities[: offset + cut], later.probabilities[cut:]]),
        )


class Token(NamedTuple):
    """A token that was heard from frame ``start`` up to, not including, frame ``end``."""

    id: int
    start: int
    end: int
    confidence: float


def decode(
    frames: Frames, tokenizer: PreTrainedTokenizerBase, blank: int, seconds: float, seconds_per_frame: float
) -> Transcript:
    """The transcript of ``seconds`` of audio: repeats collapse, then blanks go (Graves et al. 2006).

    A token's confidence is its highest probability over its frames, a word's the geometric mean of its tokens'.
    """
    tokens = list(_collapse(frames, blank))
    text = tokenizer.decode([token.id for token in tokens], group_tokens=False, skip_special_tokens=True)
    words = [
        Word(
            text=word,
            start=round(spelling[0].start * seconds_per_frame, 3),
            end=round(min(spelling[-1].end * seconds_per_frame, seconds), 3),
            confidence=_mean_confidence(spelling),
        )
        for word, spelling in _words(tokens, tokenizer)
    ]
    return Transcript(text.strip(), seconds, _mean_confidence(tokens), words)


def _collapse(frames: Frames, blank: int) -> Iterator[Token]:
    starts = np.flatnonzero(np.diff(frames.tokens, prepend=-1)).tolist()
    for start, end in zip(starts, [*starts[1:], len(frames.tokens)], strict=True):
        if frames.tokens[start] != blank:
            yield Token(int(frames.tokens[start]), start, end, float(frames.probabilities[start:end].max()))


def _words(tokens: Sequence[Token], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, list[Token]]]:
    """Words and their tokens; a new one begins at a piece with a leading ``▁`` and after wav2vec 2.0's delimiter, and every phone is one."""
    phones = hasattr(tokenizer, "phone_delimiter_token")
    spelled = str.lower if getattr(tokenizer, "do_lower_case", False) else str
    delimiters = {"▁", getattr(tokenizer, "word_delimiter_token", None)}
    special = set(tokenizer.all_special_tokens) - delimiters
    words: list[tuple[str, list[Token]]] = [("", [])]
    for piece, token in zip(
        tokenizer.convert_ids_to_tokens([token.id for token in tokens]), tokens, strict=True
    ):
        if piece in special:
            continue
        if phones or piece in delimiters or piece.startswith("▁"):
            words.append(("", []))
        if piece not in delimiters:
            text, spelling = words[-1]
            words[-1] = (text + spelled(piece.removeprefix("▁")), [*spelling, token])
    return (word for word in words if word[1])


def _mean_confidence(tokens: Iterable[Token]) -> float:
    """Geometric mean; 1 where nothing was heard."""
    logs = [math.log(max(token.confidence, 1e-10)) for token in tokens]
    return round(math.exp(math.fsum(logs) / len(logs)), 4) if logs else 1.0
