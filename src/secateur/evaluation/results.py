"""What an evaluation returns: the figures of a recogniser on a corpus, and each utterance's result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur.evaluation.error_rate import Counts, Interval, resampled_units
from secateur.files import write_text


@dataclass(frozen=True, slots=True)
class UtteranceResult:
    """What became of one utterance: both texts as they were aligned, that is, normalised.

    Attributes:
        id: the utterance's name in the corpus.
        reference: what was said.
        hypothesis: what was heard.
        seconds: length of its audio.
        words: counts of its word alignment.
        characters: counts of its character alignment.
        confidence: the recogniser's own, in [0, 1].
    """

    id: str
    reference: str
    hypothesis: str
    seconds: float
    words: Counts
    characters: Counts
    confidence: float

    def to_json(self) -> dict[str, object]:
        """The row as it is written to JSONL: the counts are those of the words."""
        return {
            "id": self.id,
            "reference": self.reference,
            "hypothesis": self.hypothesis,
            "seconds": round(self.seconds, 3),
            "confidence": round(self.confidence, 4),
            "words": self.words.reference,
            "errors": self.words.errors,
            "substitutions": self.words.substitutions,
            "deletions": self.words.deletions,
            "insertions": self.words.insertions,
        }


def drawn_units(rows: Sequence[UtteranceResult]) -> list[Counts]:
    """What a bootstrap draws from, see `resampled_units`."""
    return resampled_units(
        [row.words for row in rows], [row.reference for row in rows], [row.hypothesis for row in rows]
    )


@dataclass(frozen=True)
class Evaluation:
    """The figures of one run of a recogniser over a corpus.

    Attributes:
        words: counts of all words.
        characters: counts of all characters, spaces between words included.
        interval: of the word error rate, 95 %, by bootstrap over utterances or, of few, over stretches of them.
        normalise: name of the text normalisation.
        audio_seconds: length of all audio heard.
        wall_seconds: from opening the corpus to the last text: reading, features, model, decoding.
        model_seconds: of those, inside the model's forward passes.
        peak_memory_mb: most main memory that the process ever had resident, in units of 10^6 bytes; None where the
            system does not tell.
        params: parameters of the model.
        macs_per_second: multiply-accumulates for a second of audio, of an utterance of ten seconds.
        skipped: utterances that were left out: they could not be read, or had no transcript.
        rows: each utterance's result, in the corpus's order.
    """

    words: Counts
    characters: Counts
    interval: Interval
    normalise: str
    audio_seconds: float
    wall_seconds: float
    model_seconds: float
    peak_memory_mb: float | None
    params: int
    macs_per_second: float
    skipped: int
    rows: Sequence[UtteranceResult]

    @property
    def wer(self) -> float:
        """Word error rate of the corpus, a fraction, all errors over all reference words."""
        return self.words.rate

    @property
    def cer(self) -> float:
        """Character error rate of the corpus, a fraction."""
        return self.characters.rate

    @property
    def utterances(self) -> int:
        """Utterances that were heard and scored."""
        return len(self.rows)

    @property
    def rtf(self) -> float:
        """Real-time factor of the whole, seconds of work for a second of audio."""
        return self.wall_seconds / self.audio_seconds

    @property
    def rtf_model(self) -> float:
        """Real-time factor of the model's forward passes alone."""
        return self.model_seconds / self.audio_seconds

    def worst(self, count: int = 10) -> list[UtteranceResult]:
        """The utterances with the most word errors, of equals the higher rate first; none without an error."""
        wrong = (row for row in self.rows if row.words.errors)
        return sorted(wrong, key=lambda row: (-row.words.errors, -row.words.rate, row.id))[:count]

    def to_json(self) -> dict[str, object]:
        """All figures, ready for `json.dumps`: rates are fractions. The utterances are left to `write_jsonl`."""
        return {
            "wer": self.wer,
            "wer_interval": [self.interval.low, self.interval.high],
            "cer": self.cer,
            "substitutions": self.words.substitutions,
            "deletions": self.words.deletions,
            "insertions": self.words.insertions,
            "words": self.words.reference,
            "utterances": self.utterances,
            "skipped": self.skipped,
            "normalise": self.normalise,
            "audio_seconds": self.audio_seconds,
            "wall_seconds": self.wall_seconds,
            "rtf": self.rtf,
            "rtf_model": self.rtf_model,
            "peak_memory_mb": self.peak_memory_mb,
            "params": self.params,
            "macs_per_second": self.macs_per_second,
            "worst": [row.to_json() for row in self.worst()],
        }

    def write_jsonl(self, path: str | Path) -> None:
        """Write one JSON object a line for each utterance; the file appears whole or not at all.

        Raises:
            SecateurError: the file cannot be written.
        """
        write_text(path, "".join(json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in self.rows))
