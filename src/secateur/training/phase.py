"""A phase of a run: steps over speech, shown by a progress bar and logged, kept in a workspace and gone on with from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from secateur.errors import NoResultError
from secateur.progress import TARGET, ProgressBar
from secateur.training.feed import Feed
from secateur.training.objective import Objective
from secateur.training.trainer import Loop, Progress, Trainer
from secateur.training.workspace import Workspace

Log = Callable[[str, Mapping[str, float]], None]
"""Given each row of a history as it comes, after the name of the phase that it is of."""


def run_phase(
    name: str,
    objective: Objective,
    parameters: Sequence[dict[str, Any]],
    loop: Loop,
    feed: Callable[[int], Feed],
    workspace: Workspace,
    progress: ProgressBar,
    *,
    validate: Callable[[], float] | None = None,
    log: Log | None = None,
) -> Progress:
    """Train to the end of the phase, from where an earlier run left it.

    Args:
        name: of the phase, for the workspace, the progress bar and the log.
        objective: what is trained.
        parameters: groups of parameters, each with its rate at the top; see `Trainer`.
        loop: how.
        feed: makes the feed that begins with the batch of a step.
        workspace: keeps what is done.
        progress: shows it.
        validate: measures what is trained; None: nothing is measured.
        log: given what is new in the history after each step. A run that was killed gives what came after its last checkpoint
            once more.

    Raises:
        SecateurError: the loss is not finite any more, or what an earlier run left is damaged.
        KeyboardInterrupt: after the step that was being done, and after what is done has been written, which is nothing as long as
            the speed is not known by which the phase is planned.
    """
    logged = 0

    def report(at: Progress, seconds: float, figures: Mapping[str, float]) -> None:
        nonlocal logged
        if log is not None:
            for row in at.history[logged:]:
                log(name, row)
        logged = len(at.history)
        progress.total = at.total
        shown = {each: f"{value:.3g}" for each, value in figures.items() if not each.startswith(TARGET)}
        for each in shown:
            if TARGET + each in figures:
                shown[each] += f" → {figures[TARGET + each]:.3g}"
        errors = [row["WER"] for row in at.history if "WER" in row]
        if errors:
            shown["WER"] = f"{errors[-1]:.2%}"
        progress.advance(1, audio_seconds=seconds, **shown)

    checkpoint = workspace.so_far(name)
    trainer = Trainer(objective, parameters, loop, checkpoint=checkpoint, validate=validate, report=report)
    logged = len(trainer.progress.history)
    progress.begin(name, trainer.progress.total, trainer.progress.step)
    try:
        return trainer.run(feed)
    except NoResultError:
        # Going on from there would come to the same.
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        raise
