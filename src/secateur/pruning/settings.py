"""What decides a run of pruning: its settings, and the file ``run.yaml`` that they are kept in and read from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from secateur.errors import SecateurError, reason
from secateur.pruning.learned import Learned
from secateur.pruning.oneshot import OneShot

METHODS = ("learned", "oneshot")
"""How to prune; the first is the default."""

SECTION = "secateur"
"""Where the settings stand in ``run.yaml``."""

_Settings = TypeVar("_Settings")


@dataclass(frozen=True, slots=True)
class PruneSettings:
    """Everything that decides a run, and nothing else; ``run.yaml`` holds it.

    Attributes:
        model: what is pruned.
        data: speech that it is pruned on; transcripts are not needed.
        keep: the budget.
        valid: transcribed speech that word error rates before and after are measured on; None: they are not.
        valid_limit: its first so many utterances; None: all.
        method: one of `METHODS`.
        oneshot: settings of scores and of closed-form refitting, which every method begins with.
        learned: settings of the learned method.
        audio_seconds: length of the utterance that multiply-accumulates and latency are for.
        multiple_of: hold the numbers of units to multiples of this.
        min_heads: heads that every attention module keeps.
        width: offer the residual width too.
    """

    model: str | Path
    data: str | Path
    keep: str
    valid: str | Path | None = None
    valid_limit: int | None = None
    method: str = METHODS[0]
    oneshot: OneShot = field(default_factory=OneShot)
    learned: Learned = field(default_factory=Learned)
    audio_seconds: float = 10.0
    multiple_of: int = 1
    min_heads: int = 0
    width: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SecateurError(f"there is no method {self.method!r}; choose one of {', '.join(METHODS)}")

    def changed(self, values: Mapping[str, Any]) -> PruneSettings:
        """The same settings but for some values.

        >>> settings.changed({"keep": "params=30%", "learned.steps": 2000})
        """
        changed = self
        for name, value in values.items():
            changed = _replaced(changed, name, value)
        return changed

    def plain(self) -> dict[str, Any]:
        """The settings as JSON and YAML have them: paths as text, tuples as lists."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return plain

    def to_yaml(self, path: Path, environment: Mapping[str, str]) -> None:
        """Write ``run.yaml``: the settings, and beside them what was there when they were used."""
        run = {SECTION: self.plain(), "environment": dict(environment)}
        path.write_text(yaml.safe_dump(run, sort_keys=False), encoding="utf-8")

    @classmethod
    def from_yaml(cls, path: str | Path) -> PruneSettings:
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


def _replaced(settings: Any, name: str, value: Any) -> Any:
    first, _, rest = name.partition(".")
    return replace(settings, **{first: _replaced(getattr(settings, first), rest, value) if rest else value})


def _built(kind: type[_Settings], section: Any, name: str) -> _Settings:
    """A dataclass of a section of the file; ``name`` is the section's."""
    if not isinstance(section, dict):
        raise SecateurError(f"{name or SECTION} is {section!r}, which is not a section of settings")
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    prefix = f"{name}." if name else ""
    for key, value in section.items():
        if key not in known:
            raise SecateurError(
                f"{prefix}{key} is {value!r}, but there is no such setting; there are {', '.join(known)}"
            )
    for key, each in known.items():
        if key not in section and each.default is MISSING and each.default_factory is MISSING:
            raise SecateurError(f"{prefix}{key} is missing; add it under {name or SECTION}")
    types = get_type_hints(kind)
    return kind(**{key: _fitted(types[key], value, f"{prefix}{key}") for key, value in section.items()})


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
