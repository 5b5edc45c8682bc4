"""The picture of what pruning kept: the front-end, then layer by layer the modules and their widths."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secateur.reporting.numbers import counted

WORDS = {
    "self_attn": "self-attention",
    "conv": "convolution",
    "query_key": "query/key",
    "feed_forward": "feed-forward",
    "feature_extractor": "features",
}
"""Parts of groups' names that are not words."""

BRIEF = {
    "feed_forward": "FF",
    "self_attn": "attn",
    "attention": "attn",
    "conv": "conv",
    "query_key": "q/k",
    "positions": "pos",
    "channels": "chan",
}
"""The same where there is little room."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Units of one group: ``kept`` of ``size``."""

    what: str
    kept: int
    size: int

    @property
    def share(self) -> float:
        return self.kept / self.size

    def __str__(self) -> str:
        return f"{self.what}: {self.kept} of {self.size} kept ({self.share:.0%})"


@dataclass(frozen=True, slots=True)
class Module:
    """A module of a layer, drawn in so many ``columns`` from ``column`` on; whole where it has no bars."""

    name: str
    bars: tuple[Bar, ...]
    gone: bool
    column: int
    columns: int


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer, with its modules from left to right."""

    name: str
    modules: tuple[Module, ...]
    gone: bool


@dataclass(frozen=True, slots=True)
class Column:
    """A kind of units: its module, the units, how many there were, and both with little room.

    ``first``: of the module's columns. A module without units has one column that says nothing of them.
    """

    module: str
    short: str
    first: bool
    what: str = ""
    brief: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """What is left of a model.

    Attributes:
        front: widths outside of layers.
        columns: units that layers have, module by module.
        layers: all that there were.
    """

    front: tuple[Bar, ...]
    columns: tuple[Column, ...]
    layers: tuple[Layer, ...]

    @property
    def losses(self) -> str:
        """A sentence on what went as a whole."""
        layers = sum(layer.gone for layer in self.layers)
        modules = sum(module.gone for layer in self.layers if not layer.gone for module in layer.modules)
        parts = [counted(count, word) for count, word in ((layers, "layer"), (modules, "module")) if count]
        if not parts:
            return "No layer and no module was removed as a whole."
        return f"Removed as a whole: {' and '.join(parts)}."

    def __str__(self) -> str:
        bars = [bar for layer in self.layers for module in layer.modules for bar in module.bars]
        share = sum(bar.share for bar in bars) / max(1, len(bars))
        return f"{len(self.layers)} layers. {self.losses} A group of units keeps {share:.0%} on average."


def picture(units: Mapping[str, Sequence[int]]) -> Picture:
    """Draw a report's ``units``: for each group how many are kept of how many.

    Raises:
        ValueError: a group cannot have so many.
    """
    counts = {name: (int(kept), int(size)) for name, (kept, size) in units.items()}
    for name, (kept, size) in counts.items():
        if not 0 <= kept <= size or size == 0:
            raise ValueError(f"{name} keeps {kept} of {size} units")
    front = tuple(
        Bar(_words(name), *count) for name, count in counts.items() if not name.startswith("layers.")
    )
    inner: dict[str, dict[str, dict[str, tuple[int, int]]]] = {}
    for name, count in counts.items():
        match = re.fullmatch(r"layers\.(\d+)(?:\.(\w+))?(?:\.(\w+))?", name)
        if match is None:
            continue
        modules = inner.setdefault(match[1], {})
        if match[2] is not None:
            bars = modules.setdefault(match[2], {})
            if match[3] is not None:
                bars[match[3]] = count
    order = list(dict.fromkeys(module for modules in inner.values() for module in modules))
    columns: list[Column] = []
    spans: dict[str, tuple[int, int]] = {}
    for module in order:
        sizes = {
            bar: size for modules in inner.values() for bar, (_, size) in modules.get(module, {}).items()
        }
        spans[module] = (len(columns), max(1, len(sizes)))
        called = (_words(module), _words(module, BRIEF))
        columns += [
            Column(*called, number == 0, _words(bar), _words(bar, BRIEF), size)
            for number, (bar, size) in enumerate(sizes.items())
        ] or [Column(*called, True)]

    def drawn(index: str, module: str) -> Module:
        bars = tuple(Bar(_words(bar), *count) for bar, count in inner[index].get(module, {}).items())
        gone = counts.get(f"layers.{index}.{module}", (1, 1))[0] == 0 or any(bar.kept == 0 for bar in bars)
        return Module(_words(module), bars, gone, *spans[module])

    layers = (
        Layer(
            index,
            tuple(drawn(index, module) for module in order if module in inner[index]),
            counts.get(f"layers.{index}", (1, 1))[0] == 0,
        )
        for index in inner
    )
    return Picture(front, tuple(columns), tuple(layers))


def _words(name: str, words: Mapping[str, str] = WORDS) -> str:
    """``feed_forward1`` as ``feed-forward 1``, ``subsampling.0.channels`` as ``subsampling 0 channels``."""
    found = []
    for part in name.split("."):
        match = re.fullmatch(r"(.*?)(\d*)", part, re.DOTALL)
        assert match is not None
        found += [words.get(match[1], match[1].replace("_", " ")), match[2]]
    return " ".join(filter(None, found))
