"""What every test may ask for: the shared speech and weights, and settings that make runs repeatable."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=25, print_blob=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=500, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

# What a terminal is like, and what Ctrl-C does, is for each test to say, whoever started them.
for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(name, None)
os.environ["TERM"] = "xterm"
signal.signal(signal.SIGINT, signal.default_int_handler)

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def _demanded(report: Report) -> Report:
    """A skip fails where everything has to be there."""
    if report.skipped and os.environ.get("SECATEUR_REQUIRE_SHARED") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped, where nothing may be: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    return _demanded((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    return _demanded((yield))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real speech and weights: $SECATEUR_SHARED, by default `shared` beside the repository.

    A test that asks for it is skipped where there is none, and fails if SECATEUR_REQUIRE_SHARED=1.
    """
    folder = Path(os.environ.get("SECATEUR_SHARED", ROOT.parent / "shared")).resolve()
    if not folder.is_dir():
        reason = f"no shared speech and weights at {folder}: set SECATEUR_SHARED to the folder that has them"
        if os.environ.get("SECATEUR_REQUIRE_SHARED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
