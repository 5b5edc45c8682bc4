"""A run's result as pages need it: what its folder says about it, read and checked."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from secateur.errors import SecateurError, reason
from secateur.pruning.planning.budget import Budget

REPORT, RUN = "report.json", "run.yaml"

COSTS = {"params": "params", "macs": "macs_per_second", "latency": "latency"}
"""What a budget can limit, and how a report calls that figure."""

USUAL_DEVICE = "cpu"
"""Where a run computes that is not told."""

TOLD = ("method", "budget", "kept", "before", "after", "comparison", "forward", "environment")
"""Of a report, what is told in JSON beside others: figures, and what they were measured on."""

HEARD = ("wer", "cer", "rtf", "rtf_model", "audio_seconds", "utterances")
"""What was measured where there was speech to measure on."""


@dataclass(frozen=True)
class Run:
    """What a folder says of the run that made it.

    Attributes:
        folder: where it lies.
        report: what its ``report.json`` holds.
        settings: the settings in its ``run.yaml``; empty where there is none.
        run: the text of that file.
    """

    folder: Path
    report: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""

    @property
    def name(self) -> str:
        """What the folder is called."""
        return self.folder.absolute().name

    def command(self, verb: str) -> str | None:
        """What is typed to do it again, on the same device and in the same precision; None where no file says how it was done."""
        if not self.run:
            return None
        words = ["secateur", verb, "--config", str(self.folder / RUN), "--out", "again"]
        ran_on = self.report.get("environment") or {}
        if (device := ran_on.get("device", USUAL_DEVICE)) != USUAL_DEVICE:
            words += ["--device", str(device)]
        if verb == "prune" and "latency" in str(self.report.get("budget")) and "threads" in ran_on:
            # Time is that of so many.
            words += ["--threads", str(ran_on["threads"])]
        if verb == "prune" and "dtype" in ran_on:
            # The checkpoint's own may be another.
            words += ["--dtype", str(ran_on["dtype"])]
        return shlex.join(words)


@dataclass(frozen=True)
class Result(Run):
    """What came of a run of `secateur prune`."""

    @property
    def model(self) -> str:
        """What the pruned model is called, without its place; the folder's name where that is not known."""
        return Path(str(self.settings.get("model", self.name))).name.removesuffix(".nemo") or self.name

    @property
    def heard(self) -> bool:
        """Whether word error rates were measured."""
        return "wer" in self.report["before"] and "wer" in self.report["after"]

    @property
    def figures(self) -> Mapping[str, Any]:
        """Size of the model that came out, and what was measured of it."""
        after: Mapping[str, Any] = self.report["after"]
        return after

    def to_json(self) -> dict[str, Any]:
        """The figures of both models, and what was asked for."""
        return {"folder": str(self.folder)} | {
            name: self.report[name] for name in TOLD if name in self.report
        }

    def kept(self, name: str) -> float:
        """The fraction of a figure that is left."""
        return float(self.report["after"][name] / self.report["before"][name])

    def limits(self) -> dict[str, float]:
        """What the budget limits, by the report's names, as fractions of what there was."""
        before = self.report["before"]
        limits = Budget.parse(self.report["budget"]).bounds
        # Multiply-accumulates are those for a second here, as limits are.
        return {
            COSTS[name]: limit.of(before[COSTS[name]], 1.0) / before[COSTS[name]]
            for name, limit in limits.items()
        }


@dataclass(frozen=True)
class Training(Run):
    """What came of a run of `secateur train`."""

    @property
    def heard(self) -> bool:
        """Whether a word error rate was measured."""
        return "wer" in self.figures

    @property
    def figures(self) -> Mapping[str, Any]:
        """Size of the model that came out, and what was measured of it."""
        measured: Mapping[str, Any] = self.report.get("valid", {})
        return {
            "params": self.report["params"],
            "macs_per_second": self.report["macs_per_second"],
            **measured,
        }

    def to_json(self) -> dict[str, Any]:
        """The figures of the model."""
        what = {"after": dict(self.figures), "environment": self.report.get("environment")}
        return {"folder": str(self.folder), **what}


def read(folder: str | Path) -> Result | Training:
    """Read the folder of a run.

    Raises:
        SecateurError: there is no result, or it is damaged.
    """
    folder = Path(folder)
    if not (folder / REPORT).is_file():
        # A demo and a comparison have their results in folders of their own.
        inside = sorted(str(report.parent) for report in folder.glob(f"*/{REPORT}"))
        what = " ".join(inside) or "a folder that `secateur prune` has written, or `secateur train`"
        raise SecateurError(f"{folder} holds no {REPORT}: give {what}")
    run = ""
    with sound(folder / RUN):
        if (folder / RUN).is_file():
            run = (folder / RUN).read_text(encoding="utf-8")
        settings = (yaml.safe_load(run) or {}).get("secateur", {})
        if not isinstance(settings, dict):
            raise ValueError("secateur is not a section of settings")
    with sound(folder / REPORT):
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        # Only a model that is made, not cut, has a shape that its settings say.
        if isinstance(report, dict) and "shape" in report:
            training = Training(folder, report, settings, run)
            _check(report)
            _check(training.figures)
            return training
        _check(report["before"])
        _check(report["after"])
        return Result(folder, report, settings, run)


def _check(side: Any) -> None:
    """Raise one of the errors that `sound` explains where what every page shows is missing or no number."""
    figures = [side["params"], side["macs_per_second"]]
    if "wer" in side:
        figures += [*(side[name] for name in HEARD), *side["wer_interval"]]
    if not all(math.isfinite(figure) and figure >= 0 for figure in figures) or min(figures[:2]) <= 0:
        raise ValueError("its figures are not all numbers above nothing")
    if "wer" in side and len(side["wer_interval"]) != 2:
        raise ValueError("an interval has two ends")


@contextmanager
def sound(file: Path) -> Iterator[None]:
    """Where what a file holds turns out to make no sense, say which file it is.

    Raises:
        SecateurError: the file is damaged.
    """
    try:
        yield
    except OSError as error:
        raise SecateurError(f"{file} cannot be read: {reason(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, yaml.YAMLError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else reason(error)
        raise SecateurError(
            f"{file} is not as Secateur writes it ({what}): run again what wrote it, or give another folder"
        ) from None
