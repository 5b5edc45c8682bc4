"""What every long run has: settings, kept in its ``run.yaml`` and read from it, what it ran on, and how long that took."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, asdict, fields, is_dataclass, replace
from pathlib import Path
from time import perf_counter
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from secateur import __version__
from secateur.errors import SecateurError, reason

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from typing_extensions import Self

SECTION = "secateur"
"""Where the settings stand in ``run.yaml``."""

_Settings = TypeVar("_Settings")


class Settings:
    """Everything that decides a run, and nothing else: a frozen dataclass, which ``run.yaml`` holds."""

    __slots__ = ()

    def changed(self, values: Mapping[str, Any]) -> Self:
        """The same settings but for some values.

        >>> settings.changed({"keep": "params=30%", "learned.steps": 2000})

        Raises:
            SecateurError: there is no such setting, or no such section of settings.
        """
        return _changed(self, values, "")

    def plain(self) -> dict[str, Any]:
        """The settings as JSON and YAML have them: paths as text, tuples as lists."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(cast("Any", self)), default=str))
        return values

    def to_yaml(self, path: Path, environment: Mapping[str, str]) -> None:
        """Write ``run.yaml``: the settings, and beside them what was there when they were used."""
        run = {SECTION: self.plain(), "environment": dict(environment)}
        path.write_text(yaml.safe_dump(run, sort_keys=False), encoding="utf-8")

    def record(self, folder: Path, report: Mapping[str, Any]) -> None:
        """Write into the folder of a result what it came from: ``run.yaml`` and ``report.json``."""
        self.to_yaml(folder / "run.yaml", report["environment"])
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a ``run.yaml``, from a result or written by hand; what it does not say has its default.

        Raises:
            SecateurError: it cannot be read, or a setting is missing, unknown, or of the wrong type.
        """
        try:
            run = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SecateurError(
                f"{path} cannot be read: {reason(error)}; give the run.yaml of a result"
            ) from None
        except yaml.YAMLError as error:
            raise SecateurError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
        if not isinstance(run, dict) or SECTION not in run:
            raise SecateurError(f"{path} has no section {SECTION!r}; give the run.yaml of a result")
        try:
            return _built(cls, run[SECTION], "")
        except SecateurError as error:
            raise SecateurError(f"{path}: {error}") from None


def _changed(settings: _Settings, values: Mapping[str, Any], section: str) -> _Settings:
    """``learned.steps`` is a setting of ``learned``; ``section`` is the name of what is changed."""
    if not is_dataclass(settings):
        raise SecateurError(f"{section} is {settings!r}, which is not a section of settings")
    own: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        first, _, rest = name.partition(".")
        if rest:
            inner.setdefault(first, {})[rest] = value
        else:
            own[first] = value
    prefix = f"{section}." if section else ""
    _check_known(type(settings), {**own, **inner}, prefix)
    # All at once: on the way from one sound state to another there may be none.
    own |= {
        first: _changed(own.get(first, getattr(settings, first)), rest, f"{prefix}{first}")
        for first, rest in inner.items()
    }
    result: _Settings = replace(cast("Any", settings), **own)
    return result


def check_above_nothing(settings: Any, *names: str) -> None:
    """Refuse settings of these names that are no finite numbers above 0; None is none.

    Raises:
        SecateurError: one is not.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise SecateurError(f"{name} is {value}; give a finite number above 0")


def check_precision(name: str) -> None:
    """Refuse a precision that nothing is trained in.

    Raises:
        SecateurError: there is none of that name.
    """
    if name not in ("auto", "bfloat16", "float32"):
        raise SecateurError(f"there is no precision {name!r}; give auto, bfloat16 or float32")


def check_not_negative(settings: Any, *names: str) -> None:
    """Refuse settings of these names that are no finite numbers of 0 or more; None is none.

    Raises:
        SecateurError: one is.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value < math.inf:
            raise SecateurError(f"{name} is {value}; give 0 or more")


def check_seed(seed: int) -> None:
    """Refuse a seed that generators do not take, or not multiplied by as many as there are steps.

    Raises:
        SecateurError: it is one.
    """
    if not 0 <= seed < 2**32:
        raise SecateurError(f"the seed is {seed}; give one of 0 to {2**32 - 1}")


def environment(model: PreTrainedModel | None = None) -> dict[str, str]:
    """What a figure depends on besides the settings: versions, the machine, and where a model computes, in what."""
    import torch
    import transformers

    place = {}
    if model is not None:
        place = {"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")}
        if model.device.type == "cuda":
            place["gpu"] = torch.cuda.get_device_name(model.device)
    return {
        "secateur": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        **place,
    }


class Stopwatch:
    """Wall-clock seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + perf_counter() - start, 2)


def _built(kind: type[_Settings], section: Any, name: str) -> _Settings:
    """A dataclass of a section of the file; ``name`` is the section's."""
    if not isinstance(section, dict):
        raise SecateurError(f"{name or SECTION} is {section!r}, which is not a section of settings")
    prefix = f"{name}." if name else ""
    known = _check_known(kind, section, prefix)
    for key, each in known.items():
        if key not in section and each.default is MISSING and each.default_factory is MISSING:
            raise SecateurError(f"{prefix}{key} is missing; add it under {name or SECTION}")
    types = get_type_hints(kind)
    return kind(**{key: _fitted(types[key], value, f"{prefix}{key}") for key, value in section.items()})


def _check_known(kind: Any, values: Mapping[str, Any], prefix: str) -> dict[str, Field[Any]]:
    """The settings of a section by name, which those that are given are among."""
    known = {each.name: each for each in fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise SecateurError(
                f"{prefix}{key} is {value!r}, but there is no such setting; there are {', '.join(known)}"
            )
    return known


def _fitted(kind: Any, value: Any, name: str) -> Any:
    """A value of a type, of the plain value that YAML has for it."""
    if is_dataclass(kind):
        return _built(kind, value, name)  # type: ignore[arg-type]
    choices = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    for choice in choices:
        if get_origin(choice) is tuple and isinstance(value, list):
            return tuple(_fitted(get_args(choice)[0], each, f"{name}[{i}]") for i, each in enumerate(value))
        if choice is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            # YAML takes 3e-4, without a dot, for text.
            try:
                return float(value)
            except ValueError:
                continue
        if type(value) is choice:
            return value
    raise SecateurError(f"{name} is {value!r}, which is not {' or '.join(map(_words, choices))}")


def _words(kind: Any) -> str:
    """What a type is called in a sentence."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
    return "a list" if get_origin(kind) is tuple else words.get(kind, kind.__name__)
