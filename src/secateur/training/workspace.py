"""What a run has done so far, in a folder beside its result: a run that was stopped goes on from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from secateur.errors import SecateurError, reason
from secateur.files import write_text
from secateur.training.checkpoint import read_state, write_state

SETTINGS = "settings.json"
FIGURES = "figures.json"
LOCK = ".lock"
OWN = frozenset({SETTINGS, FIGURES, LOCK})
"""What a workspace holds beside the stages, ``*.pt``."""

Difference = tuple[str, Any, Any]
"""The name of a setting, and its two values."""


class Workspace:
    """The stages of one run that are done, each in a file; a context that leaves nothing once the run is finished.

    >>> with Workspace.of(Path("smaller"), {"keep": "params=50%"}) as workspace:
    ...     scores = workspace.stage("scores", compute_scores)

    Args:
        folder: where; None: nothing is kept, and what is asked for is made.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._lock: BaseFileLock | None = None

    @classmethod
    def of(cls, result: Path, settings: Mapping[str, Any], *, free: Collection[str] = ()) -> Workspace:
        """The workspace of the run that writes ``result`` with these settings, which JSON takes; new or of before.

        Args:
            result: what the run writes.
            settings: of the run.
            free: those of them, by their names with dots, that what is done does not depend on, and that may be others now.

        Raises:
            SecateurError: a run with other settings was stopped there, another one is at work there, the folder holds
                something else, or nothing can be written there.
        """
        folder = cls.place(result)
        workspace, known = cls(folder), folder / SETTINGS
        plain = json.loads(json.dumps(settings, default=str))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            workspace._lock = FileLock(folder / LOCK)
            workspace._lock.acquire(blocking=False)
            for partial in folder.glob(".*.partial"):
                # A run that was killed was writing it.
                partial.unlink(missing_ok=True)
            # Stages without settings are of nobody knows which run.
            if not known.is_file() and any(each.name not in OWN for each in folder.iterdir()):
                workspace.release()
                raise SecateurError(
                    f"{folder}, where unfinished work is kept, holds something else: move it, or choose another place"
                )
            if not workspace.resumes:
                (folder / FIGURES).unlink(missing_ok=True)
                write_text(known, json.dumps(plain, indent=2) + "\n", instead="choose another place")
        except Timeout:
            raise SecateurError(
                f"another run is at work in {folder}: wait until it has ended, or choose another place"
            ) from None
        except OSError as error:
            raise SecateurError(
                f"{folder} cannot be written: {reason(error)}; choose another place"
            ) from None
        others = list(differences(_read(known), plain))
        if others and all(name in free for name, _, _ in others):
            write_text(known, json.dumps(plain, indent=2) + "\n")
        elif others:
            workspace.release()
            raise SecateurError(
                f"{folder} holds an unfinished run with other settings ({told(others)}): "
                "give the same ones to go on with it, or delete the folder"
            )
        return workspace

    @staticmethod
    def place(result: Path) -> Path:
        """The folder of the workspace of the run that writes ``result``."""
        result = result.absolute()
        return result.with_name(f"{result.name}.unfinished")

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete everything, unless the run was stopped with something to go on from; others may go on then."""
        # Before others may have the place: one that has begun there would lose its files.
        done = kind is None or not self.resumes
        if done:
            self.close()
        self.release()
        if done and self.folder is not None:
            # What some file systems keep as long as it is open.
            with suppress(OSError):
                self.folder.rmdir()

    @property
    def resumes(self) -> bool:
        """Whether some stage is done or has begun."""
        return self.folder is not None and any(self.folder.glob("*.pt"))

    def stage(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``make`` returned when the stage was done, now or in an earlier run: tensors and plain values."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.pt"
        if not path.exists():
            write_state(path, make())
            self.so_far(name).unlink(missing_ok=True)  # type: ignore[union-attr]
        return read_state(path)

    def figure(self, name: str, measure: Callable[[], float]) -> float:
        """What was measured once, now or in an earlier process of the run. By itself it is nothing to go on from."""
        return measure() if self.folder is None else float(self._noted(self.folder / FIGURES, name, measure))

    def same(self, name: str, tell: Callable[[], str]) -> None:
        """Hold a run that goes on to what it began with, beyond its settings.

        Args:
            name: of what must not have changed.
            tell: tells it from others.

        Raises:
            SecateurError: it was another when the run began.
        """
        if self.folder is None:
            return
        value = tell()
        before = self._noted(self.folder / FIGURES, name, lambda: value)
        if before != value:
            raise SecateurError(
                f"{self.folder} holds an unfinished run, and {name} has changed since it began (from {before} to {value}): "
                "give what it began with, or delete the folder"
            )

    @staticmethod
    def _noted(file: Path, name: str, make: Callable[[], Any]) -> Any:
        """What a file has of that name, or else what is made now, and noted there."""
        noted = _read(file) if file.exists() else {}
        if name not in noted:
            noted[name] = make()
            write_text(file, json.dumps(noted) + "\n")
        return noted[name]

    def so_far(self, name: str) -> Path | None:
        """File for what a stage has done so far, which goes when the stage is done."""
        return None if self.folder is None else self.folder / f"{name}.so-far.pt"

    def release(self) -> None:
        """Let others at the folder."""
        if self._lock is not None:
            self._lock.release()

    def close(self) -> None:
        """Delete everything: the run is finished."""
        if self.folder is not None:
            # Killed meanwhile, it must not leave a part of the stages to be gone on with.
            for stage in self.folder.glob("*.pt"):
                with suppress(OSError):
                    stage.unlink()
            shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SecateurError(
            f"{path} cannot be read ({error}), so the run cannot go on: delete its folder"
        ) from None


def differences(before: Any, now: Any, name: str = "") -> Iterator[Difference]:
    """Where two settings differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield name, before, now


def told(differences: Iterable[Difference]) -> str:
    """The same in words."""
    return "; ".join(f"{name} was {_words(before)}, is {_words(now)}" for name, before, now in differences)


def _words(value: Any) -> str:
    """A setting's value as a sentence has it."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "not given" if value is None else str(value)
