"""The time of a run: what its stages took, in whichever process, and how long each phase of training may be."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from secateur.pruning.learning.learned import Learned
from secateur.training.trainer import Length
from secateur.training.workspace import Workspace


class Schedule:
    """Shares the time out that a run was given, which begins when this is made.

    Args:
        settings: of the method.
        workspace: keeps what is done, and how long it took.
        suffix: what the names of stages end with.

    Attributes:
        seconds: that each stage took.
    """

    def __init__(self, settings: Learned, workspace: Workspace, suffix: str = "") -> None:
        self.settings, self.workspace, self.suffix = settings, workspace, suffix
        self.seconds: dict[str, float] = {}
        self._began, self._before = perf_counter(), 0.0

    @property
    def spent(self) -> float:
        """Seconds since the run began, and those that earlier processes took for what it found done."""
        return self._before + perf_counter() - self._began

    def found(self, seconds: float) -> None:
        """Count what was done, but not by this process."""
        self._before += seconds

    def stage(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A stage of the workspace: what was kept of it, or else what is made now."""
        name, start = name + self.suffix, self.spent
        made = self.workspace.stage(name, lambda: make() | {"seconds": self.spent - start})
        self.found(max(0.0, start + made["seconds"] - self.spent))
        self.seconds[name] = round(made["seconds"], 2)
        return made

    def length(self, phase: str) -> Length:
        """Steps that were asked for, or the phase's part of the time that is left."""
        settings = self.settings
        share = settings.search_share if "recover" in settings.phases else 1.0
        if settings.steps is not None:
            search = round(share * settings.steps) if "search" in settings.phases else 0
            return Length(steps=search if phase == "search" else settings.steps - search)
        left = 60 * settings.minutes - self.spent
        if phase == "search":
            left *= share
        return Length(seconds=max(1.0, left))
