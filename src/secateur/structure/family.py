"""What a family table says: which units a kind of model has, and where its tensors hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Units:
    """A group of units along one axis.

    Attributes:
        axis: the axis, as the tensor expressions name it.
        kind: what a unit is, in words.
        outputs_of: modules whose output is multiplied by the gate; by default it is the input of every module whose
            weight has the axis in its second dimension, which is to say, of the modules that consume the units.
        min_units: units that must stay, because the model cannot run without.
        aligned: whether a multiple can be asked of their number.
        on_request: offered only when asked for.
    """

    axis: str
    kind: str
    outputs_of: tuple[str, ...] = ()
    min_units: int = 0
    aligned: bool = True
    on_request: bool = False


@dataclass(frozen=True, slots=True)
class Branch:
    """A module on a residual branch, which can be left out whole.

    Attributes:
        path: the module.
        norm: the norm that only this module reads, and that goes with it; None if the norm stands after the sum.
        pair: the module returns its output as the first of a pair.
        scale: what its output is multiplied by before it is added to the residual stream.
    """

    path: str
    norm: str | None = None
    pair: bool = False
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Family:
    """The table of a model family.

    Attributes:
        name: written into plans.
        model: class of the models, by name.
        where: settings of their configuration that this table is for.
        tensors: expression of a module's weight by module (its bias and its running statistics have the first
            dimension), or of a parameter by its own name.
        units: groups along an axis, by group name.
        branches: groups of one unit, by group name: a whole module.
        layers: the module list whose members are groups of one unit, ``layers.{i}``.
        layer_count: where the configuration has their number.
        closing: the norm of each layer that its residual stream goes through last; None if it leaves the last sum as it is.
        attributes: numbers that modules hold, by module and attribute, as expressions.
        selects: modules whose input is no pruned stream but a table of relative positions, of which they read the kept columns.
        products: pairs of modules whose outputs meet: one multiply-accumulate for every output of the second module and
            every pair of their positions.
    """

    name: str
    model: str
    where: Mapping[str, object] = field(default_factory=dict)
    tensors: Mapping[str, str]
    units: Mapping[str, Units]
    branches: Mapping[str, Branch]
    layers: str
    layer_count: str
    closing: str | None = None
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    selects: tuple[str, ...] = ()
    products: tuple[tuple[str, str], ...] = ()
