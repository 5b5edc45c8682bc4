"""The table of an inspection for the terminal: its kinds of parts, then its tree with equal layers in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from secateur.reporting.numbers import counted, short
from secateur.structure.inspect import Inspection, Part, share


def inspection_table(inspection: Inspection, depth: int = 2) -> RenderableType:
    """What `rich` prints: a line for each kind, then the tree of parts, ``depth`` levels of it.

    Neighbouring members of a list that are built alike, such as the layers of a model that is not pruned, are one
    line with their sums.
    """
    root = inspection.root
    measured = root.ms is not None
    table = Table(box=None, pad_edge=False, header_style="bold")
    # Names give way where there is no room, and figures do not.
    table.add_column("", overflow="ellipsis")
    for column in ("parameters", "", "MACs", "", *(("ms", "") if measured else ())):
        table.add_column(column, justify="right", no_wrap=True)

    def add(label: str, part: Part, style: str = "") -> None:
        cells = [short(part.params), _percent(part.params, root.params)]
        cells += [short(part.macs), _percent(part.macs, root.macs)]
        if measured:
            cells += ["" if part.ms is None else f"{part.ms:.2f}", _percent(part.ms, root.ms)]
        table.add_row(label, *cells, style=style)

    for kind, part in inspection.kinds.items():
        add(kind, part)
    add("whole model", root, style="bold")
    if depth > 0:
        table.add_row()
        for label, part in _lines(_folded(root), depth):
            add(label, part)

    title = (
        f"{inspection.architecture}: {short(inspection.params)} parameters, "
        f"{short(inspection.macs_per_second)} MACs per second of audio"
    )
    conditions = f"MACs of {inspection.seconds:g} s of audio"
    if measured:
        conditions += (
            f"; time of a batch of {inspection.batch} such on {counted(inspection.threads, 'thread')}"
        )
    return Group(Text(title, style="bold"), Text(conditions, style="dim"), Text(), table)


def _percent(part: float | None, whole: float | None) -> str:
    fraction = share(part, whole)
    return "" if fraction is None else f"{fraction:.1%}"


def _lines(part: Part, depth: int, indent: str = "") -> Iterator[tuple[str, Part]]:
    """Labels and parts of the tree below ``part``; a list with one member is one line with it."""
    for child in part.children:
        shown, label = child, _key(child)
        if len(child.children) == 1 and "-" in _key(child.children[0]):
            shown = child.children[0]
            label = f"{label}.{_key(shown)}"
        yield indent + label, shown
        if depth > 1:
            yield from _lines(shown, depth - 1, indent + "  ")


def _folded(part: Part) -> Part:
    """The same tree with neighbouring members of a list that are built alike summed into one part."""
    children = [_summed(list(run)) for _, run in groupby(map(_folded, part.children), key=_build)]
    return replace(part, children=tuple(children))


def _build(part: Part) -> object:
    """Equal for members of a list that cost the same in all their parts; the name for all other parts."""
    if not _key(part).isdigit():
        return part.name
    return [(below.kind, below.params, below.macs) for below in part.walk()]


def _summed(alike: Sequence[Part]) -> Part:
    first, last = alike[0], alike[-1]
    if len(alike) == 1:
        return first
    times = [part.ms for part in alike if part.ms is not None]
    return replace(
        first,
        name=f"{first.name}-{_key(last)}" if _key(first).isdigit() else first.name,
        params=sum(part.params for part in alike),
        macs=sum(part.macs for part in alike),
        ms=sum(times) if times else None,
        children=tuple(_summed(members) for members in zip(*(part.children for part in alike), strict=True)),
    )


def _key(part: Part) -> str:
    return part.name.rpartition(".")[2]
