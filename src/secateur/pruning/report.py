"""What a run has to say of itself: the figures before and after, what changed most, and the files beside the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.evaluation.comparison import Comparison
from secateur.evaluation.results import Evaluation
from secateur.pruning.learning.method import LearnedMethod
from secateur.pruning.planning.budget import Budget
from secateur.pruning.settings import PruneSettings
from secateur.recognizer import Recognizer
from secateur.structure.cost import CostModel
from secateur.structure.groups import Groups
from secateur.structure.plan import PruningPlan

CHANGED = 6
"""Utterances that a report quotes because they are heard worse than before, and as many because better."""


def made_report(
    settings: PruneSettings,
    budget: Budget,
    groups: Groups,
    plan: PruningPlan,
    costs: Mapping[str, CostModel],
    heard: Comparison | None,
) -> dict[str, Any]:
    """What was asked and what came of it; ``heard``: by the pruned model, and by the one before."""
    counts = plan.counts()

    def figures(kept: Mapping[str, int]) -> dict[str, float]:
        named = {
            "params": costs["params"](kept),
            "macs_per_second": costs["macs"](kept) / settings.audio_seconds,
        }
        return named | ({"latency": costs["latency"](kept)} if "latency" in costs else {})

    before, after = figures({}), figures(counts)
    report: dict[str, Any] = {
        "budget": str(budget),
        "method": settings.method,
        "before": before,
        "after": after,
        "kept": {name: value / before[name] for name, value in after.items()},
        "units": {
            name: [0 if _goes_with_others(name, groups, plan) else counts.get(name, group.size), group.size]
            for name, group in groups.items()
        },
    }
    if heard is not None:
        for name, evaluation in (("before", heard.second), ("after", heard.first)):
            report[name] = evaluation.to_json() | report[name]
        report["comparison"] = heard.to_json()
        report["changed"] = _changed(heard.second, heard.first)
    return report


def learned_figures(runs: Sequence[LearnedMethod]) -> dict[str, Any]:
    """What the learned method did and used; ``runs``: its strides, of which the last is told of where they differ."""
    run = runs[-1]
    return {
        "used": {
            "score_minutes": run.oneshot.score_minutes,
            "reconstruct_minutes": run.oneshot.reconstruct_minutes,
            "reconstruct_steps": run.oneshot.reconstruct_steps,
            "trials": run.oneshot.trials,
            "strides": len(runs),
            "rates": [each.rate for each in runs],
            "validations": run.settings.validations,
            "valid_utterances": run.settings.valid_utterances,
            # A processor without bfloat16 takes fewer steps in the same time.
            "precision": str(run.dtype or run.recognizer.model.dtype).removeprefix("torch."),
        },
        "minutes_heard": {stage: round(minutes, 1) for stage, minutes in run.minutes_heard.items()},
        "history": {phase + each.suffix: rows for each in runs for phase, rows in each.history.items()},
        "phase_seconds": {name: took for each in runs for name, took in each.schedule.seconds.items()},
        "recovered_parts": [{"part": part, "wer": wer} for part, wer in run.parts.items()],
    }


def _goes_with_others(name: str, groups: Groups, plan: PruningPlan) -> bool:
    """Whether a group is in a layer or a module that is gone, or of which only a bias is left; a plan does not list it then."""
    inside = groups[name].inside
    held_by = {units for home in inside if home in groups.branches for units in groups.branches[home].units}
    return not plan.gone.isdisjoint({*inside, *held_by})


def _changed(before: Evaluation, after: Evaluation) -> list[dict[str, Any]]:
    """Utterances with more wrong words than before, the most first, then those with fewer, the most last."""
    pairs = sorted(
        zip(before.rows, after.rows, strict=True),
        key=lambda pair: (pair[0].words.errors - pair[1].words.errors, pair[0].id),
    )
    worse = [pair for pair in pairs if pair[1].words.errors > pair[0].words.errors]
    better = [pair for pair in pairs if pair[1].words.errors < pair[0].words.errors]
    return [
        {
            "id": old.id,
            "seconds": round(old.seconds, 3),
            "reference": old.reference,
            "hypotheses": [old.hypothesis, new.hypothesis],
            "errors": [old.words.errors, new.words.errors],
        }
        for old, new in worse[:CHANGED] + better[-CHANGED:]
    ]


def write_beside(folder: Path, smaller: Recognizer, settings: PruneSettings, report: dict[str, Any]) -> None:
    """The files that a recogniser needs besides its model, and what it came from."""
    smaller.features.save_pretrained(folder)
    smaller.tokenizer.save_pretrained(folder)
    settings.record(folder, report)
