"""Scores of a comparison: each is made once, and decides every run that asks for it, whatever the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from secateur.errors import SecateurError
from secateur.files import make_folder
from secateur.pruning.budget import Budget
from secateur.pruning.oneshot import Decision, Judgement, Stages, judge, share_out
from secateur.pruning.settings import PruneSettings
from secateur.recognizer import Recognizer
from secateur.speech.audio import Waveform
from secateur.structure.cost import CostModel
from secateur.structure.groups import Groups
from secateur.training.checkpoint import read_state, write_state


@dataclass(frozen=True)
class Judge:
    """What says, of all runs of a comparison, which units a score would remove.

    Attributes:
        recognizer: the unpruned recogniser.
        groups: its groups that may be pruned.
        speech: to score on, in batches.
        folder: keeps what scores came to, a file for each, which may be deleted at any time.
        progress: told about the work.
    """

    recognizer: Recognizer
    groups: Groups
    speech: Sequence[Sequence[Waveform]]
    folder: Path
    progress: Stages

    def start(self, settings: PruneSettings, costs: Mapping[str, CostModel]) -> dict[str, Any]:
        """The phase ``start`` of a run as `LearnedMethod` keeps it, from scores that are there or are made now.

        Its seconds are those of the scoring too, whenever that was: every run has as little time left as if it had
        scored by itself.

        Raises:
            SecateurError: the budget cannot be met.
        """
        scored = self._scored(settings)
        began = perf_counter()
        judgement = Judgement.of(scored, self.recognizer)
        plan = share_out(
            judgement,
            self.groups,
            costs,
            Budget.parse(settings.keep),
            self.speech,
            settings.oneshot,
            self.progress,
            audio_seconds=settings.audio_seconds,
        )
        decision = Decision(judgement, plan, settings.oneshot.minutes_scored)
        return decision.state(self.recognizer) | {"seconds": scored["seconds"] + perf_counter() - began}

    def _scored(self, settings: PruneSettings) -> dict[str, Any]:
        file = self.folder / f"{settings.oneshot.score}.pt"
        asked = _asked(settings)
        try:
            if file.exists() and (known := read_state(file)).get("settings") == asked:
                return known
        except SecateurError:
            # Damaged: it is made anew.
            pass
        began = perf_counter()
        judgement = judge(self.recognizer, self.groups, self.speech, settings.oneshot, self.progress)
        made = judgement.state(self.recognizer) | {"settings": asked, "seconds": perf_counter() - began}
        make_folder(self.folder)
        write_state(file, made)
        return made


def _asked(settings: PruneSettings) -> dict[str, Any]:
    """Those of a run's settings that its scores depend on."""
    plain = settings.changed({"oneshot.trials": 0}).plain()
    names = ("model", "data", "oneshot", "scope")
    return {name: plain[name] for name in names}
