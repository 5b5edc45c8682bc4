"""What pages name exists: commands and their options, targets, files, benchmarks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from secateur.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]


def commands(page: Path) -> list[str]:
    """What a page's code blocks would have `secateur` do."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^(?: {4})?(secateur .*)$", text, re.MULTILINE)
    return [command.split("  #")[0].removesuffix(" &") for command in found]


COMMANDS = [(page.relative_to(ROOT).as_posix(), command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_of_a_page_parses(page: str, command: str) -> None:
    _, name, *arguments = shlex.split(command)
    command_line = main.commands[name]
    values, unread, _ = command_line.make_parser(click.Context(command_line)).parse_args(arguments)
    assert name == "demo" or any(values.get(name) for name in ("model", "config", "folders", "data"))
    assert unread == []


def test_the_readme_shows_every_command() -> None:
    assert {command.split()[1] for page, command in COMMANDS if page == "README.md"} == set(main.commands)


def test_targets_of_make_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:^    |`)make (\w+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {"try", "test"} <= named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    rooms = "src|docs|tests|benchmarks|structure|pruning|training|models|speech|evaluation|reporting|cli"
    named = re.findall(rf"`((?:{rooms})/[\w./]+)`", page.read_text(encoding="utf-8"))
    bases = (ROOT, ROOT / "src" / "secateur")
    missing = [name for name in named if not any((base / name).exists() for base in bases)]
    assert [name for name in missing if "NAME" not in name] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_benchmarks_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"benchmarks\.(\w+)", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / "benchmarks" / f"{name}.py").is_file()] == []
