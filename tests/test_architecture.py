"""The rooms import what docs/architecture.md says, and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from secateur import _HOMES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "secateur"
MODULES = {
    ".".join(("secateur", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}
# The package itself and `python -m secateur` are doors, not rooms.
DOORS = {"secateur", "secateur.__main__"}


def imported(module: str, *, at_once: bool = False) -> set[str]:
    """Modules of Secateur that a module imports: all but those for types; ``at_once``: as soon as it is imported."""
    names: set[str] = set()
    for node in imports(ast.parse(MODULES[module].read_text(encoding="utf-8")), at_once):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        else:
            assert node.module is not None, f"{module} imports relatively"
            # The package hands out names that live in rooms.
            homes = _HOMES if node.module == "secateur" else {}
            found = [f"{homes.get(alias.name, node.module)}.{alias.name}" for alias in node.names]
        for name in found:
            if name.partition(".")[0] == "secateur":
                names.add(name if name in MODULES else name.rpartition(".")[0])
    return names - {module}


def imports(node: ast.AST, at_once: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        elif not (at_once and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))):
            yield from imports(child, at_once)


@cache
def actual(within: str = "secateur") -> dict[str, set[str]]:
    """The rooms of a package that each of its rooms imports."""
    rooms: dict[str, set[str]] = {}
    place = within.count(".") + 1
    inside = {name for name in MODULES.keys() - DOORS if name.startswith(f"{within}.")}
    for module in inside:
        own = module.split(".")[place]
        others = {name.split(".")[place] for name in imported(module) & inside}
        rooms.setdefault(own, set()).update(others - {own})
    return rooms


def documented(within: str = "secateur") -> dict[str, set[str]]:
    """The same as docs/architecture.md has it."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    prefix = within.removeprefix("secateur").removeprefix(".")
    rows = re.findall(
        rf"^\| `{prefix}{'/' if prefix else ''}(\w+)` \| [^|]+ \|([^|]*)\|$", text, re.MULTILINE
    )
    return {name: set(re.findall(r"`(\w+)`", others)) for name, others in rows if name != "cli"}


ROOMS = [(within, name) for within in ("secateur", "secateur.pruning") for name in sorted(documented(within))]


def test_every_room_is_in_the_table() -> None:
    assert set(actual()) == {*documented(), "cli"}
    assert set(actual("secateur.pruning")) == set(documented("secateur.pruning"))


@pytest.mark.parametrize(("within", "name"), ROOMS)
def test_a_room_imports_what_the_table_says(within: str, name: str) -> None:
    assert sorted(actual(within)[name]) == sorted(documented(within)[name])


@pytest.mark.parametrize("within", ["secateur", "secateur.pruning"])
def test_the_rooms_have_an_order(within: str) -> None:
    assert list(TopologicalSorter(actual(within)).static_order())  # it raises CycleError


def test_structure_knows_nothing_of_pruning_or_training() -> None:
    assert not actual()["structure"] & {"pruning", "training", "export", "reporting", "cli"}


def test_pruning_knows_nothing_of_how_it_is_called_or_shown() -> None:
    assert not actual()["pruning"] & {"cli", "export", "reporting"}


def test_nothing_imports_the_command_line() -> None:
    assert [module for module in MODULES if "secateur.cli" in imported(module)] == ["secateur.__main__"]


@pytest.mark.parametrize("module", ["secateur.structure.surgery", "secateur.models.conformer"])
def test_what_checkpoints_carry_imports_nothing_of_secateur(module: str) -> None:
    assert imported(module) == set()


def test_no_module_needs_itself_to_be_imported() -> None:
    graph = {module: imported(module, at_once=True) for module in MODULES}
    assert list(TopologicalSorter(graph).static_order())  # it raises CycleError
