"""What pages name exists: commands and their options, targets, files, benchmarks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from secateur.cli import main
from secateur.cli.prune import SETTINGS
from secateur.pruning.settings import PruneSettings

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
    missing = [
        name
        for name in named
        if not any((base / each).exists() for base in bases for each in (name, f"{name}.py"))
    ]
    assert [name for name in missing if "NAME" not in name] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_benchmarks_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"benchmarks\.(\w+)", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / "benchmarks" / f"{name}.py").is_file()] == []


SETTINGS_PAGE = (ROOT / "docs" / "howto" / "settings.md").read_text(encoding="utf-8")


def settings_told() -> dict[str, tuple[str, str]]:
    """Settings that the page lists, each with its default and its option."""
    told = {}
    for row in re.findall(r"^\| (`.*) \|$", SETTINGS_PAGE, re.MULTILINE):
        names, default, option, _ = (cell.strip() for cell in row.split(" | ", 3))
        settings = re.findall(r"`([\w.]+)`", names)
        defaults, options = default.split(", "), option.split(", ")
        for index, name in enumerate(settings):
            own = default if len(settings) == 1 else defaults[min(index, len(defaults) - 1)]
            told[name] = own, options[min(index, len(options) - 1)]
    return told


def flat(section: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Settings of a section and of those within it, by names with dots."""
    found: dict[str, object] = {}
    for name, value in section.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def test_the_page_of_settings_has_every_setting_with_its_default_and_its_option() -> None:
    settings, told = flat(PruneSettings("", "", "").plain()), settings_told()
    assert set(told) == set(settings)
    optional = set(SETTINGS.values())
    for name, (default, option) in told.items():
        assert (option != "none") == (name in optional), name
        value = settings[name]
        if default in ("required", "none", "the model"):
            assert value in (None, [], ""), name
        elif isinstance(value, list):
            assert default.split(", ") == value
        elif isinstance(value, float):
            assert float(default) == value, name
        else:
            assert yaml.safe_load(default.strip("`")) == value, name


def test_the_settings_of_the_page_can_be_read(tmp_path: Path) -> None:
    run = re.search(r"^```yaml\n(.*?)^```$", SETTINGS_PAGE, re.MULTILINE | re.DOTALL)
    assert run
    (tmp_path / "mine.yaml").write_text(run[1], encoding="utf-8")
    settings = PruneSettings.from_yaml(tmp_path / "mine.yaml")
    assert settings.learned.rate == 1e-4
    assert settings.learned.distillation.task == 0.3
