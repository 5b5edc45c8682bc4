"""The verb: train a Conformer from scratch on transcribed speech, measure it, keep the result in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import ParakeetFeatureExtractor

from secateur import runs
from secateur.errors import SecateurError
from secateur.evaluation.evaluate import evaluate
from secateur.evaluation.normalise import normaliser
from secateur.models.conformer import ConformerConfig, ConformerForCTC
from secateur.models.vocabulary import tokenizer_from_pieces
from secateur.progress import ProgressBar
from secateur.recognizer import Recognizer
from secateur.speech.audio import audio_seconds
from secateur.speech.augmentation import Augmentation
from secateur.speech.corpus import Corpus, open_corpus
from secateur.speech.pool import SpeechPool
from secateur.speech.sampling import spread
from secateur.speech.skips import SkipLog, Skipped
from secateur.speech.utterance import Utterance
from secateur.structure.checkpoint import new_folder
from secateur.structure.inspect import inspect
from secateur.supervised.objective import Transcription
from secateur.supervised.pieces import find_pieces
from secateur.supervised.settings import TrainSettings
from secateur.training.feed import Feed
from secateur.training.precision import Working, working_type
from secateur.training.trainer import Length, Loop, Progress, Trainer
from secateur.training.workspace import Workspace

PHASE = "train"
"""What the training is called in histories, curves and files."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training.

    Attributes:
        recognizer: the trained recogniser, its weights in float32.
        report: its figures, ready for `json.dumps`.
    """

    recognizer: Recognizer
    report: dict[str, Any]


def train(
    settings: TrainSettings,
    out: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    skips: SkipLog | None = None,
    progress: ProgressBar | None = None,
    tell: Callable[[str], object] | None = None,
    log: Callable[[str, Mapping[str, float]], None] | None = None,
) -> Trained:
    """Train a recogniser from scratch and write the result, which `secateur.load` reads.

    What has been done is kept in ``OUT.unfinished`` until the result is there, so that the same call goes on after it was
    stopped.

    >>> trained = train(TrainSettings("speech/", valid="valid/", minutes=60), out="model")
    >>> trained.recognizer.transcribe("meeting.wav").text

    Args:
        settings: of the run.
        out: a new or empty folder; None: nothing is written.
        device: where the model computes.
        skips: collects what cannot be read of the speech, and gives up past its limit.
        progress: told about the work as it goes.
        tell: told what cannot be seen from the progress, in a sentence.
        log: given each row of the history as it comes, and what it is of.

    Raises:
        SecateurError: something that is asked for is not there, not sound, or not possible. There is no result then.
    """
    if out is not None:
        _check_empty(Path(out))
    progress = progress or ProgressBar("training", quiet=True)
    skips = SkipLog() if skips is None else skips
    tell = tell or (lambda _: None)
    clock = runs.Stopwatch()
    features = ParakeetFeatureExtractor()
    data = open_corpus(settings.data)
    valid = None if settings.valid is None else _scorable(settings.valid, settings.valid_limit)
    plain = runs.plain(settings)
    with Workspace(None) if out is None else Workspace.of(Path(out), plain) as workspace:
        if workspace.resumes:
            tell(f"going on with the run in {workspace.folder}")
        with clock.time("read"):
            progress.begin("reading speech")
            speech = _Transcribed(data, settings.batch_seconds)
            pool = _read(speech, settings, int(features.sampling_rate), skips, progress)
        if speech.left_out:
            tell(speech.said())
        recognizer = _untrained(settings, pool, features, device)
        with clock.time("train"):
            made = workspace.stage(
                PHASE, lambda: _learned(settings, recognizer, pool, valid, workspace, progress, log)
            )
            recognizer.model.load_state_dict(made["model"])
            recognizer.model.eval()
        inside = inspect(recognizer, measure=False)
        report = {
            "params": inside.params,
            "macs_per_second": inside.macs_per_second,
            "shape": asdict(settings.shape),
            "kinds": [
                {"kind": kind, "params": part.params, "macs": part.macs}
                for kind, part in inside.kinds.items()
            ],
            "vocabulary": len(recognizer.tokenizer) - 1,
            "utterances": len(pool),
            "audio_seconds": round(float(pool.seconds.sum()), 1),
            "left_out": speech.left_out,
            "skipped": skips.skipped,
            "steps": made["steps"],
        }
        if valid is not None:
            with clock.time("evaluate"):
                progress.begin("evaluating")
                report["valid"] = evaluate(recognizer, valid, progress=progress).to_json()
        environment = runs.environment() | {"device": str(recognizer.model.device)}
        report |= {
            "history": {PHASE: made["history"]},
            "wall_seconds": clock.seconds,
            "phase_seconds": {PHASE: made["seconds"]},
            "environment": environment,
        }
        if out is not None:
            progress.begin("writing")
            with new_folder(out) as folder:
                recognizer.save_pretrained(folder)
                runs.write_run(folder / "run.yaml", settings, environment)
                (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        return Trained(recognizer, report)


class _Transcribed:
    """The utterances of a corpus that can be learned from, their words as error rates compare them; a source.

    Attributes:
        wordless: how many were left out for want of words, the last time that the source was read.
        long: how many because they are longer than a batch.
    """

    def __init__(self, corpus: Corpus, longest_seconds: float) -> None:
        self.corpus, self.longest_seconds = corpus, longest_seconds
        self.wordless = self.long = 0

    def __call__(self) -> Iterator[Utterance | Skipped]:
        self.wordless = self.long = 0
        words = normaliser("basic")
        for entry in self.corpus.entries():
            if isinstance(entry, Skipped):
                yield entry
                continue
            text = words(entry.text or "")
            if not text:
                self.wordless += 1
                continue
            try:
                seconds = entry.duration or audio_seconds(entry.path) - entry.offset
            except SecateurError as error:
                yield Skipped(entry.id, str(error))
                continue
            if seconds > self.longest_seconds:
                self.long += 1
            else:
                yield replace(entry, text=text)

    @property
    def left_out(self) -> int:
        return self.wordless + self.long

    def said(self) -> str:
        """How many were left out, and why."""
        return (
            f"left out {self.left_out} utterances: {self.wordless} without a transcript, "
            f"{self.long} longer than a batch of {self.longest_seconds:g} s"
        )


def _read(
    speech: _Transcribed, settings: TrainSettings, sample_rate: int, skips: SkipLog, progress: ProgressBar
) -> SpeechPool:
    """All speech that can be learned from."""
    if not any(isinstance(entry, Utterance) for entry in speech()):
        raise SecateurError(
            f"{settings.data} has nothing to learn from ({speech.said()}): give transcribed speech"
            if speech.left_out
            else f"{settings.data} has no utterance that can be read: give transcribed speech"
        )
    return SpeechPool.read(
        Corpus(speech),
        sample_rate,
        skips=skips,
        longest_seconds=settings.batch_seconds,
        progress=lambda utterances, seconds: progress.advance(utterances, audio_seconds=seconds),
    )


def _scorable(data: str | Path, limit: int | None) -> Corpus:
    """Speech to measure on, refused before the work rather than in the midst of it."""
    valid = open_corpus(data, limit=limit)
    for entry in valid.entries():
        if isinstance(entry, Utterance) and entry.text is None:
            raise SecateurError(
                f"{entry.path} has no transcript to measure on: give transcribed speech as {data}, or none"
            )
    return valid


def _untrained(
    settings: TrainSettings,
    pool: SpeechPool,
    features: ParakeetFeatureExtractor,
    device: str | torch.device,
) -> Recognizer:
    """A recogniser of random weights that can write what is said in the speech."""
    texts = [text for text in map(pool.text, range(len(pool))) if text is not None]
    tokenizer = tokenizer_from_pieces(*find_pieces(texts, settings.vocabulary))
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
        dropout=settings.dropout,
        attention_dropout=settings.dropout,
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(settings.seed)
        model = ConformerForCTC(config)
        # PyTorch's own, which NeMo's Conformers begin with too: the larger a layer, the smaller its weights.
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
                module.reset_parameters()
    return Recognizer(model.to(device), features, tokenizer)


def _learned(
    settings: TrainSettings,
    recognizer: Recognizer,
    pool: SpeechPool,
    valid: Corpus | None,
    workspace: Workspace,
    progress: ProgressBar,
    log: Callable[[str, Mapping[str, float]], None] | None,
) -> dict[str, Any]:
    """Train to the end, or go on with it."""
    model = recognizer.model
    working = Working(model, working_type(settings.precision, model))
    part = None if valid is None else spread(valid, settings.valid_utterances)
    steps = settings.steps
    loop = Loop(
        Length(seconds=60 * settings.minutes) if steps is None else Length(steps=steps),
        validations=settings.validations,
        keeps_best=True,
        validates_untrained=False,
        warm_up=settings.warm_up if steps is None else min(settings.warm_up, max(1, steps // 4)),
    )

    def validate() -> float:
        assert part is not None
        model.eval()
        return evaluate(recognizer, part).wer

    logged = 0

    def report(at: Progress, seconds: float, figures: Mapping[str, float]) -> None:
        nonlocal logged
        if log is not None:
            for row in at.history[logged:]:
                log(PHASE, row)
        logged = len(at.history)
        progress.total = at.total
        shown = {name: f"{value:.3g}" for name, value in figures.items()}
        errors = [row["WER"] for row in at.history if "WER" in row]
        if errors:
            shown["WER"] = f"{errors[-1]:.2%}"
        progress.advance(1, audio_seconds=seconds, **shown)

    def feed(start: int) -> Feed:
        return Feed(
            pool,
            recognizer.prepare,
            sample_rate=recognizer.sample_rate,
            batch_seconds=settings.batch_seconds,
            augmentation=Augmentation() if settings.augment else Augmentation.none(),
            clean_epochs=settings.clean_epochs,
            seed=settings.seed,
            start=start,
            frames_per_second=recognizer.inputs_per_second,
            threads=1,
        )

    trainer = Trainer(
        Transcription(recognizer, working, settings.seed),
        [{"params": working.parameters(), "lr": settings.rate}],
        loop,
        checkpoint=workspace.progress(PHASE),
        validate=None if part is None else validate,
        report=report,
    )
    # What is taken up again was logged in an earlier run.
    logged = len(trainer.progress.history)
    progress.begin("training", trainer.progress.total, trainer.progress.step)
    done = trainer.run(feed)
    working.restore()
    return {
        "model": model.state_dict(),
        "history": done.history,
        "steps": done.step,
        "seconds": round(done.spent, 2),
    }


def _check_empty(folder: Path) -> None:
    """Refuse before the work: what took an hour to train is not replaced by the way."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SecateurError(f"{folder} is there already, and is not empty: give a new or an empty folder")
