"""What the learned method can be told: which phases it has, how long they take, and what they learn from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from secateur.errors import SecateurError
from secateur.pruning.distillation import Distillation
from secateur.runs import check_above_nothing, check_not_negative, check_precision
from secateur.speech.augmentation import AUGMENTATIONS, Augmentation

PHASES = ("start", "search", "reconstruct", "recover")
"""The phases that can be left out. Slicing always happens, and so does the start where there is no search: something must decide the plan."""


USUAL_RATES = (0.5, 3e-4), (0.3, 1e-3)
"""Shares of a model that stay, and the rates that they are trained at where nobody says: found on those two (docs/notes/learned.md)."""

TRAINED = frozenset({"search", "recover"})
"""The phases in which something is trained."""


@dataclass(frozen=True, slots=True)
class Learned:
    """Settings of the method.

    Attributes:
        minutes: wall-clock time that the phases are planned to fit into; what is read and measured before and after
            comes on top.
        steps: of search and recovery together, which then take the time that they take; None: by ``minutes``.
        phases: which of `PHASES` there are. By default there is no search: within an hour it has not been clearly ahead, on a
            Conformer of 13 M parameters, of as much more recovery (docs/notes/learned.md).
        strides: in how many the budget is gone down to, each of them with all phases; None: see `strides.strides`.
        search_share: part of the steps, or of the time, for search and recovery that goes into the search.
        rate: peak learning rate of the weights; None: by how much has to go, see `usual_rate`.
        gate_rate: learning rate of the gates.
        coarse: whether modules and layers have gates of their own in the search. With eighty, each of them open
            with a probability of .99, every other draw closes one at least, and a student that was refitted hears little then. A module goes
            without a gate too, with its last unit.
        batch_seconds: audio in a batch, padding included.
        augment: what training speech goes through, one of `AUGMENTATIONS`. Speech at another speed, and so in
            another voice, teaches as much as new speech; the same once more teaches little.
        distillation: what the loss is made of.
        transcripts: whether the task loss takes transcripts where there are any; else always what the teacher hears.
        precision: ``bfloat16``, ``float32``, or ``auto``: bfloat16 where the processor has it.
        validations: how often the word error rate is measured in the last phase; 0: never, and the last model is kept.
        valid_utterances: on so many; where nothing is transcribed, against what the unpruned model hears in as many of the training
            speech, or a twentieth of it, which are set aside; where that is less than twenty, nothing is validated.
    """

    minutes: float = 45.0
    steps: int | None = None
    phases: tuple[str, ...] = ("start", "reconstruct", "recover")
    strides: int | None = None
    search_share: float = 0.4
    rate: float | None = None
    gate_rate: float = 0.02
    coarse: bool = False
    batch_seconds: float = 30.0
    augment: str = AUGMENTATIONS[0]
    distillation: Distillation = field(default_factory=Distillation)
    transcripts: bool = True
    precision: str = "auto"
    validations: int = 4
    valid_utterances: int = 100

    @property
    def validates(self) -> bool:
        """Whether the word error rate is measured in between."""
        return bool(TRAINED.intersection(self.phases)) and self.validations > 0 and self.valid_utterances > 0

    def __post_init__(self) -> None:
        unknown = [phase for phase in self.phases if phase not in PHASES]
        if unknown:
            raise SecateurError(f"there is no phase {unknown[0]!r}; choose among {', '.join(PHASES)}")
        check_precision(self.precision)
        Augmentation.of(self.augment)
        if not (0 < self.batch_seconds < math.inf):
            raise SecateurError(
                f"batches of {self.batch_seconds:g} s cannot be made; give a finite length above 0"
            )
        if not 0 <= self.minutes < math.inf or (self.steps is not None and self.steps < 0):
            raise SecateurError("a run cannot take less than no time; give --minutes or --steps of 0 or more")
        check_above_nothing(self, "strides", "rate", "gate_rate")
        check_not_negative(self, "validations", "valid_utterances")
        if not 0 <= self.search_share <= 1:
            raise SecateurError(f"search_share is {self.search_share}; give 0 to 1")


def usual_rate(share: float) -> float:
    """The peak learning rate for a model of which so much of what is limited stays: the more it has lost, the higher."""
    (mild, low), (harsh, high) = USUAL_RATES
    way = min(1.0, max(0.0, (mild - share) / (mild - harsh)))
    return low * math.pow(high / low, way)
