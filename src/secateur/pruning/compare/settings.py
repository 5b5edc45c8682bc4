"""What decides a comparison: methods, budgets, and the settings that each run has of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from secateur.errors import SecateurError
from secateur.pruning.compare.outsider import NAME as TORCH_PRUNING
from secateur.pruning.learning.learned import PHASES, Learned
from secateur.pruning.learning.strides import barred
from secateur.pruning.oneshot import OneShot
from secateur.pruning.planning.budget import Budget
from secateur.pruning.planning.scope import Scope
from secateur.pruning.scoring.scores import SCORES
from secateur.pruning.settings import PruneSettings
from secateur.runs import Settings, check_above_nothing

SEARCH, SCRATCH = "search", "scratch"

METHODS = (SEARCH, *SCORES, SCRATCH, TORCH_PRUNING)
"""What can be compared: gates that are learned; each score, whose plan is refitted and recovered, `obs` being that of `prune`
by default; the same fraction of every group, with units drawn at random and nothing refitted, recovered: a narrower model, trained
anew; and what another library does by itself, recovered."""

ALL = "all"


@dataclass(frozen=True, slots=True)
class CompareSettings(Settings):
    """Everything that decides a comparison.

    Attributes:
        model: what is pruned.
        data: speech that it is pruned on; transcripts are not needed.
        valid: transcribed speech that runs choose among their checkpoints by, and are measured on.
        budgets: as `read_budgets` reads them.
        methods: which of `METHODS`, or `ALL`.
        test: transcribed speech that what came out is measured on, and nothing else is done with; None: it is not.
        limit: take the first so many utterances of ``valid`` and ``test``; None: all.
        oneshot: how much speech to score and refit on, and the seed; its score is where the search begins, and nobody has trials.
        learned: length of every run, its strides where there can be several, and how everything is trained; its phases are not looked at.
        audio_seconds: length of the utterance that multiply-accumulates and time are for.
        scope: what may go at all; scores that do not judge the residual width leave it whole.
        rounds: forward passes of the unpruned and the pruned model, in turns, that are timed.

    Raises:
        SecateurError: a method or a budget makes no sense, or there is none.
    """

    model: str | Path
    data: str | Path
    valid: str | Path
    budgets: tuple[str, ...]
    methods: tuple[str, ...] = (ALL,)
    test: str | Path | None = None
    limit: int | None = None
    oneshot: OneShot = field(default_factory=OneShot)
    learned: Learned = field(default_factory=Learned)
    audio_seconds: float = 10.0
    scope: Scope = field(default_factory=Scope)
    rounds: int = 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "budgets", read_budgets(self.budgets))
        object.__setattr__(self, "methods", _read_methods(self.methods))
        check_above_nothing(self, "limit", "audio_seconds", "rounds")

    def run(self, method: str, budget: str) -> PruneSettings:
        """The settings of one run."""
        phases: tuple[str, ...] = ("start", "reconstruct", "recover")
        score, scope = method, self.scope
        if method == SEARCH:
            phases, score = PHASES, self.oneshot.score
        elif method == SCRATCH:
            phases, score = ("start", "recover"), "random"
        elif method == TORCH_PRUNING:
            # Its plan comes from elsewhere.
            phases, score = ("recover",), "magnitude"
        if scope.width and method in SCORES and not SCORES[method].judges_width:
            scope = replace(scope, width=False)
        # In as many strides for all as can be. What comes from elsewhere, and what is trained anew, is decided at once.
        learned = replace(self.learned, phases=phases, strides=self.learned.strides or 1)
        if method in (SCRATCH, TORCH_PRUNING) or barred(Budget.parse(budget), learned, width=scope.width):
            learned = replace(learned, strides=1)
        return PruneSettings(
            self.model,
            self.data,
            budget,
            valid=self.valid,
            valid_limit=self.limit,
            oneshot=replace(self.oneshot, score=score, trials=0),
            learned=learned,
            audio_seconds=self.audio_seconds,
            scope=scope,
        )


def read_budgets(texts: str | Iterable[str]) -> tuple[str, ...]:
    """Budgets as `Budget` writes them, each once.

    ``"70%,50%"`` are two, of which each holds parameters and multiply-accumulates to the same fraction;
    ``"params=50%,latency=60%"`` is one.

    Raises:
        SecateurError: there is none, or one does not read like that.
    """
    texts = (texts,) if isinstance(texts, str) else texts
    parts = [part for text in texts for part in ([text] if "=" in text else text.split(","))]
    if not parts:
        raise SecateurError("there is no budget to compare at; give one such as 50%")
    return tuple(dict.fromkeys(str(Budget.parse(part)) for part in parts))


def run_name(method: str, budget: str) -> str:
    """``wanda``, ``params=50%,macs=50%`` -> ``wanda_params50_macs50``."""
    return f"{method}_" + budget.replace("=", "").replace("%", "").replace(",", "_")


def _read_methods(names: str | Iterable[str]) -> tuple[str, ...]:
    """Methods in the order of `METHODS`, each once."""
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in (ALL, *METHODS):
            raise SecateurError(f"there is no method {name!r}; choose {ALL}, or among {', '.join(METHODS)}")
    if not names:
        raise SecateurError(f"there is no method to compare; choose {ALL}, or among {', '.join(METHODS)}")
    return tuple(name for name in METHODS if ALL in names or name in names)
