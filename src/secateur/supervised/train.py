"""The verb: train a Conformer from scratch on transcribed speech, measure it, keep the result in a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import ParakeetFeatureExtractor

from secateur import runs
from secateur.errors import SecateurError
from secateur.evaluation.evaluate import evaluate
from secateur.models.conformer import ConformerConfig
from secateur.progress import ProgressBar
from secateur.recognizer import Recognizer
from secateur.speech.augmentation import Augmentation
from secateur.speech.corpus import Corpus
from secateur.speech.pool import SpeechPool
from secateur.speech.sampling import spread
from secateur.speech.skips import SkipLog
from secateur.structure.checkpoint import LITTER, check_place, new_folder
from secateur.structure.counting import weights_digest
from secateur.structure.inspect import inspect
from secateur.supervised.beginning import check_writable, going_on, untrained, with_vocabulary
from secateur.supervised.objective import Transcription, impossible
from secateur.supervised.pieces import find_pieces
from secateur.supervised.settings import AVERAGED, MATRICES, VOCABULARY, Size, TrainSettings
from secateur.supervised.transcribed import Transcribed, scorable
from secateur.training.feed import Feed
from secateur.training.phase import Log, run_phase
from secateur.training.precision import Working, working_type
from secateur.training.trainer import ORTHOGONAL, Length, Loop
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
    log: Log | None = None,
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
        tell: called with a sentence for the user about what the progress bar does not show.
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
    begun = None if settings.init is None else going_on(settings.init, device, settings.dropout)
    features = ParakeetFeatureExtractor() if begun is None else begun.features
    speech = Transcribed(settings.data, settings.batch_seconds)
    valid = None if settings.valid is None else scorable(settings.valid, settings.valid_limit)
    plain = settings.plain()
    with Workspace(None) if out is None else _workspace(Path(out), plain) as workspace:
        if workspace.resumes:
            tell(f"going on with the run in {workspace.folder}")
        with clock.time("read"):
            progress.begin("reading speech")
            pool = speech.read(int(features.sampling_rate), skips, progress)
            if begun is not None:
                workspace.same("the model that it began with", lambda: weights_digest(begun.model))
            workspace.same("the speech", lambda: pool.said)
            # Batches have other lengths on a CPU.
            workspace.same("the kind of device", lambda: torch.device(device).type)
        if speech.left_out:
            tell(speech.said())
        transcripts = [text for text in map(pool.text, range(len(pool))) if text is not None]
        if begun is not None and settings.vocabulary is None:
            recognizer = begun
        else:
            # Kept, so that a run which goes on need not find them again.
            size = settings.vocabulary or VOCABULARY
            found = workspace.stage(
                "vocabulary",
                lambda: dict(zip(("pieces", "needed"), find_pieces(transcripts, size), strict=True)),
            )
            words = found["pieces"], found["needed"]
            recognizer = (
                untrained(settings, features, *words, device)
                if begun is None
                else with_vocabulary(begun, *words, settings.seed)
            )
        check_writable(recognizer.tokenizer, transcripts, str(settings.init or "the run that goes on"))
        if hopeless := impossible(recognizer, pool):
            tell(
                f"{hopeless} of {len(pool)} utterances have more text than their audio can hold, and teach nothing: are recordings and "
                "transcripts each other's?"
            )
        with clock.time("train"):
            made = workspace.stage(
                PHASE, lambda: _learned(settings, recognizer, pool, valid, workspace, progress, log)
            )
            recognizer.model.load_state_dict(made["model"])
            recognizer.model.eval()
        inside = inspect(recognizer.model, measure=False)
        report = {
            "params": inside.params,
            "macs_per_second": inside.macs_per_second,
            "shape": asdict(_shape(recognizer.model.config)),
            "kinds": [
                {"kind": kind, "params": part.params, "macs": part.macs}
                for kind, part in inside.kinds.items()
            ],
            "vocabulary": len(recognizer.tokenizer) - 1,
            "utterances": len(pool),
            "audio_seconds": round(float(pool.seconds.sum()), 1),
            "heard_seconds": round(made["heard"], 1),
            "left_out": speech.left_out,
            "skipped": skips.skipped,
            "steps": made["steps"],
            "kept_step": made["kept_step"],
        }
        if valid is not None:
            with clock.time("evaluate"):
                progress.begin("evaluating")
                report["valid"] = evaluate(recognizer, valid, progress=progress, tell=tell).to_json()
        report |= {
            "history": {PHASE: made["history"]},
            "wall_seconds": clock.seconds,
            "phase_seconds": {PHASE: made["seconds"]},
            "environment": runs.environment(recognizer.model),
        }
        if out is not None:
            progress.begin("writing")
            with new_folder(out) as folder:
                recognizer.save_pretrained(folder)
                settings.record(folder, report)
        return Trained(recognizer, report)


def _workspace(out: Path, settings: dict[str, Any]) -> Workspace:
    """Where the run keeps what it has done; one that came to nothing may be tried again at another rate."""
    begun = any(Workspace.place(out).glob(f"{PHASE}*.pt"))
    return Workspace.of(out, settings, free=() if begun else ("rate", "precision"))


def _shape(config: ConformerConfig) -> Size:
    return Size(
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.subsampling_conv_channels,
        config.conv_kernel_size,
    )


def _learned(
    settings: TrainSettings,
    recognizer: Recognizer,
    pool: SpeechPool,
    valid: Corpus | None,
    workspace: Workspace,
    progress: ProgressBar,
    log: Log | None,
) -> dict[str, Any]:
    """Train to the end, or go on with it."""
    model = recognizer.model
    working = Working(model, working_type(settings.precision, model))
    part = None if valid is None else spread(Corpus(valid.scorable), settings.valid_utterances)
    steps = settings.steps
    loop = Loop(
        Length(seconds=60 * settings.minutes) if steps is None else Length(steps=steps),
        validations=settings.validations,
        keeps_best=True,
        validates_untrained=False,
        warm_up=settings.warm_up,
        decays=not settings.average,
        means_from=1 - AVERAGED if settings.average else None,
    )

    def validate() -> float:
        assert part is not None
        model.eval()
        return evaluate(recognizer, part).wer

    clean_epochs = settings.clean_epochs
    if clean_epochs is None:
        clean_epochs = int(settings.init is None)
    done = run_phase(
        PHASE,
        Transcription(recognizer, working, settings.seed),
        _parameters(settings, working),
        loop,
        partial(
            Feed,
            recognizer,
            pool,
            batch_seconds=settings.batch_seconds,
            augmentation=Augmentation.of(settings.augment),
            clean_epochs=clean_epochs,
            seed=settings.seed,
            # On a CPU it shares the cores with the model.
            threads=1 if model.device.type == "cpu" else None,
        ),
        workspace,
        progress,
        validate=None if part is None else validate,
        log=log,
    )
    working.restore()
    return {
        "model": model.state_dict(),
        "history": done.history,
        "steps": done.step,
        "kept_step": None if done.best is None else done.best.step,
        "heard": done.heard,
        "seconds": round(done.spent, 2),
    }


def _parameters(settings: TrainSettings, working: Working) -> list[dict[str, Any]]:
    """The parameters, in groups of a rate each."""
    parameters = working.parameters()
    if (settings.optimizer or ("muon" if settings.init is None else "adamw")) == "adamw":
        return [{"params": parameters, "lr": settings.rate}]
    layers = {
        f"{name}.weight"
        for name, module in working.model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("encoder.")
    }
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for (name, _), tensor in zip(working.model.named_parameters(), parameters, strict=True):
        (matrices if name in layers else others).append(tensor)
    return [
        {"params": others, "lr": settings.rate},
        {"params": matrices, "lr": MATRICES * settings.rate, ORTHOGONAL: True},
    ]


def _check_empty(folder: Path) -> None:
    """Refuse before the work: what took an hour to train is not replaced by the way."""
    check_place(folder)
    if folder.exists() and (not folder.is_dir() or any(each.name not in LITTER for each in folder.iterdir())):
        raise SecateurError(f"{folder} is there already, and is not empty: give a new or an empty folder")
