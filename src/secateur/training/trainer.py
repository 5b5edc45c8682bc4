"""The training loop: steps planned to fit a time limit; a run that is killed goes on exactly where it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from secateur.errors import NoResultError
from secateur.training.checkpoint import read_state, write_state
from secateur.training.feed import Batch, Feed
from secateur.training.interrupt import patience
from secateur.training.objective import Objective

LOOKS = (12, 48, 192)
"""Steps after which the speed is looked at where the time is given; later it is each time that `LOOK_SHARE` of the time has gone.

The first tells when the end will be. The later ones mend it: kernels are compiled for every new shape of batch, and a machine
that others use too is not as fast at all times. The first quarter of the steps before each does not count.
"""

LOOK_SHARE, FEWEST_LAPS = 0.05, 4
"""Part of a phase's time, and steps, between two looks at least."""

WARM_UP_STEPS = 40
"""Steps over which the rates of a trained model rise, so that Adam's moments are known before its weights move far."""

WARM_UP_SHARE = 0.25
"""Of all steps, those in which the rates may rise at most."""

ORTHOGONAL = "orthogonal"
"""The key of a group of parameters whose steps are made orthogonal."""

MOST_BROKEN = 10
"""Steps in a row whose loss is not finite, after which nothing will come of the rest."""

CLEARLY = 0.05
"""By how much of its value a validation has to be worse than the lowest for an earlier model to be kept: on a hundred utterances
about as much is chance, and later models have learned from more speech, at lower rates."""

CHECKPOINT_SECONDS = 60.0
CHECKPOINT_SHARE = 0.01
"""A checkpoint is written once a minute, less often where writing takes more than a hundredth of the time."""

HISTORY = 400
"""Points that a curve is kept at."""


@dataclass(frozen=True, slots=True)
class Length:
    """How long a phase is: so many steps, or as many as fit into the seconds."""

    steps: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Loop:
    """How a phase is run.

    Attributes:
        length: of the phase.
        clip: bound on the length of the gradient of each group of parameters.
        validations: how often the model is validated, evenly spread, the last time after the last step; and once more
            before the first one.
        validates_untrained: whether there is that one.
        validations_after: how many more there will be when the phase has ended, in its time.
        warm_up: steps over which the rates rise.
        decays: whether they fall along half a cosine to the end, or stay.
        averages: part of a moving average of what is learned that stays at a step; the average is then what is validated
            and what the phase ends with (Polyak and Juditsky 1992). At the beginning it forgets faster. 0: there is none.
        means_from: part of the steps after which it is the mean over all steps since instead (Izmailov et al. 2018,
            arXiv 1803.05407). None: it is not.
        keeps_best: whether the phase ends with the last model that was not validated `CLEARLY` worse than any, or with the last
            one.
    """

    length: Length
    clip: float = 1.0
    validations: int = 4
    keeps_best: bool = False
    validates_untrained: bool = True
    validations_after: int = 0
    warm_up: int = WARM_UP_STEPS
    decays: bool = True
    averages: float = 0.0
    means_from: float | None = None


class Best(NamedTuple):
    """The lowest value of a validation, and the last model that was not `CLEARLY` worse, after which step."""

    value: float
    model: dict[str, Tensor]
    step: int


@dataclass
class Progress:
    """Where a phase stands.

    Attributes:
        step: steps done.
        total: steps there will be; None until the speed is known.
        spent: seconds that the phase has taken, over all its runs.
        before: those of them that earlier runs took.
        heard: seconds of audio in all steps.
        history: figures of some steps, each with the ``step`` that it is of.
        best: what the phase would end with, where it keeps the best.
        average: the moving average of what is learned, where there is one.
    """

    step: int = 0
    total: int | None = None
    spent: float = 0.0
    before: float = 0.0
    heard: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best: Best | None = None
    average: dict[str, Tensor] | None = None


class Trainer:
    """Runs a phase to its end, or goes on with one.

    Args:
        objective: what is trained.
        parameters: groups of parameters as `torch.optim.AdamW` takes them, each with its rate at the top, ``lr``. Of a group with
            a true `ORTHOGONAL` the parameters are matrices, and move by Muon (Jordan et al. 2024), scaled as AdamW's steps are
            (Liu et al. 2025, arXiv 2502.16982).
        loop: how.
        checkpoint: file to go on from, written all the while; None: it is not kept.
        validate: measures what is trained; the lower the better. Its value is kept in the history as ``WER``.
        report: told after each step about the progress, the seconds of audio and the figures.
    """

    def __init__(
        self,
        objective: Objective,
        parameters: Sequence[dict[str, Any]],
        loop: Loop,
        *,
        checkpoint: Path | None = None,
        validate: Callable[[], float] | None = None,
        report: Callable[[Progress, float, Mapping[str, float]], object] | None = None,
    ) -> None:
        self.objective, self.loop = objective, loop
        self.checkpoint, self.validate, self.report = checkpoint, validate, report
        self.optimizers = _optimizers(parameters)
        self.rates = [group["lr"] for group in self._groups()]
        self.progress = Progress(total=loop.length.steps)
        self._broken = 0
        self._pause = CHECKPOINT_SECONDS
        self._since = perf_counter()
        self._laps: list[float] = []
        # Seconds of a step and of a validation, once they are known.
        self._stepping = 0.0
        self._validating = 0.0
        self._resumed = False
        if checkpoint is not None and checkpoint.exists():
            self._restore(checkpoint)

    def run(self, feed: Callable[[int], Feed]) -> Progress:
        """Train to the end of the phase.

        Args:
            feed: makes the feed that begins with the batch of a step.

        Raises:
            NoResultError: the loss is not finite any more.
            KeyboardInterrupt: after the step that was being done, and after what is done has been written.
        """
        progress = self.progress
        self._since = perf_counter()
        if self.loop.validates_untrained and not progress.history:
            self._validate()
        with patience() as interrupted, feed(progress.step) as batches:
            written = perf_counter()
            while (progress.total is None or progress.step < progress.total) and not interrupted():
                try:
                    batch = next(batches)
                except Exception:
                    # What goes wrong with the speech costs nothing that is learned.
                    self._write()
                    raise
                self.step(batch)
                if perf_counter() - written > self._pause:
                    written = self._write()
            # At the end of the phase too: what comes after it takes its time, and may be stopped.
            self._write()
        final = progress.average if progress.best is None else progress.best.model
        if final is not None:
            self.objective.load_model_state(final)
        return progress

    def step(self, batch: Batch) -> None:
        """Learn from one batch, and do what is due after it but for writing checkpoints; `run` calls it.

        Raises:
            NoResultError: the loss is not finite any more.
        """
        progress = self.progress
        share = 0.0 if progress.total is None else progress.step / progress.total
        factor = self._rate(progress.step, share)
        for group, rate in zip(self._groups(), self.rates, strict=True):
            group["lr"] = rate * factor
        loss, figures = self.objective.loss(batch, share)
        loss.backward()  # type: ignore[no-untyped-call]
        # Each group by itself: a budget that pulls hard at gates must not hold back weights.
        lengths = [
            torch.nn.utils.clip_grad_norm_(group["params"], self.loop.clip) for group in self._groups()
        ]
        self._broken = 0 if all(bool(torch.isfinite(length)) for length in lengths) else self._broken + 1
        if self._broken == 0:
            for optimizer in self.optimizers:
                optimizer.step()
            self.objective.stepped()
            self._average()
        else:
            self.objective.skipped()
            if self._broken >= MOST_BROKEN:
                raise NoResultError(
                    f"the loss is not a number any more, {MOST_BROKEN} steps in a row up to step {progress.step}: "
                    "try a lower rate, or --precision float32"
                )
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        progress.step += 1
        progress.heard += batch.seconds
        self._plan(self._lap())
        self._note(figures)
        if self.report is not None:
            self.report(progress, batch.seconds, figures)

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _rate(self, step: int, share: float) -> float:
        """Of the rates at the top, the part that a step is taken with."""
        warm_up, total = self.loop.warm_up, self.progress.total
        if total is not None:
            warm_up = min(warm_up, max(1, round(WARM_UP_SHARE * total)))
        return rising(step, warm_up) * (falling(share) if self.loop.decays else 1.0)

    def _plan(self, seconds: float) -> None:
        """Say how many steps there will be, once some have shown how long one takes."""
        progress, given = self.progress, self.loop.length.seconds
        if given is None:
            return
        if self._resumed:
            # Its first step waits for the feed, and for kernels that are compiled anew.
            self._resumed = False
        else:
            self._laps.append(seconds)
        due = progress.step in LOOKS or sum(self._laps) > LOOK_SHARE * given
        if progress.step == LOOKS[0] or (progress.step > LOOKS[0] and due and len(self._laps) >= FEWEST_LAPS):
            laps = self._laps[len(self._laps) // 4 :]
            self._stepping = sum(laps) / len(laps)
            self._laps.clear()
            self._fit()

    def _fit(self) -> None:
        """As many steps as the time beside the validations is enough for, by what a step and a validation took last."""
        progress, given = self.progress, self.loop.length.seconds
        if given is None or not self._stepping:
            return
        done = sum("WER" in row for row in progress.history)
        expected = self.loop.validates_untrained + self.loop.validations + self.loop.validations_after
        left = given - progress.spent - self._validating * (expected - done)
        progress.total = progress.step + max(0, int(left / self._stepping))

    def _note(self, figures: Mapping[str, float]) -> None:
        """Keep figures of some steps, and validate where it is time."""
        step, total = self.progress.step, self.progress.total
        if total is None:
            return
        if (step % max(1, total // HISTORY) == 0 or step >= total) and self._broken == 0:
            self.progress.history.append({"step": float(step), **figures})
        # Spread over all steps, of which there may be fewer or more than was thought at the last one.
        done = [row["step"] for row in self.progress.history if "WER" in row and row["step"]]
        last = max(len(done), max(done, default=0) * self.loop.validations // total)
        if step * self.loop.validations // total > last:
            self._validate()

    def _validate(self) -> None:
        """Measure the model, and keep it if it is the best so far."""
        if self.validate is None or not self.loop.validations:
            return
        progress = self.progress
        self._lap()
        with self._averaged():
            value = self.validate()
            lowest = value if progress.best is None else min(value, progress.best.value)
            if self.loop.keeps_best and value <= (1 + CLEARLY) * lowest:
                progress.best = Best(lowest, self.objective.model_state(), progress.step)
        known, self._validating = self._validating, self._lap()
        progress.history.append({"step": float(progress.step), "WER": value})
        if not known:
            self._fit()

    def _average(self) -> None:
        """Take the model as it is into the average."""
        stays = self._staying()
        if stays is None:
            return
        state = self.objective.model_state()
        if self.progress.average is None:
            self.progress.average = state
            return
        for name, average in self.progress.average.items():
            if average.is_floating_point():
                average.lerp_(state[name], 1 - stays)
            else:
                average.copy_(state[name])

    def _staying(self) -> float | None:
        """Part of the average that stays when the model is taken into it; None: it is not taken in."""
        done, total, means_from = self.progress.step, self.progress.total, self.loop.means_from
        if means_from is None:
            return min(self.loop.averages, (done + 1) / (done + 10)) if self.loop.averages else None
        # While it is not known how many steps there will be, these are the first.
        had = -1 if total is None else done - math.ceil(means_from * total)
        return None if had < 0 else had / (had + 1)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within the context the model is the average, where there is one."""
        if self.progress.average is None:
            yield
            return
        learned = self.objective.model_state()
        self.objective.load_model_state(self.progress.average)
        try:
            yield
        finally:
            self.objective.load_model_state(learned)

    def _lap(self) -> float:
        """Seconds since the last time, which were spent on the phase: data that was waited for, checkpoints and all."""
        now = perf_counter()
        seconds, self._since = now - self._since, now
        self.progress.spent += seconds
        return seconds

    def _write(self) -> float:
        start, progress = perf_counter(), self.progress
        # Until the length is known the phase begins anew, lest its length depend on when it was stopped.
        if self.checkpoint is None or progress.total is None:
            return start
        write_state(
            self.checkpoint,
            {
                "step": progress.step,
                "total": progress.total,
                "spent": progress.spent,
                "heard": progress.heard,
                "history": progress.history,
                "best": None if progress.best is None else tuple(progress.best),
                "average": progress.average,
                "laps": self._laps,
                "stepping": self._stepping,
                "validating": self._validating,
                "model": self.objective.model_state(),
                "objective": self.objective.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            },
        )
        self._pause = max(CHECKPOINT_SECONDS, (perf_counter() - start) / CHECKPOINT_SHARE)
        return perf_counter()

    def _restore(self, path: Path) -> None:
        state = read_state(path)
        self.objective.load_model_state(state["model"])
        self.objective.load_state_dict(state["objective"])
        for optimizer, known in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(known)
        self._laps, self._stepping, self._validating = state["laps"], state["stepping"], state["validating"]
        self._resumed = True
        best, average = state["best"], state["average"]
        if average is not None:
            # It goes on where the model is.
            here = self.objective.model_state()
            average = {name: tensor.to(here[name].device) for name, tensor in average.items()}
        self.progress = Progress(
            step=state["step"],
            total=state["total"],
            spent=state["spent"],
            before=state["spent"],
            heard=state["heard"],
            history=state["history"],
            best=None if best is None else Best(*best),
            average=average,
        )


def rising(step: int, warm_up: float) -> float:
    """Of a rate at the top, the part with which a step of a warm-up is taken; all of it later."""
    return min(1.0, (step + 1) / warm_up)


def falling(share: float) -> float:
    """Of a rate at the top, the part that is left along half a cosine when that share of the steps is done."""
    return 0.5 * (1 + math.cos(math.pi * share))


def _optimizers(parameters: Sequence[dict[str, Any]]) -> list[torch.optim.Optimizer]:
    matrices = [group for group in parameters if group.get(ORTHOGONAL)]
    others = [group for group in parameters if not group.get(ORTHOGONAL)]
    optimizers: list[torch.optim.Optimizer] = []
    if others:
        optimizers.append(torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0, fused=True))
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
    return optimizers
