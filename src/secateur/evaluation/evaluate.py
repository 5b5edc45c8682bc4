"""Run a recogniser over transcribed speech: how well it hears, how fast, and at what cost."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np

from secateur.decoding import Transcript
from secateur.errors import SecateurError
from secateur.evaluation.error_rate import Counts, bootstrap_interval, character_counts, total, word_counts
from secateur.evaluation.normalise import character_normaliser, normaliser
from secateur.evaluation.results import Evaluation, UtteranceResult, drawn_units
from secateur.progress import ProgressBar
from secateur.recognizer import Recognizer
from secateur.speech.batching import BATCH_SECONDS, SpeechBatch, read_batches
from secateur.speech.corpus import Corpus, open_corpus
from secateur.speech.skips import SkipLog
from secateur.structure import counting
from secateur.timing import clocked

MACS_AUDIO_SECONDS = 10.0
"""Length of the utterance whose multiply-accumulates are divided by its seconds: attention's grow with the length."""

COUNTED_UTTERANCES = 20_000
"""How far a corpus is counted in advance, for the progress bar: less than a second of reading."""


def evaluate(
    recognizer: Recognizer,
    corpus: str | Path | Corpus,
    *,
    limit: int | None = None,
    batch_seconds: float = BATCH_SECONDS,
    normalise: str = "basic",
    skips: SkipLog | None = None,
    progress: ProgressBar | None = None,
    tell: Callable[[str], object] | None = None,
) -> Evaluation:
    """Transcribe a corpus and score the texts against its transcripts.

    Args:
        recognizer: what hears.
        corpus: transcribed speech, or where it lies; see `secateur.speech.corpus.open_corpus`.
        limit: take only the first so many utterances, those without a transcript among them, which are skipped.
        batch_seconds: seconds of audio, padding included, that the model is given at once.
        normalise: text normalisation of transcripts and hypotheses, see `secateur.evaluation.normalise`.
        skips: collects what cannot be read, and gives up past its limit.
        progress: told about each batch, with the word error rate so far.
        tell: told what could not be read, in a sentence, if there is any.

    Raises:
        SecateurError: there are no transcripts, no transcript has a word, there are no utterances, or too many cannot be read.
    """
    # One that there is not is refused first.
    normaliser(normalise)
    skips = SkipLog() if skips is None else skips
    if limit is not None and limit < 1:
        raise SecateurError(f"a limit of {limit} utterances leaves nothing to evaluate: give 1 or more")
    source = open_corpus(corpus) if isinstance(corpus, (str, Path)) else corpus
    if limit is not None:
        source = replace(source, limit=min(limit, source.limit or limit))
    transcribed = Corpus(source.scorable)
    if progress is not None:
        progress.total = _count(transcribed)

    rows: dict[int, UtteranceResult] = {}
    words = Counts()
    if recognizer.model.device.type == "cuda":
        # The first pass loads libraries and kernels, which takes seconds and is no time of the model's.
        recognizer.transcribe_batch([np.zeros(recognizer.sample_rate, np.float32)])
    start = perf_counter()
    with clocked({"model": recognizer.model}, recognizer.model.device) as spent:
        for batch in read_batches(transcribed, recognizer.sample_rate, batch_seconds, skips=skips):
            scored = _score(
                batch, recognizer.transcribe_batch(batch.waveforms), recognizer.sample_rate, normalise
            )
            rows.update(zip(batch.positions, scored, strict=True))
            words += total(row.words for row in scored)
            if progress is not None:
                seconds = sum(row.seconds for row in scored)
                progress.advance(len(scored), audio_seconds=seconds, WER=f"{words.rate:.2%}")
    wall_seconds = perf_counter() - start
    if not words.reference:
        raise SecateurError(
            "there is no word in the transcripts to measure on: give speech in which something is said"
        )
    if tell is not None and skips.skipped:
        tell(f"of the speech to measure on: {skips.summary()}")
    in_order = [rows[position] for position in sorted(rows)]
    return Evaluation(
        words=words,
        characters=total(row.characters for row in in_order),
        interval=bootstrap_interval(drawn_units(in_order)),
        normalise=normalise,
        audio_seconds=math.fsum(row.seconds for row in in_order),
        wall_seconds=wall_seconds,
        model_seconds=spent.get("model", 0.0),
        peak_memory_mb=peak_memory_mb(),
        params=counting.parameters(recognizer.model),
        macs_per_second=counting.macs(recognizer.model, MACS_AUDIO_SECONDS) / MACS_AUDIO_SECONDS,
        skipped=skips.skipped,
        rows=in_order,
    )


def peak_memory_mb() -> float | None:
    """Most main memory that this process ever had resident, in units of 10^6 bytes; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, everybody else kibibytes.
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _count(corpus: Corpus) -> int | None:
    """Utterances there are, None where counting them would make a large corpus start late."""
    count = sum(1 for _ in islice(corpus.entries(), COUNTED_UTTERANCES + 1))
    return count if count <= COUNTED_UTTERANCES else None


def _score(
    batch: SpeechBatch, transcripts: Sequence[Transcript], sample_rate: int, normalise: str
) -> list[UtteranceResult]:
    said = [utterance.text or "" for utterance in batch.utterances]
    heard = [transcript.text for transcript in transcripts]
    references, hypotheses = (list(map(normaliser(normalise), texts)) for texts in (said, heard))
    spelled = (list(map(character_normaliser(normalise), texts)) for texts in (said, heard))
    columns = zip(
        batch.utterances,
        references,
        hypotheses,
        batch.waveforms,
        word_counts(references, hypotheses),
        character_counts(*spelled),
        transcripts,
        strict=True,
    )
    return [
        UtteranceResult(
            utterance.id,
            reference,
            hypothesis,
            len(waveform) / sample_rate,
            words,
            characters,
            transcript.confidence,
        )
        for utterance, reference, hypothesis, waveform, words, characters, transcript in columns
    ]
