"""What decides a training from scratch: its settings, which ``run.yaml`` holds, and the sizes that have names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from secateur import runs
from secateur.errors import SecateurError
from secateur.speech.augmentation import AUGMENTATIONS, Augmentation


@dataclass(frozen=True, slots=True)
class Size:
    """Dimensions of a Conformer; its feed-forward modules have four times its width.

    Attributes:
        layers: Conformer layers.
        width: of the residual stream; even, and a multiple of the heads.
        heads: of each attention.
        channels: of the convolutions that subsample by 4.
        kernel: taps of the depthwise convolutions.
    """

    layers: int
    width: int
    heads: int
    channels: int
    kernel: int


SIZES = {"tiny": Size(12, 96, 4, 48, 15), "small": Size(16, 176, 4, 176, 31)}
"""The first is the default, 2.8 M parameters; ``small`` is as NVIDIA's ``stt_en_conformer_ctc_small``, 13 M."""

VOCABULARY = 256
"""Pieces of words that a model of random weights writes with, where nobody says."""

OPTIMIZERS = ("muon", "adamw")

AVERAGED = 0.75
"""Part of the steps, the last of them, over which weights are averaged where that is asked for."""

MATRICES = 2.0
"""Rate of the matrices that Muon moves, for that of all else."""


@dataclass(frozen=True, slots=True)
class TrainSettings(runs.Settings):
    """Everything that decides a training, and nothing else; ``run.yaml`` holds it.

    Attributes:
        data: transcribed speech to train on.
        valid: transcribed speech that word error rates are measured on, in between and after; None: they are not,
            and the last model is kept, whatever it is like.
        valid_limit: its first so many utterances; None: all.
        init: a recogniser whose weights training begins with, of `secateur.train` or from a NeMo archive; None: it begins with
            random ones.
        size: one of `SIZES`; with ``init``, its dimensions hold, and these three are not looked at.
        layers: instead of the size's; so are ``width`` and ``heads``.
        vocabulary: pieces of words that the model writes with, at most; the blank comes on top. They are found in the
            transcripts. None: `VOCABULARY` of them, or with ``init`` those that it has. A number with ``init`` gives it
            new ones, put where its own were that they end with.
        minutes: wall-clock time that the training is planned to fit into, validations included; what is read before
            and measured after comes on top.
        steps: of training, which then takes the time that it takes; None: by ``minutes``.
        rate: peak learning rate, which falls along half a cosine to nothing.
        average: whether it stays there instead, and what comes out are the weights' means over the last `AVERAGED` of the steps.
        optimizer: ``adamw`` for all parameters, or ``muon`` (Jordan et al. 2024) for the matrices of linear layers below the head,
            at `MATRICES` times the rate, and AdamW for all else. None: ``muon`` from random weights, which it teaches in half as many
            steps, and ``adamw`` with ``init``.
        warm_up: steps over which it rises; at most a quarter of ``steps``.
        batch_seconds: audio in a batch, padding included. Longer utterances are left out.
        dropout: rate after every module and on attention weights; None: 0, or with ``init`` what it has. Drawing it takes a CPU a third of
            the time, and a small model that hears everything a few times, changed, has little to overfit.
        augment: what speech goes through after the first epochs, one of `AUGMENTATIONS`.
        clean_epochs: how often all of it is heard as it is before that. None: once, with ``init`` not at all.
        precision: ``bfloat16``, ``float32``, or ``auto``: bfloat16 where the processor has it.
        validations: how often the word error rate is measured in between.
        valid_utterances: on so many.
        seed: of everything that is drawn.

    Raises:
        SecateurError: a setting is out of its range, or the dimensions do not go together.
    """

    data: str | Path
    valid: str | Path | None = None
    valid_limit: int | None = None
    init: str | Path | None = None
    size: str = "tiny"
    layers: int | None = None
    width: int | None = None
    heads: int | None = None
    vocabulary: int | None = None
    minutes: float = 60.0
    steps: int | None = None
    rate: float = 1.5e-3
    average: bool = False
    optimizer: str | None = None
    warm_up: int = 300
    batch_seconds: float = 60.0
    dropout: float | None = None
    augment: str = AUGMENTATIONS[0]
    clean_epochs: int | None = None
    precision: str = "auto"
    validations: int = 10
    valid_utterances: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise SecateurError(f"there is no size {self.size!r}; choose one of {', '.join(SIZES)}")
        runs.check_precision(self.precision)
        if self.optimizer not in (None, *OPTIMIZERS):
            raise SecateurError(f"there is no optimizer {self.optimizer!r}; give {' or '.join(OPTIMIZERS)}")
        runs.check_above_nothing(
            self,
            "valid_limit", "layers", "width", "heads", "vocabulary", "minutes", "steps", "rate", "warm_up", "batch_seconds",
            "valid_utterances",
        )  # fmt: skip
        Augmentation.of(self.augment)
        runs.check_not_negative(self, "clean_epochs", "validations")
        runs.check_seed(self.seed)
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise SecateurError(f"dropout is {self.dropout}; give 0 or more, and less than 1")
        shape = self.shape
        if shape.width % 2 or shape.width % shape.heads:
            raise SecateurError(
                f"a width of {shape.width} does not go with {shape.heads} heads: give an even width that is a multiple of them"
            )

    @property
    def shape(self) -> Size:
        """The dimensions of ``size``, but for those that are given."""
        given = {"layers": self.layers, "width": self.width, "heads": self.heads}
        return replace(
            SIZES[self.size], **{name: value for name, value in given.items() if value is not None}
        )
