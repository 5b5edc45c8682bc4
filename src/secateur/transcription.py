"""Transcribe many recordings: short ones in batches, long ones window by window, results in the order of the data."""

from __future__ import annotations

import math
from collections.abc import Callable

from secateur.decoding import Transcript
from secateur.errors import SecateurError
from secateur.progress import ProgressBar
from secateur.recognizer import WHOLE_SECONDS, Recognizer
from secateur.speech.audio import audio_seconds
from secateur.speech.batching import BATCH_SECONDS, read_batches
from secateur.speech.corpus import Corpus
from secateur.speech.skips import SkipLog, Skipped
from secateur.speech.utterance import Utterance

ROUNDED_SECONDS = 0.1
"""By how much a manifest may say less than a file is long, and mean all of it."""


def transcribe(
    recognizer: Recognizer,
    corpus: Corpus,
    *,
    batch_seconds: float = BATCH_SECONDS,
    skips: SkipLog | None = None,
    progress: ProgressBar | None = None,
    tell: Callable[[Utterance, Transcript], object] | None = None,
) -> list[tuple[Utterance, Transcript]]:
    """Hear every utterance of a corpus.

    Args:
        recognizer: what hears.
        corpus: speech; whether it is transcribed makes no difference.
        batch_seconds: seconds of audio, padding included, that the model is given at once.
        skips: collects what cannot be read, and gives up past its limit.
        progress: told about each batch.
        tell: told about each utterance when it has been heard, which is in any order.

    Returns:
        What could be read, with its transcript, in the corpus's order.

    Raises:
        SecateurError: nothing, or too little, can be read.
    """
    skips = SkipLog() if skips is None else skips
    utterances: list[Utterance] = []
    for entry in corpus.entries():
        if isinstance(entry, Skipped):
            skips.skip(entry)
        else:
            utterances.append(entry)
    if progress is not None:
        progress.total = len(utterances)

    streamed: list[Utterance] = []
    batched: list[Utterance] = []
    for utterance in utterances:
        (streamed if _is_long_file(utterance) else batched).append(utterance)
    heard: dict[str, Transcript] = {}

    def note(utterances: list[Utterance], transcripts: list[Transcript]) -> None:
        for utterance, transcript in zip(utterances, transcripts, strict=True):
            heard[utterance.id] = transcript
            if tell is not None:
                tell(utterance, transcript)
        if progress is not None:
            seconds = sum(transcript.seconds for transcript in transcripts)
            progress.advance(len(transcripts), audio_seconds=seconds)

    for utterance in streamed:
        try:
            note([utterance], [recognizer.transcribe(utterance.path)])
        except SecateurError as error:
            skips.skip(Skipped(str(utterance.path), str(error)))
        else:
            skips.count()
    if batched:
        for batch in read_batches(batched, recognizer.sample_rate, batch_seconds, skips=skips):
            note(batch.utterances, recognizer.transcribe_batch(batch.waveforms))
    skips.check_any_read()
    return [(utterance, heard[utterance.id]) for utterance in utterances if utterance.id in heard]


def _is_long_file(utterance: Utterance) -> bool:
    """Whether the recogniser would cut it into windows anyway, so that it need not be held whole in memory."""
    if utterance.offset or (utterance.duration or math.inf) <= WHOLE_SECONDS:
        return False
    try:
        seconds = audio_seconds(utterance.path)
        # A manifest gives the length of whole files too.
        return seconds > WHOLE_SECONDS and (utterance.duration or math.inf) >= seconds - ROUNDED_SECONDS
    except SecateurError:
        return False  # Reading it in a batch says what is wrong with it.
