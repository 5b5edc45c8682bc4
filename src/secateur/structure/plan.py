"""PruningPlan: for each group of a model the units that stay; what every method decides and slicing carries out."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from secateur.errors import SecateurError
from secateur.files import write_text
from secateur.structure.groups import Groups

FORMAT = "secateur-plan"
VERSION = 1


@dataclass(frozen=True)
class PruningPlan:
    """The units kept of each group, sorted; a group that is not listed is whole.

    >>> groups = find_groups(model)
    >>> plan = PruningPlan.keep(groups, {"layers.0.feed_forward1.units": range(100), "layers.2": []})
    >>> smaller = slice_model(model, plan)

    What `prune` decides by a score that compares units of all groups, as by default, is about a model whose heads were rotated before
    (`pruning.scoring.rotation`): units of query/key and value widths in its ``plan.json`` are no dimensions of the model that it began with.

    Attributes:
        family: the model's family.
        fingerprint: of the model's architecture.
        layers: how many layers it has.
        kept: units kept, by group.
        sizes: units there are, by group, for the same groups.
    """

    family: str
    fingerprint: str
    layers: int
    kept: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]

    @classmethod
    def keep(cls, groups: Groups, kept: Mapping[str, Iterable[int]]) -> PruningPlan:
        """The plan that keeps these units, in its one canonical form.

        Groups kept whole are left out, and so are groups inside a module or a layer that goes.

        Raises:
            SecateurError: a group is unknown, a unit does not exist, or fewer stay than must.
        """
        plan = cls(
            family=groups.family.name,
            fingerprint=groups.fingerprint,
            layers=len(groups.layers),
            kept={name: tuple(sorted({int(unit) for unit in units})) for name, units in kept.items()},
            sizes={name: groups[name].size for name in kept if name in groups},
        )
        return plan.resolved(groups)

    def resolved(self, groups: Groups, source: str = "the plan") -> PruningPlan:
        """This plan checked against the groups of the model it is for, in canonical form.

        Raises:
            SecateurError: it is for another model, or asks for what the model has not.
        """
        if (self.family, self.fingerprint) != (groups.family.name, groups.fingerprint):
            raise SecateurError(
                f"{source} was made for a {self.layers}-layer {self.family} model (fingerprint {self.fingerprint}), this "
                f"one is a {len(groups.layers)}-layer {groups.family.name} (fingerprint {groups.fingerprint}); make a "
                "plan for this model or give the one that the plan is for"
            )
        for name, units in self.kept.items():
            _check_units(groups, name, units, self.sizes.get(name), source)
        layers = len(groups.layers) - len(self.gone.intersection(groups.layers))
        if layers < groups.min_layers:
            raise SecateurError(f"{source} keeps {layers} layers; at least {groups.min_layers} must stay")

        kept = _canonical(groups, self.kept)
        return replace(self, kept=kept, sizes={name: groups[name].size for name in kept})

    def then(self, later: PruningPlan, groups: Groups) -> PruningPlan:
        """This plan, and then one of the model that it leaves, as a single plan of the model that it is for.

        Args:
            later: of what `slice_model` makes by this one.
            groups: of the model that this one is for.
        """
        kept = dict(self.kept)
        for name, units in later.kept.items():
            here = self.name_before(name, groups)
            left = self.kept.get(here, range(groups[here].size))
            kept[here] = tuple(left[unit] for unit in units)
        return PruningPlan.keep(groups, kept)

    def name_before(self, name: str, groups: Groups) -> str:
        """What a group of the sliced model is called in the model that this plan is for, whose layers have other numbers."""
        layers = [layer for layer in groups.layers if layer not in self.gone]
        number = re.match(r"layers\.(\d+)(?=\.|$)", name)
        return name if number is None else layers[int(number[1])] + name[number.end() :]

    @property
    def gone(self) -> frozenset[str]:
        """Groups of which no unit stays; modules and layers that go are among them."""
        return frozenset(name for name, units in self.kept.items() if not units)

    def counts(self) -> dict[str, int]:
        """Units kept of each listed group, as a cost takes them."""
        return {name: len(units) for name, units in self.kept.items()}

    def masks(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """Ones at the units kept and zeros elsewhere, [size], of each listed group."""
        masks = {}
        for name, units in self.kept.items():
            masks[name] = torch.zeros(self.sizes[name], dtype=dtype, device=device)
            masks[name][list(units)] = 1.0
        return masks

    def to_json(self) -> str:
        """The plan as a person reads it: ``"layers.0.feed_forward1.units": "0-11,13,20-43 of 704"``."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "family": self.family,
            "fingerprint": self.fingerprint,
            "layers": self.layers,
            "kept": {name: f"{_ranges(units)} of {self.sizes[name]}" for name, units in self.kept.items()},
        }
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "the plan") -> PruningPlan:
        """Read a plan; ``source`` is its name in errors.

        Raises:
            SecateurError: the text is no plan, is damaged, or is of a version that this Secateur does not know.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise SecateurError(f"{source} is damaged ({error}); make the plan anew") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise SecateurError(
                f'{source} is no pruning plan; a plan is a JSON object with "format": "{FORMAT}"'
            )
        if content.get("version") != VERSION:
            raise SecateurError(
                f"{source} is of version {content.get('version')}, this Secateur reads version {VERSION}; use the Secateur "
                "that wrote it"
            )
        types = {"family": str, "fingerprint": str, "layers": int, "kept": dict}
        for name, kind in types.items():
            if not isinstance(content.get(name), kind):
                raise SecateurError(
                    f"{source} is damaged: its {name!r} is missing or wrong; make the plan anew"
                )
        units = {name: _parse_ranges(name, value, source) for name, value in content["kept"].items()}
        return cls(
            family=content["family"],
            fingerprint=content["fingerprint"],
            layers=content["layers"],
            kept={name: kept for name, (kept, _) in units.items()},
            sizes={name: size for name, (_, size) in units.items()},
        )

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON; a file that was there before is replaced whole or not at all.

        Raises:
            SecateurError: it cannot be written.
        """
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path, groups: Groups | None = None) -> PruningPlan:
        """Read a plan, and check it against the groups of the model it is for where they are given.

        Raises:
            SecateurError: there is no such file, it is no sound plan, or it is a plan for another model.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SecateurError(f"{path} cannot be read as a plan: {error}") from None
        plan = cls.from_json(text, source=str(path))
        return plan if groups is None else plan.resolved(groups, source=str(path))


def _check_units(groups: Groups, name: str, units: Sequence[int], size: int | None, source: str) -> None:
    if name not in groups:
        near = difflib.get_close_matches(name, groups, n=1)
        hint = f"did you mean {near[0]}?" if near else f"its groups are named like {next(iter(groups))}"
        raise SecateurError(f"{source} names a group {name} that this model has not; {hint}")
    group = groups[name]
    if size != group.size:
        raise SecateurError(f"{source} says that {name} has {size} units; in this model it has {group.size}")
    outside = [unit for unit in units if not 0 <= unit < group.size]
    if outside:
        raise SecateurError(
            f"{source} keeps unit {outside[0]} of {name}, whose units are 0 to {group.size - 1}"
        )
    if len(units) < group.min_units:
        raise SecateurError(
            f"{source} keeps {len(units)} units of {name}; at least {group.min_units} must stay"
        )


def _canonical(groups: Groups, kept: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The one way to write down what stays: nothing about whole groups, nothing about the inside of what goes."""
    kept = {name: units for name, units in kept.items() if len(units) < groups[name].size}
    for name, branch in groups.branches.items():
        emptied = [unit_group for unit_group in branch.units if kept.get(unit_group) == ()]
        if emptied and branch.bias is None:
            kept[name] = ()
        elif emptied:
            inside = [other for other in kept if name in groups[other].inside and other != emptied[0]]
            kept = {other: units for other, units in kept.items() if other not in inside}
    return {
        name: kept[name]
        for name in groups
        if name in kept and not any(kept.get(coarser) == () for coarser in groups[name].inside)
    }


def _ranges(units: Sequence[int]) -> str:
    """``[0, 1, 2, 5]`` -> ``"0-2,5"``, and ``"none"`` for no unit."""
    breaks = [0, *(i for i in range(1, len(units)) if units[i] != units[i - 1] + 1), len(units)]
    runs = [(units[start], units[end - 1]) for start, end in pairwise(breaks) if end > start]
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs) or "none"


def _parse_ranges(name: str, text: object, source: str) -> tuple[tuple[int, ...], int]:
    """The units and the size in ``"0-2,5 of 8"``."""
    match = (
        re.fullmatch(r"(none|\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*) of (\d+)", text)
        if isinstance(text, str)
        else None
    )
    if match is None:
        raise SecateurError(
            f'{source} is damaged: {name} keeps {text!r}, which does not read like "0-11,13 of 704"'
        )
    size = int(match[2])
    units: set[int] = set()
    for run in [] if match[1] == "none" else match[1].split(","):
        first, _, last = run.partition("-")
        if not int(first) <= int(last or first) < size:
            raise SecateurError(
                f"{source} is damaged: {name} keeps {run} of {size} units, which are 0 to {size - 1}"
            )
        units.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(units)), size
