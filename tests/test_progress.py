"""The progress bar: what it shows, and when it shows nothing."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from secateur.progress import ProgressBar, clock


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=140)


def shown(console: Console) -> str:
    return console.file.getvalue()


def test_a_terminal_sees_audio_speed_and_figures():
    console = terminal()
    with ProgressBar("evaluating", total=4, console=console) as bar:
        bar.advance(2, audio_seconds=83, WER="3.50%")
    assert "evaluating" in shown(console)
    assert "50%" in shown(console)
    assert "1:23 of audio" in shown(console)
    assert "x real time" in shown(console)
    assert "WER 3.50%" in shown(console)


@pytest.mark.parametrize("width", [40, 80, 140])
def test_share_time_left_and_the_first_figure_are_there_however_narrow(width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with ProgressBar("recover", total=250, console=console) as bar:
        bar.advance(100, audio_seconds=3000, WER="8.1%", output="0.103", hidden="0.0201")
    for figure in ("recover", " 40% ", " left ", "WER 8.1%"):
        assert figure in shown(console)


def test_the_total_may_become_known_later():
    console = terminal()
    with ProgressBar("pruning", console=console) as bar:
        bar.total = 10
        bar.advance(4)
        assert bar.total == 10
    assert "40%" in shown(console)


def test_work_that_is_gone_on_with_begins_where_it_was():
    console = terminal()
    with ProgressBar("pruning", console=console) as bar:
        bar.begin("search", total=10, done=6)
        bar.advance(1)
    assert "70%" in shown(console)


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_is_written_when_quiet_or_not_on_a_terminal(quiet):
    console = Console(file=io.StringIO(), force_terminal=quiet)
    with ProgressBar("evaluating", quiet=quiet, console=console) as bar:
        bar.advance(audio_seconds=1, WER=0)
    assert shown(console) == ""


def test_an_exception_passes_and_the_bar_is_closed():
    console = terminal()
    with pytest.raises(KeyboardInterrupt), ProgressBar("evaluating", console=console) as bar:
        raise KeyboardInterrupt
    bar.advance()


def test_importing_it_does_not_import_rich():
    code = "import sys, secateur.progress; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (2487, "41:27"), (9687, "2:41:27")]
)
def test_durations_read_like_a_clock(seconds, text):
    assert clock(seconds) == text
