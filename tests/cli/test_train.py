from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

import secateur.supervised.train
from secateur.cli import train as command
from secateur.errors import SecateurError
from secateur.supervised.settings import TrainSettings

Run = Callable[..., Result]
Refused = Callable[..., str]


def train_arguments(speech: Path, out: Path, **others: object) -> list[object]:
    options = {"data": speech, "out": out, "layers": 1, "width": 16, "heads": 2, "vocabulary": 12, "steps": 2}
    options |= others
    return ["train", *(word for name, value in options.items() for word in (f"--{name}", value))]


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_train_writes_a_recogniser_that_other_commands_read(run: Run, speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(*train_arguments(speech, out, valid=speech, limit=2, json=tmp_path / "figures.json"))
    assert result.exit_code == 0, result.stderr
    assert "parameters, trained for 2 steps on 0.00 hours of speech.\nWER " in result.stdout
    assert result.stdout.endswith(
        f" on 2 utterances.\nWhat came of it is drawn in {out / 'report.html'}.\nThe trained model is in {out}.\n"
    )
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures == json.loads((out / "report.json").read_text())
    assert json.loads(run("transcribe", out, speech / "1.wav", "--json", "-").stdout)[0]["seconds"] == 1
    assert run("prune", out, "--data", speech, "--keep", "params=80%", "--out", tmp_path / "smaller",
               "--method", "oneshot", "--score", "magnitude", "--refit-minutes", 0).exit_code == 0  # fmt: skip
    assert listing(tmp_path) == ["figures.json", "out", "smaller"]


def test_train_repeats_the_run_of_a_file_but_for_what_is_given(
    run: Run, speech: Path, tmp_path: Path
) -> None:
    assert run(*train_arguments(speech, tmp_path / "first")).exit_code == 0
    again = run(
        "train", "--config", tmp_path / "first" / "run.yaml", "--seed", 1, "--out", tmp_path / "second"
    )
    assert again.exit_code == 0
    first, second = (TrainSettings.from_yaml(tmp_path / name / "run.yaml") for name in ("first", "second"))
    assert second == replace(first, seed=1)


def test_train_leaves_a_page_which_report_writes_again(
    run: Run, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run(*train_arguments(speech, out, valid=speech)).exit_code == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    for expected in (
        "trained from nothing",
        "Loss: CTC for a token",
        "Validation WER",
        "data:audio/",
        "feed-forward",
        f"secateur train --config {out / 'run.yaml'} --out again",
    ):
        assert expected in page
    (out / "report.html").unlink()
    assert run("report", out).exit_code == 0
    assert (out / "report.html").read_text(encoding="utf-8") == page
    monkeypatch.chdir(tmp_path)
    assert run("report", out, out).exit_code == 0
    assert "2 models side by side" in (tmp_path / "comparison.html").read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_does_not_spoil_the_model(
    run: Run, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise SecateurError("the disk is full")

    monkeypatch.setattr("secateur.cli.output.write_text", refuse)
    result = run(*train_arguments(speech, tmp_path / "out"))
    assert result.exit_code == 0
    assert "secateur: the disk is full" in result.stderr
    assert "report.html" not in result.stdout
    assert (tmp_path / "out" / "report.json").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": "nowhere"}, "nowhere does not exist"),
        ({"valid": "nowhere"}, "nowhere does not exist"),
        ({"width": 30, "heads": 4}, "a width of 30 does not go with 4 heads"),
        ({"minutes": 1}, "--minutes and --steps both say how long the training is"),
        ({"limit": 3}, "--limit is for --valid: give both, or neither"),
        (
            {"init": "tiny"},
            "--layers is for random weights, and tiny, which training begins with, has its own",
        ),
        ({"vocabulary": 3}, "a vocabulary of 3 pieces cannot hold the"),
    ],
    ids=lambda value: (
        " ".join(map(str, *value.items())) if isinstance(value, dict) and len(value) == 1 else ""
    ),
)
def test_a_training_that_cannot_be_is_refused_and_leaves_nothing(
    refused: Refused, speech: Path, tmp_path: Path, options: dict[str, object], said: str
) -> None:
    assert said in refused(*train_arguments(speech, tmp_path / "out", **options))
    assert listing(tmp_path) == []


def test_training_on_nothing_is_refused(run: Run, tmp_path: Path) -> None:
    result = run("train", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "Missing option '--data'" in result.stderr


def test_the_defaults_that_help_shows_are_those_of_the_settings() -> None:
    options = dict(command.train.make_context("train", ["--data", "speech", "--out", "out"]).params)
    for name in ("out", "config", "tensorboard", "device", "threads", "json_file", "quiet"):
        del options[name]
    named = {command.RENAMED.get(name, name): value for name, value in options.items()}
    assert TrainSettings(**named) == TrainSettings("speech")


def test_ctrl_c_leaves_what_was_done_and_the_same_command_goes_on(
    run: Run, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press_ctrl_c(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    arguments = train_arguments(speech, tmp_path / "out", valid=speech, steps=5)
    with monkeypatch.context() as patch:
        patch.setattr(secateur.supervised.train, "new_folder", press_ctrl_c)
        stopped = run(*arguments)
    assert stopped.exit_code == 130
    assert f"what was done is kept in {tmp_path / 'out'}.unfinished" in stopped.stderr
    went_on = run(*arguments)
    assert went_on.exit_code == 0, went_on.stderr
    assert f"going on with the run in {tmp_path / 'out'}.unfinished" in went_on.stderr
    assert listing(tmp_path) == ["out"]
