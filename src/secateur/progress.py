"""The one progress bar: seconds of audio done, speed, the figures that matter, time left; on standard error."""

from __future__ import annotations

from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_BAR, _ROOMY = 24, 110
"""Columns of the bar itself, and those that a terminal has that shows one."""

TARGET = "target of "
"""What the name of a figure begins with that another one, of the name after it, is to come to at the step."""


class ProgressBar:
    """What long work reports to; a context manager, silent where nobody would see it.

    >>> with ProgressBar("evaluating", total=462, quiet=quiet) as bar:
    ...     for batch in batches:
    ...         bar.advance(len(batch), audio_seconds=seconds, WER="3.5 %")

    shows `evaluating ━━━━━╸━━━ 64% 0:00:32 left WER 3.5 %  41:27 of audio  35 x real time`, and less of its end where there is no room.

    Args:
        description: what is being done, in a word or two.
        total: how many steps (utterances, updates, layers, ...) there are; None where nobody knows yet. It may be
            set later.
        quiet: show nothing. Nothing is shown either where standard error is not a terminal.
        console: where to show it instead of standard error.
    """

    def __init__(
        self,
        description: str,
        *,
        total: float | None = None,
        quiet: bool = False,
        console: Console | None = None,
    ) -> None:
        self.description = description
        self.quiet = quiet
        self._total = total
        self._console = console
        self._display: Progress | None = None
        self._task: TaskID | None = None
        self._audio_seconds = 0.0
        self._started = perf_counter()

    @property
    def total(self) -> float | None:
        """Steps there are, if known."""
        return self._total

    @total.setter
    def total(self, steps: float | None) -> None:
        self._total = steps
        if self._display is not None and self._task is not None:
            self._display.update(self._task, total=steps)

    def __enter__(self) -> ProgressBar:
        self._started = perf_counter()
        if self.quiet:
            return self
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.table import Column

        console = self._console or Console(stderr=True)
        if not console.is_terminal:
            return self

        def whole(least: int) -> Column:
            return Column(no_wrap=True, min_width=least)

        # Only the figures give way, from their end.
        self._display = Progress(
            TextColumn("{task.description}", table_column=whole(10)),
            *([BarColumn(bar_width=_BAR)] if console.width >= _ROOMY else []),
            TaskProgressColumn(table_column=whole(4)),
            TimeRemainingColumn(table_column=whole(7)),
            TextColumn("left", table_column=whole(4)),
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True, ratio=1)),
            console=console,
            transient=True,
            expand=True,
        )
        self._task = self._display.add_task(self.description, total=self._total, figures="")
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None

    def begin(self, description: str, total: float | None = None, done: int = 0) -> None:
        """Start on another piece of work, of ``total`` steps, or go on with one of which some are done."""
        self.description, self._audio_seconds, self._started = description, 0.0, perf_counter()
        self.total = total
        if self._display is not None and self._task is not None:
            self._display.reset(self._task, completed=done, description=description, total=total, figures="")

    def stage(self, description: str, done: float) -> None:
        """Report which share of a piece of work is done, which begins with the first report of its name."""
        if description != self.description:
            self.begin(description, total=1.0)
        if self._display is not None and self._task is not None:
            self._display.update(self._task, completed=done)

    def advance(self, steps: float = 1, *, audio_seconds: float = 0.0, **figures: object) -> None:
        """Report progress since the last call.

        Args:
            steps: steps done.
            audio_seconds: seconds of audio they held.
            figures: what to show beside it, by name, as it shall read.
        """
        self._audio_seconds += audio_seconds
        if self._display is None or self._task is None:
            return
        shown = [f"{name} {value}" for name, value in figures.items()]
        if self._audio_seconds:
            speed = self._audio_seconds / max(perf_counter() - self._started, 1e-9)
            shown += [f"{clock(self._audio_seconds)} of audio", f"{speed:.3g} x real time"]
        self._display.update(self._task, advance=steps, figures="  ".join(shown))


def clock(seconds: float) -> str:
    """Write a duration as people read it: `41:27`, `2:41:27`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
