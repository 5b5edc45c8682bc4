"""Halve the embedded model, and hear a few sentences before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch

from secateur.errors import SecateurError, reason
from secateur.files import make_folder
from secateur.progress import ProgressBar
from secateur.pruning.distillation import Distillation
from secateur.pruning.learning.learned import Learned
from secateur.pruning.oneshot import OneShot
from secateur.pruning.prune import prune
from secateur.pruning.settings import PruneSettings
from secateur.recognizer import Recognizer, load
from secateur.speech.audio import read_utterance
from secateur.speech.corpus import open_corpus
from secateur.structure.checkpoint import check_free

MODEL = Path(__file__).with_name("tiny")
"""A Conformer-CTC of 2.9 million parameters that heard the synthetic corpus alone; docs/train.md says how it was made."""

PRUNED, SENTENCES = "pruned", "sentences"
"""What is in the demo's folder: the pruned model, and the sentences that are shown."""

KEEP = "params=50%,macs=50%"
TRAIN, TEST = "synthetic:train:1500", "synthetic:test:200"
RATE, HIDDEN = 2e-4, 1.0
"""Of the training, and the weight of its residual streams: those that its few steps were tried with (docs/notes/train.md)."""

SHOWN = 5
LONGEST_SECONDS = 6.0
"""Sentences that are shown are no longer than that, so that they fit into a line of a terminal or two."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """What was said, and what the two models heard.

    Attributes:
        file: its audio.
        said: the transcript.
        heard: by the unpruned model and by the pruned one.
    """

    file: Path
    said: str
    heard: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Demo:
    """What came of it.

    Attributes:
        report: of the pruning.
        sentences: some that neither model was trained on.
    """

    report: dict[str, Any]
    sentences: list[Sentence]


def settings(minutes: float, steps: int | None = None) -> PruneSettings:
    """Those of the pruning.

    Args:
        minutes: that scores, refitting and training are planned to fit into.
        steps: of training instead, in whatever time.
    """
    return PruneSettings(
        str(MODEL),
        data=TRAIN,
        keep=KEEP,
        valid=TEST,
        oneshot=OneShot(score_minutes=3.0, reconstruct_minutes=15.0, reconstruct_steps=100),
        # A model that is measured on what it was chosen by looks better than it is: nothing is validated in between.
        learned=Learned(
            minutes=minutes,
            steps=steps,
            # Two would have no time to train in.
            strides=1,
            rate=RATE,
            distillation=Distillation(hidden=HIDDEN),
            validations=0,
        ),
    )


def demo(
    out: str | Path,
    asked: PruneSettings,
    *,
    device: str | torch.device = "cpu",
    progress: ProgressBar | None = None,
    tell: Callable[[str], object] | None = None,
) -> Demo:
    """Prune the embedded model, measure both and listen to both.

    What has been done is kept in ``OUT/pruned.unfinished`` until the result is there, and gone on from.

    Args:
        out: a folder for the pruned model and for the sentences; an earlier demo there is replaced.
        asked: see `settings`.
        device: where the models compute.
        progress: told about the work as it goes.
        tell: called with a sentence for the user about what the progress bar does not show.

    Raises:
        SecateurError: espeak-ng is not installed, or the folder cannot be written.
    """
    progress = progress or ProgressBar("demo", quiet=True)
    folder = Path(out)
    check_free(folder / PRUNED)
    make_folder(folder / SENTENCES, instead="give another --out")
    dense = load(asked.model, device=device, dtype=torch.float32)
    speech = [str(asked.data), str(asked.valid or TEST)]
    # Its names end with how many utterances there are.
    progress.begin("speaking", total=sum(int(data.rpartition(":")[2]) for data in speech))
    for data in speech:
        # Here rather than where it is first read, so that everybody sees what takes the time.
        for _ in open_corpus(data):
            progress.advance()
    pruned = prune(asked, folder / PRUNED, recognizer=dense, progress=progress, tell=tell)
    sentences = listen(dense, pruned.recognizer, asked.valid or TEST, folder / SENTENCES)
    return Demo(pruned.report, sentences)


def listen(before: Recognizer, after: Recognizer, data: str | Path, folder: Path) -> list[Sentence]:
    """The first short sentences of some speech, as both models hear them; their audio goes into the folder."""
    sentences: list[Sentence] = []
    for utterance in open_corpus(data):
        wave = read_utterance(utterance, before.sample_rate)
        if len(wave) > LONGEST_SECONDS * before.sample_rate:
            continue
        file = folder / f"{len(sentences) + 1}.wav"
        try:
            soundfile.write(file, wave, before.sample_rate, subtype="PCM_16")
        except (OSError, soundfile.SoundFileError) as error:
            raise SecateurError(f"{file} cannot be written: {reason(error)}; give another --out") from None
        heard = (before.transcribe(wave).text, after.transcribe(wave).text)
        sentences.append(Sentence(file, utterance.text or "", heard))
        if len(sentences) == SHOWN:
            break
    return sentences
