"""Pages in a real browser: they are drawn, fit narrow and wide windows, complain of nothing and ask for nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from secateur.reporting.page import comparison_page, run_page

MakeResult = Callable[..., Path]

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-default-apps", "--no-proxy-server", "--allow-file-access-from-files", "--enable-logging=stderr",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip

MEASURE = """<iframe src="{page}" width="{width}" height="9000"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const boxes = [...page.querySelectorAll("svg[role=img]")].map((each) => each.getBoundingClientRect());
  document.body.textContent = "RESULT " + JSON.stringify({{
    wide: root.scrollWidth, high: root.scrollHeight, drawings: boxes.map((box) => [box.width, box.height]),
    paper: page.defaultView.getComputedStyle(page.body).backgroundColor,
  }}) + " END";
}};
</script>"""


@dataclass(frozen=True)
class Seen:
    """What a browser wrote on its console, and the addresses on the network that it asked for."""

    console: list[str]
    asked: list[str]
    output: str


Browse = Callable[..., Seen]


@pytest.fixture(scope="session")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Browse:
    """Open a page in headless Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        reason = "no Chromium: install it (on Debian, apt-get install chromium)"
        if "CI" in os.environ or os.environ.get("SECATEUR_REQUIRE_SHARED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)

    def browse(page: Path, *flags: str, dark: bool = False) -> Seen:
        folder = tmp_path_factory.mktemp("browser")
        command = [
            chromium, *FLAGS, *flags, f"--user-data-dir={folder}", f"--log-net-log={folder / 'net.json'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", page.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        requests = [line for line in (folder / "net.json").read_text().splitlines() if '"initiator":' in line]
        # What the browser asks on its own account has no origin.
        of_pages = [line for line in requests if '"initiator":"not an origin"' not in line]
        asked = re.findall(r'"url":"((?:https?|wss?):[^"]*)"', "\n".join(of_pages))
        return Seen(re.findall(r":CONSOLE.*", done.stderr), asked, done.stdout)

    return browse


@pytest.fixture(params=["run", "training", "comparison"])
def page(
    request: pytest.FixtureRequest,
    make_result: MakeResult,
    make_training: MakeResult,
    recording: Path,
    tmp_path: Path,
) -> Path:
    make = make_training if request.param == "training" else make_result
    folder = make("a folder with a name that is rather longer than any window is wide " + "x" * 60,
                  settings={"valid": str(recording), "data": "/some/where/" + "y" * 200})  # fmt: skip
    text = comparison_page([folder, make_training()]) if request.param == "comparison" else run_page(folder)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    return tmp_path / "page.html"


def test_a_page_is_drawn_without_a_complaint_or_a_request(page: Path, browse: Browse, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    seen = browse(page, f"--screenshot={picture}", "--window-size=1200,2000")
    assert seen.console == []
    assert seen.asked == []
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (1200, 2000)
    assert picture.stat().st_size > 50_000  # An empty page of that size takes 10 kB.


def test_a_page_is_printed(page: Path, browse: Browse, tmp_path: Path) -> None:
    sheets = tmp_path / "page.pdf"
    assert browse(page, f"--print-to-pdf={sheets}").console == []
    printed = sheets.read_bytes()
    assert printed.startswith(b"%PDF")
    assert len(printed) > 20_000


@pytest.mark.parametrize(("width", "dark"), [(400, False), (1200, True)], ids=["narrow", "wide and dark"])
def test_a_page_fits_its_window(page: Path, browse: Browse, tmp_path: Path, width: int, dark: bool) -> None:
    frame = tmp_path / "frame.html"
    frame.write_text(MEASURE.format(page=page.name, width=width), encoding="utf-8")
    seen = browse(frame, "--dump-dom", "--window-size=1400,2000", dark=dark)
    assert seen.console == []
    found: dict[str, Any] = json.loads(re.findall(r"RESULT (.*) END", seen.output)[-1])
    assert found["wide"] <= width
    assert found["high"] > 1000
    assert found["drawings"]
    assert all(0 < wide <= width and high > 5 for wide, high in found["drawings"])
    assert (found["paper"] == "rgb(20, 24, 22)") is dark


def test_complaints_and_requests_would_be_noticed(browse: Browse, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<script>missing()</script><img src='http://example.invalid/picture.png'>")
    seen = browse(page, "--dump-dom")
    assert "missing is not defined" in seen.console[0]
    assert seen.asked[0] == "http://example.invalid/picture.png"
