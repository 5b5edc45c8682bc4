"""Groups: the units of a model that can be removed, found by reading its family's table against its tensors."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from secateur.errors import SecateurError
from secateur.structure.axes import Axis, Dim
from secateur.structure.families import FAMILIES
from secateur.structure.family import Family, Units
from secateur.structure.layout import AxisSolver, Patterns
from secateur.structure.surgery import Constant


@dataclass(frozen=True, slots=True)
class Site:
    """Where a gate sits: at one side of ``module``, along a dimension laid out as ``dim``.

    An ``input`` or ``output`` is multiplied by it. A ``norm`` takes its statistics over the open units alone. A ``layer``
    is mixed with its own input.
    """

    module: str
    side: Literal["input", "output", "norm", "layer"]
    dim: Dim


@dataclass(frozen=True, slots=True)
class Group:
    """Units that can be removed one by one.

    Attributes:
        name: ``layers.3.feed_forward1.units``.
        kind: what a unit is, in words.
        size: units there are.
        min_units: units that must stay.
        multiple_of: what the number of units kept is to be divisible by; all of them may always stay.
        sites: where its gate sits.
        inside: the coarser groups that hold it: its layer, its module.
    """

    name: str
    kind: str
    size: int
    min_units: int
    multiple_of: int
    sites: tuple[Site, ...]
    inside: tuple[str, ...]

    def counts(self) -> list[int]:
        """The numbers of units that may be kept, in rising order."""
        return [
            n for n in range(self.min_units, self.size + 1) if n % self.multiple_of == 0 or n == self.size
        ]


@dataclass(frozen=True, slots=True)
class Layout:
    """A parameter or buffer: its dimensions, and the groups each of which must keep a unit or the tensor goes."""

    dims: tuple[Dim, ...]
    needs: tuple[str, ...]
    is_parameter: bool


@dataclass(frozen=True, slots=True)
class BranchLayout:
    """A module on a residual branch. With no unit left in one of ``units`` it is reduced to the tensor ``bias``.

    What it adds to the residual stream, which enters at ``norm`` or else at ``path``, is ``scale`` times its output.
    """

    path: str
    norm: str | None
    pair: bool
    scale: float
    units: tuple[str, ...]
    bias: str | None


@dataclass(frozen=True, eq=False)
class Groups(Mapping[str, Group]):
    """The groups of one model, in the model's order, and the table behind them.

    Attributes:
        family: the table they were found by.
        fingerprint: of the architecture: the names and shapes of its parameters.
        tensors: its parameters and buffers.
        branches: modules that may go, by group.
        layers: paths of the layers, by group.
        min_layers: layers that must stay.
        attributes: numbers that modules hold, by module and attribute.
        selects: modules that read the kept columns of a table of relative positions.
    """

    groups: Mapping[str, Group]
    family: Family
    fingerprint: str
    tensors: Mapping[str, Layout]
    branches: Mapping[str, BranchLayout]
    layers: Mapping[str, str]
    min_layers: int
    attributes: Mapping[tuple[str, str], Dim]
    selects: tuple[str, ...]

    def __getitem__(self, name: str) -> Group:
        return self.groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)


def find_groups(
    model: PreTrainedModel,
    *,
    width: bool = False,
    multiple_of: int = 1,
    min_heads: int = 0,
    min_layers: int = 1,
    whole: Sequence[str] = (),
) -> Groups:
    """Find what can be removed from a model, dense or already sliced.

    Args:
        model: of a family that has a table.
        width: offer the residual width too, where the family's table has it.
        multiple_of: hold the numbers of units (not of heads) to multiples of this.
        min_heads: heads that every attention module must keep, and with them itself and its layer; with none left a module is reduced to
            its bias.
        min_layers: layers that the model must keep.
        whole: groups that must stay whole, and with them what they lie in, by name or by a pattern as shells have them,
            ``layers.0.*``.

    Raises:
        SecateurError: the model's family has no table, the table does not know one of the model's parameters, or there is
            no group of such a name.
    """
    family = family_of(model)
    rows = {name: row for name, row in family.units.items() if width or not row.on_request}
    axes = _read_axes(model, family, rows)
    dims = axes.solve()
    sites = _unit_sites(model, axes, rows, dims)
    # An axis that only a norm reads has nowhere to put a gate: its units stay.
    sites = {name: found for name, found in sites.items() if any(site.side != "norm" for site in found)}
    offered = dict(sites)
    sites = {name: found for name, found in sites.items() if not matches(name, whole)}
    dims = {
        key: tuple(tuple(axis if axis.group in sites else Axis(axis.size) for axis in dim) for dim in each)
        for key, each in dims.items()
    }

    layers = {f"layers.{i}": f"{family.layers}.{i}" for i in range(len(model.get_submodule(family.layers)))}
    emptiable = {name: found for name, found in sites.items() if rows[axes.groups[name][0]].min_units == 0}
    branches = _branches(model, family, emptiable)
    homes = {path: name for name, path in layers.items()} | {row.path: name for name, row in branches.items()}
    norms = {row.norm: name for name, row in branches.items()}

    def needs(tensor: str) -> tuple[str, ...]:
        module = tensor.rpartition(".")[0]
        branch = norms.get(module)
        return _inside(module, homes) + ((branch, *branches[branch].units) if branch else ())

    selects = Patterns(dict.fromkeys(family.selects))
    parameters = {name for name, _ in model.named_parameters()}
    tensors = {
        name: Layout(each, needs(name), name in parameters)
        for name, each in dims.items()
        if isinstance(name, str)
    }

    coarse = {name: [Site(path, "layer", (Axis(1, name),))] for name, path in layers.items()}
    coarse |= {name: [Site(row.path, "output", (Axis(1, name),))] for name, row in branches.items()}
    _check_known(whole, (*coarse, *offered))
    around = {name: _around(found, homes) for name, found in (offered | coarse).items()}

    def is_of_heads(name: str) -> bool:
        return name in axes.groups and rows[axes.groups[name][0]].axis == "heads"

    # Of these something must be there, and of what they lie in.
    held = {name for name in around if matches(name, whole) or (is_of_heads(name) and min_heads > 0)}
    held |= {home for name in held for home in around[name]}
    # A module goes with its last unit.
    needed = {unit for home in held & branches.keys() for unit in branches[home].units}

    def group(name: str) -> Group:
        if name in coarse:
            kind = "layer" if name in layers else "module"
            inside = tuple(home for home in around[name] if home != name)
            return Group(name, kind, 1, int(name in held), 1, tuple(coarse[name]), inside)
        row = rows[axes.groups[name][0]]
        size = next(axis.size for axis in sites[name][0].dim if axis.group == name)
        least = max(row.min_units, min_heads if is_of_heads(name) else 0, int(name in needed))
        step = multiple_of if row.aligned else 1
        return Group(name, row.kind, size, min(least, size), step, tuple(sites[name]), around[name])

    names = dict.fromkeys(
        name
        for layout in tensors.values()
        for name in (*layout.needs, *(axis.group for dim in layout.dims for axis in dim))
        if name is not None
    )
    return Groups(
        groups={name: group(name) for name in names},
        family=family,
        fingerprint=fingerprint(model),
        tensors=tensors,
        branches=branches,
        layers=layers,
        min_layers=min_layers,
        attributes={key: each[0] for key, each in dims.items() if isinstance(key, tuple)},
        selects=tuple(path for path, _ in model.named_modules() if selects.find(path)),
    )


def _check_known(whole: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a name or a pattern of a group that should stay whole, of which there is none."""
    for pattern in whole:
        if not any(matches(name, [pattern]) for name in names):
            known = dict.fromkeys(re.sub(r"^layers\.\d+", "layers.*", name) for name in names)
            raise SecateurError(
                f"there is no group {pattern} that could stay whole: the model has {', '.join(known)}"
            )


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns, as shells have them, is of that name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def family_of(model: PreTrainedModel) -> Family:
    """The family whose table describes a model.

    Raises:
        SecateurError: there is none.
    """
    classes = {cls.__name__ for cls in type(model).__mro__}
    for family in FAMILIES:
        if family.model in classes and all(
            getattr(model.config, k, None) == v for k, v in family.where.items()
        ):
            return family
    supported = ", ".join(dict.fromkeys(family.model for family in FAMILIES))
    raise SecateurError(
        f"a {type(model).__name__} can be transcribed with and evaluated, and not pruned; what can be are {supported}"
    )


def fingerprint(model: PreTrainedModel) -> str:
    """Twelve hexadecimal digits that tell one architecture from another: names and shapes of all parameters.

    Two models have the same that were pruned to the same widths, whichever units stayed.
    """
    shapes = sorted(f"{name} {tuple(parameter.shape)}" for name, parameter in model.named_parameters())
    return hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:12]


def _read_axes(model: PreTrainedModel, family: Family, rows: Mapping[str, Units]) -> AxisSolver:
    """The axes of every parameter, of the buffers beside them, and of the numbers that modules hold."""
    axes = AxisSolver(rows)
    expressions = Patterns(family.tensors)
    parameters = {name for name, _ in model.named_parameters()}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found = expressions.find(name) or expressions.find(name.rpartition(".")[0])
        if found:
            axes.add(name, found[0], tensor.shape, found[1])
        elif name in parameters:
            raise SecateurError(
                f"the parameter {name} of this {type(model).__name__} is unknown to the table of family {family.name}, "
                "which therefore cannot prune this variant of the model"
            )
    attributes = Patterns(family.attributes)
    for path, module in model.named_modules():
        held = attributes.find(path)
        if held and not isinstance(module, Constant):
            for attribute, axis in held[0].items():
                axes.add((path, attribute), axis, (attrgetter(attribute)(module),), held[1])
    return axes


def _unit_sites(
    model: PreTrainedModel,
    axes: AxisSolver,
    rows: Mapping[str, Units],
    dims: Mapping[Hashable, tuple[Dim, ...]],
) -> dict[str, list[Site]]:
    """The gate sites of every group along an axis: where it is consumed, unless its row says otherwise."""
    sites: dict[str, list[Site]] = {name: [] for name in axes.groups}
    for path, module in model.named_modules():
        expressed = dims.get(f"{path}.weight", ())
        read: list[Site] = []
        if isinstance(module, nn.LayerNorm) and expressed:
            read = [Site(path, "norm", expressed[0])]
        elif len(expressed) > 1:
            read = [Site(path, "input", expressed[1])]
        for site in read:
            for name in {axis.group for axis in site.dim if axis.group is not None}:
                sites[name].append(site)
    for name, (template, bindings) in axes.groups.items():
        if producers := [pattern.format(**bindings) for pattern in rows[template].outputs_of]:
            sites[name] = [Site(path, "output", dims[f"{path}.weight"][0]) for path in producers]
    return sites


def _branches(
    model: PreTrainedModel, family: Family, emptiable: Mapping[str, list[Site]]
) -> dict[str, BranchLayout]:
    """The modules on residual branches, by group, with the units that each lives by."""
    patterns = Patterns({row.path: (group, row) for group, row in family.branches.items()})
    branches = {}
    for path, module in model.named_modules():
        found = patterns.find(path)
        if found is None or not any(True for _ in module.parameters()):
            continue
        (group, row), bindings = found
        consumers = {
            name: site.module
            for name, sites in emptiable.items()
            for site in sites
            if site.side == "input" and site.module.startswith(f"{path}.")
        }
        biases = [
            f"{consumer}.bias"
            for consumer in consumers.values()
            if model.get_submodule(consumer).bias is not None
        ]
        norm = row.norm.format(**bindings) if row.norm else None
        branches[group.format(**bindings)] = BranchLayout(
            path, norm, row.pair, row.scale, tuple(consumers), biases[0] if biases else None
        )
    return branches


def _around(found: Sequence[Site], homes: Mapping[str, str]) -> tuple[str, ...]:
    """The layer and the module that all sites of a group lie in, as groups."""
    each = [_inside(site.module, homes) for site in found]
    return tuple(home for home in each[0] if all(home in others for others in each))


def _inside(path: str, homes: Mapping[str, str]) -> tuple[str, ...]:
    """The layer and the module that a path lies in, as groups."""
    parts = path.split(".")
    prefixes = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return tuple(homes[prefix] for prefix in prefixes if prefix in homes)
