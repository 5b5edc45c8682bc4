from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from secateur.errors import SecateurError

Run = Callable[..., Result]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def pruned(run: Run, model: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a learned run leaves."""
    out = tmp_path_factory.mktemp("pruned") / "smaller"
    phases = "start,search,reconstruct,recover"
    options = (
        "--keep",
        "params=60%",
        "--steps",
        4,
        "--phases",
        phases,
        "--score",
        "magnitude",
        "--refit-minutes",
        0.05,
        "--refit-steps",
        2,
    )
    assert run("prune", model, "--data", speech, "--valid", speech, "--out", out, *options).exit_code == 0
    return out


def test_prune_leaves_a_page_about_what_it_did(pruned: Path) -> None:
    page = (pruned / "report.html").read_text(encoding="utf-8")
    for expected in (
        "What is left of the model",
        "Search",
        "Recover",
        "Expected parameters",
        "Validation WER",
    ):
        assert expected in page


def test_prune_quotes_utterances_that_are_heard_otherwise(pruned: Path) -> None:
    report = json.loads((pruned / "report.json").read_text())
    changes = [after - before for before, after in (row["errors"] for row in report["changed"])]
    assert changes == sorted(changes, reverse=True)
    assert 0 not in changes
    assert ("data:audio/" in (pruned / "report.html").read_text()) is bool(changes)


def test_a_page_that_cannot_be_written_does_not_spoil_the_result(
    run: Run, model: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise SecateurError("the disk is full")

    monkeypatch.setattr("secateur.cli.output.write_text", refuse)
    options = ("--keep", "params=60%", "--method", "oneshot", "--score", "magnitude", "--refit-minutes", 0)
    result = run("prune", model, "--data", speech, "--out", tmp_path / "out", *options)
    assert result.exit_code == 0
    assert "secateur: the disk is full" in result.stderr
    assert "report.html" not in result.stdout
    assert (tmp_path / "out" / "report.json").is_file()


def test_report_writes_the_page_of_a_run_again(run: Run, pruned: Path, tmp_path: Path) -> None:
    (pruned / "report.html").unlink()
    result = run("report", pruned)
    assert result.exit_code == 0
    assert f"{pruned / 'report.html'} is written" in result.stderr
    elsewhere = tmp_path / "page.html"
    run("report", pruned, "--out", elsewhere)
    assert elsewhere.read_text() == (pruned / "report.html").read_text()
    assert run("report", pruned, "--out", "-").stdout.strip() == elsewhere.read_text().strip()


def test_report_puts_several_runs_side_by_side(
    run: Run, pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("report", pruned, pruned).exit_code == 0
    assert "2 pruned models side by side" in (tmp_path / "comparison.html").read_text()


def test_a_folder_that_holds_no_result_is_refused(refused: Refused, pruned: Path, tmp_path: Path) -> None:
    assert "holds no report.json: give a folder that `secateur prune` has written" in refused(
        "report", pruned, tmp_path
    )
    assert "cannot be written: give a file in a folder that exists" in refused(
        "report", pruned, "--out", tmp_path / "nowhere" / "page.html"
    )


def test_report_loads_no_pytorch(pruned: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from secateur.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, "report", pruned, "--out", tmp_path / "a.html"], check=True)


def test_report_gives_the_figures_as_json_too(
    run: Run, refused: Refused, pruned: Path, tmp_path: Path
) -> None:
    made = json.loads((pruned / "report.json").read_text())
    result = run("report", pruned, pruned, "--out", tmp_path / "page.html", "--json", "-")
    figures = json.loads(result.stdout)
    assert [row["folder"] for row in figures] == [str(pruned)] * 2
    assert figures[0]["before"] == made["before"]
    assert figures[0]["after"] == made["after"]
    assert figures[0]["budget"] == "params=60%"
    assert figures[0]["environment"] == made["environment"]
    assert "are one place" in refused("report", pruned, "--out", "-", "--json", "-")
    page = tmp_path / "page.html"
    before = page.read_bytes()
    assert "are one place" in refused("report", pruned, "--out", page, "--json", page)
    assert page.read_bytes() == before


@pytest.mark.parametrize("name", ["report.json", "run.yaml"])
@pytest.mark.parametrize("option", ["--out", "--json"])
def test_a_page_or_figures_never_take_the_place_of_the_record(
    refused: Refused, pruned: Path, monkeypatch: pytest.MonkeyPatch, name: str, option: str
) -> None:
    monkeypatch.chdir(pruned)
    before = (pruned / name).read_bytes()
    assert "are one place" in refused("report", ".", option, name)
    assert (pruned / name).read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_what_standard_output_cannot_take_is_one_sentence(pruned: Path) -> None:
    for option in ("--out", "--json"):
        with Path("/dev/full").open("w") as full:
            command = [sys.executable, "-m", "secateur", "report", str(pruned), option, "-"]
            ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert ran.returncode == 2
        assert "standard output cannot be written: No space left on device" in ran.stderr
        assert "Traceback" not in ran.stderr
