"""Scores of a comparison: each is made once, and decides every run that asks for it, whatever the budget."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from secateur import __version__
from secateur.errors import SecateurError
from secateur.files import make_folder
from secateur.pruning.learning.method import Decide, LearnedMethod
from secateur.pruning.oneshot import Decision, Judgement, judge, share_out
from secateur.training.checkpoint import read_state, write_state


def shared(folder: Path, about: Mapping[str, Any]) -> Decide:
    """What decides a run by scores that it shares with others: they are read, or made by the run that first asks for them.

    The seconds that scoring took count in each: every run has as little time left as if it had scored by itself.

    Args:
        folder: keeps what scores came to, a file for each, which may be deleted at any time.
        about: what scores depend on beside the settings of a run's own, as JSON has it: the model, the speech.
    """

    def decide(run: LearnedMethod) -> Decision:
        judgement = _judgement(run, folder / f"{run.oneshot.score}.pt", about)
        plan = share_out(
            judgement, run.groups, run.costs, run.budget, run.speech, run.oneshot, run.progress.stage
        )
        return Decision(judgement, plan, run.oneshot.minutes_scored)

    return decide


def _judgement(run: LearnedMethod, file: Path, about: Mapping[str, Any]) -> Judgement:
    """What a file holds, if it is of the same; else it is written."""
    asked = {
        **about,
        "secateur": __version__,
        "groups": list(run.groups),
        "minutes": run.oneshot.minutes_scored,
        "seed": run.oneshot.seed,
    }
    try:
        if file.exists() and (known := read_state(file)).get("about") == asked:
            run.schedule.found(known["seconds"])
            return Judgement.of(known, run.recognizer)
    except SecateurError:
        # Damaged: it is made anew.
        pass
    began = perf_counter()
    judgement = judge(run.recognizer, run.groups, run.speech, run.oneshot, run.progress.stage)
    made = {"about": asked, "seconds": perf_counter() - began}
    make_folder(file.parent)
    write_state(file, judgement.state(run.recognizer) | made)
    return judgement
