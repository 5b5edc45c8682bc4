"""What decides a run of pruning: its settings, which ``run.yaml`` holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from secateur.errors import SecateurError
from secateur.pruning.learning.learned import Learned
from secateur.pruning.oneshot import OneShot
from secateur.pruning.planning.scope import Scope
from secateur.pruning.scoring.scores import SCORES
from secateur.runs import Settings, check_above_nothing

METHODS = ("learned", "oneshot")
"""How to prune; the first is the default."""


@dataclass(frozen=True, slots=True)
class PruneSettings(Settings):
    """Everything that decides a run, and nothing else; ``run.yaml`` holds it.

    Attributes:
        model: what is pruned.
        data: speech that it is pruned on; transcripts are not needed.
        keep: the budget.
        teacher: what the learned method distils from, where ``model`` is what is left of it already; None: ``model``.
        valid: transcribed speech that word error rates before and after are measured on; None: they are not.
        valid_limit: its first so many utterances; None: all.
        method: one of `METHODS`.
        oneshot: settings of scores and of refitting, which every method begins with.
        learned: settings of the learned method.
        audio_seconds: length of the utterance that multiply-accumulates and latency are for.
        scope: what may go at all.

    Raises:
        SecateurError: a setting is out of its range, or two do not go together.
    """

    model: str | Path
    data: str | Path
    keep: str
    teacher: str | Path | None = None
    valid: str | Path | None = None
    valid_limit: int | None = None
    method: str = METHODS[0]
    oneshot: OneShot = field(default_factory=OneShot)
    learned: Learned = field(default_factory=Learned)
    audio_seconds: float = 10.0
    scope: Scope = field(default_factory=Scope)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SecateurError(f"there is no method {self.method!r}; choose one of {', '.join(METHODS)}")
        if self.teacher is not None and self.method != "learned":
            raise SecateurError(
                f"a teacher is of no use to the method {self.method}; leave it out, or take learned"
            )
        check_above_nothing(self, "audio_seconds")
        if self.valid_limit is not None and self.valid_limit < 1:
            raise SecateurError(f"valid_limit is {self.valid_limit}; give 1 or more")
        if self.searches and self.oneshot.uniform:
            raise SecateurError(
                "uniform sharing is for scores, and a search decides for itself: leave one of them out"
            )
        if self.scope.width and not self.searches and not SCORES[self.oneshot.score].judges_width:
            able = ", ".join(name for name, score in SCORES.items() if score.judges_width)
            raise SecateurError(
                f"the residual width would stay, because the score {self.oneshot.score} does not judge it: give a score of {able}, "
                "let a search decide, or leave the width out"
            )

    @property
    def searches(self) -> bool:
        """Whether gates learn what goes."""
        return self.method == "learned" and "search" in self.learned.phases
