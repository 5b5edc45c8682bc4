"""What came of a comparison, row by row, and the file in its folder that keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from secateur.errors import SecateurError
from secateur.files import make_folder, write_text
from secateur.pruning.compare.settings import CompareSettings, run_name

RECORD = "compare.json"
"""What the record of a comparison is called, in its folder."""

_MEASURED = ("model", "valid", "test", "limit", "audio_seconds", "rounds")
"""Settings that figures depend on beyond the run."""

_PLACE = ("device", "gpu", "dtype")
"""Of the environment, what figures depend on."""


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one method at one budget.

    Attributes:
        method: one of `METHODS`.
        budget: that was asked for.
        error: why there is no result; None where there is one, and then all that follows is given.
        kept: fractions of parameters and multiply-accumulates that are left.
        valid: figures on ``valid``, as `Evaluation.to_json` has them but for the worst utterances.
        test: the same on ``test``, where there is one.
        difference: the change of the word error rate on ``valid``, and whether it is more than chance.
        time: of a forward pass, for each second that the unpruned model takes: median and quartiles over rounds in which
            both took turns, in one thread, on one utterance of noise.
        steps: of gradient, by phase.
        seconds: wall-clock time by stage and by phase. Those of stages are of the process that ended the run, and of them
            ``prune`` is all phases but the first; those of phases are of whichever process. Of them ``start`` has the
            scoring in it, which other runs may share.
    """

    method: str
    budget: str
    error: str | None = None
    kept: Mapping[str, float] = field(default_factory=dict)
    valid: Mapping[str, Any] | None = None
    test: Mapping[str, Any] | None = None
    difference: Mapping[str, Any] | None = None
    time: Mapping[str, float] | None = None
    steps: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the folder of the run is called, such as ``wanda_params50_macs50``."""
        return run_name(self.method, self.budget)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of all methods at all budgets.

    Attributes:
        settings: as JSON has them.
        unpruned: figures of the unpruned model: on ``valid`` and, where there is one, on ``test``.
        rows: by budget, and then by method.
        environment: versions, the machine, the device and the precision.
        weights: digest of those of the unpruned model.
        pace: seconds that the unpruned model takes for a second of speech, by which runs by the clock share out their time.
    """

    settings: Mapping[str, Any]
    unpruned: Mapping[str, Mapping[str, Any]]
    rows: Sequence[Row]
    environment: Mapping[str, str]
    weights: str
    pace: float | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it, ready for `json.dumps`."""
        return {
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "weights": self.weights,
            "unpruned": dict(self.unpruned),
            "pace": self.pace,
            "rows": [{"folder": row.name, **asdict(row)} for row in self.rows],
        }


@dataclass(frozen=True)
class Known:
    """What an earlier call found out.

    Attributes:
        unpruned: figures of the unpruned model, where they are of the same speech, device and precision.
        rows: of runs that came to a result, by method and budget, where they are so too.
        failed: rows of runs that came to none.
        pace: of the unpruned model, where it was measured under the same conditions.
    """

    unpruned: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    rows: Mapping[tuple[str, str], Row] = field(default_factory=dict)
    failed: Mapping[tuple[str, str], Row] = field(default_factory=dict)
    pace: float | None = None

    @classmethod
    def read(cls, file: Path, settings: CompareSettings, machine: Mapping[str, str], weights: str) -> Known:
        """Read a record.

        One of other speech, or of another device or precision than ``machine`` has, tells of failures alone; one that is not
        there, or damaged, of nothing.

        Raises:
            SecateurError: it is of a model of other ``weights``, whose digest is given.
        """
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            asked = settings.plain()
            found = [Row(**{name: row[name] for name in Row.__dataclass_fields__}) for row in record["rows"]]
            rows = {(row.method, row.budget): row for row in found if not row.error}
            failed = {(row.method, row.budget): row for row in found if row.error}
            there, before = record["environment"], record["settings"]
            moved = any(there.get(name, machine.get(name)) != machine.get(name) for name in _PLACE)
            pace = None if moved or before["model"] != asked["model"] else record.get("pace")
            if record.get("weights", weights) != weights:
                raise SecateurError(
                    f"{settings.model} has changed since the runs in {file.parent} were made: give another folder"
                )
            if moved or any(before[name] != asked[name] for name in _MEASURED):
                return cls(failed=failed, pace=pace)
            return cls(dict(record["unpruned"]), rows, failed, pace)
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def after(self, runs: Iterable[tuple[str, str]]) -> list[Row]:
        """Rows of runs whose turn is still to come."""
        return [row for run in runs if (row := self.row(*run)) is not None]

    def row(self, method: str, budget: str) -> Row | None:
        """What came of a run, if that is known."""
        return self.rows.get((method, budget)) or self.failed.get((method, budget))


def write(comparison: Comparison, file: Path) -> None:
    """Write a record; an earlier one is replaced whole or stays.

    Raises:
        SecateurError: it cannot be written.
    """
    text = json.dumps(comparison.to_json(), indent=2, ensure_ascii=False)
    make_folder(file.parent, instead="choose another folder")
    write_text(file, text + "\n", instead="choose another folder")
