"""The site builds without a warning, and holds the reference of every public name and every command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import secateur
from secateur.cli import main

# What the module makes once is made once only if all of it runs in one process.
pytestmark = pytest.mark.xdist_group("site")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does, so that a link that leads nowhere fails it."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    ran = subprocess.run(
        [*build, "--doctree-dir", str(folder / "doctrees"), str(ROOT / "docs"), str(folder / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return folder / "html"


def test_the_reference_holds_every_public_name(site: Path) -> None:
    page = (site / "reference" / "secateur.html").read_text(encoding="utf-8")
    assert [name for name in secateur.__all__ if f'id="secateur.{name}"' not in page] == []


def test_the_reference_holds_every_option_of_every_command(site: Path) -> None:
    page = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for name, command in main.commands.items():
        assert f'id="secateur-{name}"' in page
        options = [option for each in command.params for option in each.opts if option.startswith("--")]
        missing = [option for option in options if f'id="cmdoption-secateur-{name}-{option[2:]}"' not in page]
        assert missing == []


def test_every_page_is_there(site: Path) -> None:
    sources = [page for kind in ("md", "rst") for page in (ROOT / "docs").rglob(f"*.{kind}")]
    pages = [(site / source.relative_to(ROOT / "docs")).with_suffix(".html") for source in sources]
    assert [page for page in pages if not page.is_file()] == []


def test_pages_ask_the_network_for_nothing(site: Path) -> None:
    asked = re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]*")
    for page in site.rglob("*.html"):
        assert asked.findall(page.read_text(encoding="utf-8")) == [], page.name
