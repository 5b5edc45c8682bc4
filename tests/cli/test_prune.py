from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from transformers import HubertConfig, HubertForCTC, Wav2Vec2FeatureExtractor

import secateur.pruning.prune
from secateur.cli import prune as command
from secateur.errors import SecateurError
from secateur.models.vocabulary import tokenizer_from_pieces
from secateur.pruning.learning import method
from secateur.pruning.learning.learned import Learned
from secateur.pruning.oneshot import OneShot
from secateur.pruning.planning.scope import Scope
from secateur.pruning.settings import PruneSettings
from secateur.recognizer import Recognizer
from secateur.training.workspace import differences

Run = Callable[..., Result]
Refused = Callable[..., str]

TOO_FEW = "secateur: 3 utterances are too few to set some aside, and none are transcribed to validate on: what training ends with is kept\n"
"""What a learned run on the speech of these tests says first."""


def prune_arguments(model: Path, speech: Path, out: Path, **others: object) -> list[object]:
    options = {
        "data": speech,
        "keep": "params=60%",
        "out": out,
        "score": "magnitude",
        "method": "oneshot",
        "refit-minutes": 0.05,
        "refit-steps": 2,
    } | others
    words = [(f"--{name}",) if value is True else (f"--{name}", value) for name, value in options.items()]
    return ["prune", model, *chain.from_iterable(words)]


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_prune_writes_the_figures_that_its_folder_holds(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    result = run(*prune_arguments(model, speech, tmp_path / "out", valid=speech, json="-"))
    assert result.exit_code == 0
    figures = json.loads(result.stdout)
    assert figures == json.loads((tmp_path / "out" / "report.json").read_text())
    assert figures["after"]["params"] <= 0.6 * figures["before"]["params"]
    assert {"wer", "rtf", "params", "macs_per_second"} <= figures["after"].keys() & figures["before"].keys()
    assert listing(tmp_path) == ["out"]


def test_prune_shows_before_and_after_and_says_where_the_result_is(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shown = run(*prune_arguments(model, speech, out, valid=speech, limit=2)).stdout
    for expected in ("before", "after", "parameters", "MACs per second", "WER", "95 % interval"):
        assert expected in shown
    assert shown.endswith(f"The pruned model is in {out}.\n")
    assert "WER" not in run(*prune_arguments(model, speech, out)).stdout
    heard = run("transcribe", out, speech / "1.wav", "--json", "-")
    assert json.loads(heard.stdout)[0]["seconds"] == 1


def test_prune_replaces_its_earlier_result(run: Run, model: Path, speech: Path, tmp_path: Path) -> None:
    first = run(*prune_arguments(model, speech, tmp_path / "out", keep="params=80%", json="-"))
    second = run(*prune_arguments(model, speech, tmp_path / "out", keep="params=50%", json="-"))
    assert json.loads(first.stdout) != json.loads(second.stdout)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(second.stdout)
    assert listing(tmp_path) == ["out"]


def test_prune_names_speech_that_it_cannot_read_and_goes_on(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(speech, data)
    (data / "broken.wav").write_bytes(b"RIFF")
    result = run(*prune_arguments(model, data, tmp_path / "out", **{"refit-minutes": 10}))
    assert result.exit_code == 0
    assert "skipped 1 of 4: " in result.stderr
    assert "broken.wav" in result.stderr


@pytest.mark.parametrize("method", ["learned", "oneshot"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": "half"}, "the budget 'half' has 'half' in it"),
        ({"keep": "params=50"}, "params=50 has no unit"),
        ({"keep": "params=0.01%"}, "cannot be met: params="),
        ({"data": "nowhere"}, "nowhere does not exist"),
        ({"valid": "nowhere"}, "nowhere does not exist"),
    ],
    ids=lambda value: " ".join(map(str, *value.items())) if isinstance(value, dict) else "",
)
def test_a_prune_that_cannot_be_is_refused_and_leaves_nothing(
    refused: Refused,
    model: Path,
    speech: Path,
    tmp_path: Path,
    options: dict[str, str],
    said: str,
    method: str,
) -> None:
    options = {"method": method, **options}
    assert said in refused(*prune_arguments(model, speech, tmp_path / "out", **options))
    assert listing(tmp_path) == []


def test_pruning_into_a_folder_that_holds_something_else_is_refused(
    refused: Refused, model: Path, speech: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").touch()
    said = refused(*prune_arguments(model, speech, tmp_path))
    assert "holds something else than a pruned model; give a new or an empty folder" in said
    assert listing(tmp_path) == ["thesis.tex"]


def test_pruning_a_family_without_a_table_is_refused(
    run: Run, refused: Refused, speech: Path, tmp_path: Path
) -> None:
    hubert = HubertForCTC(
        HubertConfig(
            vocab_size=5, pad_token_id=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
            conv_dim=(8,) * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        )
    )  # fmt: skip
    tokenizer = tokenizer_from_pieces(["▁a", "b", "c", "d"])
    features = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    Recognizer(hubert, features, tokenizer).save_pretrained(tmp_path / "hubert")
    shown = run("inspect", tmp_path / "hubert", "--no-measure", "--seconds", 1)
    assert "It cannot be pruned: a HubertForCTC can be transcribed with" in " ".join(shown.stdout.split())
    said = refused(*prune_arguments(tmp_path / "hubert", speech, tmp_path / "out"))
    assert (
        "a HubertForCTC can be transcribed with and evaluated, and not pruned; what can be are ConformerForCTC"
        in said
    )
    assert listing(tmp_path) == ["hubert"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_ctrl_c_while_the_result_is_written_leaves_nothing(
    run: Run, model: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press_ctrl_c(folder: Path, *_: object) -> None:
        assert (folder / "model.safetensors").exists()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(secateur.pruning.prune, "write_beside", press_ctrl_c)
    result = run(*prune_arguments(model, speech, tmp_path / "out"))
    assert result.exit_code == 130
    assert "stopped before the end" in result.stderr
    assert listing(tmp_path) == []


def learned_arguments(model: Path, speech: Path, out: Path, **others: object) -> list[object]:
    phases = "start,search,reconstruct,recover"
    return prune_arguments(
        model, speech, out, **{"method": "learned", "phases": phases, "steps": 4, **others}
    )


def test_a_learned_run_goes_through_its_phases(run: Run, model: Path, speech: Path, tmp_path: Path) -> None:
    others = {"keep": "params=60%,macs=70%", "valid": speech, "json": "-"}
    result = run(*learned_arguments(model, speech, tmp_path / "out", **others), "--augment", "none")
    assert result.exit_code == 0
    figures = json.loads(result.stdout)
    assert figures["after"]["params"] <= 0.6 * figures["before"]["params"]
    assert figures["history"].keys() == {"search", "recover"}
    assert any({"params", "macs", "output"} <= row.keys() for row in figures["history"]["search"])
    assert figures["history"]["recover"][-1]["WER"] >= 0
    settings = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())["secateur"]
    assert (settings["method"], settings["learned"]["steps"]) == ("learned", 4)
    assert settings["learned"]["augment"] == "none"
    assert listing(tmp_path) == ["out"]


def test_phases_of_a_learned_run_can_be_left_out(run: Run, model: Path, speech: Path, tmp_path: Path) -> None:
    others = {"phases": "start, recover", "steps": 2, "json": "-"}
    figures = json.loads(run(*learned_arguments(model, speech, tmp_path / "out", **others)).stdout)
    assert figures["history"].keys() == {"recover"}


def test_the_curves_of_a_learned_run_are_written_for_tensorboard(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    others = {"valid": speech, "tensorboard": tmp_path / "curves", "json": "-"}
    result = run(*learned_arguments(model, speech, tmp_path / "out", **others))
    history = json.loads(result.stdout)["history"]
    read = events.EventAccumulator(str(tmp_path / "curves")).Reload()
    for phase, name in (("search", "params"), ("recover", "WER"), ("recover", "output")):
        curve = [(row["step"], pytest.approx(row[name])) for row in history[phase] if name in row]
        assert curve == [(each.step, each.value) for each in read.Scalars(f"{phase}/{name}")]


@pytest.fixture
def stopped(
    run: Run, model: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[object], Result]:
    """The command of a learned run that Ctrl-C stopped between two phases, and what came of it."""

    def press_ctrl_c(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    command = learned_arguments(model, speech, tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(method, "round_to_plan", press_ctrl_c)
        return command, run(*command)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_a_learned_run_that_was_stopped_goes_on_when_the_command_is_given_again(
    run: Run, model: Path, speech: Path, tmp_path: Path, stopped: tuple[list[object], Result]
) -> None:
    command, result = stopped
    assert result.exit_code == 130
    kept = tmp_path / "out.unfinished"
    assert result.stderr == TOO_FEW + (
        f"secateur: stopped; what was done is kept in {kept}, and the same command goes on from there\n"
    )
    assert listing(tmp_path) == ["out.unfinished"]
    again = run(*command)
    assert again.exit_code == 0
    assert again.stderr == f"secateur: going on with the run in {kept}\n" + TOO_FEW
    assert listing(tmp_path) == ["out"]
    run(*learned_arguments(model, speech, tmp_path / "in one go"))
    one, other = ((tmp_path / name / "plan.json").read_bytes() for name in ("out", "in one go"))
    assert one == other


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_process_that_is_told_to_stop_in_the_midst_of_training_keeps_what_it_has_done(
    model: Path, speech: Path, tmp_path: Path, name: str
) -> None:
    command = [*learned_arguments(model, speech, tmp_path / "out"), "--steps", 100_000, "--quiet"]
    with subprocess.Popen(
        [sys.executable, "-m", "secateur", *map(str, command)], stderr=subprocess.PIPE, text=True
    ) as process:
        searched = tmp_path / "out.unfinished" / "approach.pt"
        while not searched.exists() and process.poll() is None:
            time.sleep(0.05)
        # Into the search.
        time.sleep(1.0)
        process.send_signal(getattr(signal, name))
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said == TOO_FEW + (
        f"secateur: stopped; what was done is kept in {searched.parent}, and the same command goes on from there\n"
    )
    assert {path.name for path in searched.parent.glob("*.pt")} >= {"approach.pt", "search.so-far.pt"}


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_going_on_with_other_settings_is_refused_with_what_differs(
    refused: Refused, tmp_path: Path, stopped: tuple[list[object], Result]
) -> None:
    command, _ = stopped
    said = refused(*command, "--keep", "params=50%", "--steps", 6, "--phases", "start,search")
    assert said == (
        f"secateur: {tmp_path / 'out.unfinished'} holds an unfinished run with other settings (keep was params=60%, is "
        "params=50%; learned.steps was 4, is 6; learned.phases was start,search,reconstruct,recover, is start,search): "
        "give the same ones to go on with it, or delete the folder\n"
    )
    assert listing(tmp_path) == ["out.unfinished"]


def test_ctrl_c_before_anything_is_done_leaves_nothing(
    run: Run, model: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(method, "decide", interrupt)
    result = run(*learned_arguments(model, speech, tmp_path / "out"))
    assert result.exit_code == 130
    assert result.stderr == TOO_FEW + "secateur: stopped before the end\n"
    assert listing(tmp_path) == []


def test_the_run_of_a_result_is_repeated_from_its_run_yaml(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    run(*prune_arguments(model, speech, tmp_path / "first", seed=3), "--width")
    config = tmp_path / "first" / "run.yaml"
    assert run("prune", "--config", config, "--out", tmp_path / "second").exit_code == 0
    for name in ("plan.json", "model.safetensors", "run.yaml"):
        first, second = ((tmp_path / run / name).read_bytes() for run in ("first", "second"))
        assert first == second


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--width", "--score", "obs"), "the residual width would stay, because the score obs does not judge it: give a score of magnitude,"),
        (("--limit", 3), "--limit is for --valid: give both, or neither"),
        (
            ("--method", "learned", "--phases", "search,recover", "--score", "hessian", "--trials", 2),
            "--score decides where the search begins, in the phase start: add it to --phases",
        ),
    ],
)  # fmt: skip
def test_what_would_do_nothing_is_refused(
    run: Run, model: Path, speech: Path, tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    result = run(*prune_arguments(model, speech, tmp_path / "out"), *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert listing(tmp_path) == []


def test_what_the_command_line_says_goes_above_the_config(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    before = PruneSettings(
        "nowhere.nemo",
        "nowhere",
        "params=60%",
        method="oneshot",
        oneshot=OneShot("magnitude", reconstruct_minutes=0, seed=3),
        learned=Learned(steps=5),
        scope=Scope(multiple_of=2),
    )
    before.to_yaml(tmp_path / "run.yaml", {})
    options = ("--data", speech, "--multiple-of", 1, "--seed", 0)
    result = run("prune", model, "--config", tmp_path / "run.yaml", "--out", tmp_path / "out", *options)
    assert result.exit_code == 0
    assert PruneSettings.from_yaml(tmp_path / "out" / "run.yaml") == replace(
        before,
        model=str(model),
        data=str(speech),
        oneshot=OneShot("magnitude", reconstruct_minutes=0, seed=0),
        scope=Scope(),
    )


def test_minutes_on_the_command_line_go_above_the_steps_of_a_config(
    run: Run, model: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PruneSettings(model, speech, "params=60%", learned=Learned(steps=5)).to_yaml(tmp_path / "run.yaml", {})
    asked = []

    def note(settings: PruneSettings, *_: object, **__: object) -> None:
        asked.append(settings.learned)
        raise SecateurError("enough")

    monkeypatch.setattr(secateur.pruning.prune, "prune", note)
    for options in ((), ("--minutes", 20)):
        run("prune", "--config", tmp_path / "run.yaml", "--out", tmp_path / "out", *options)
    assert [(each.steps, each.minutes) for each in asked] == [(5, 45), (None, 20)]


OPTIONS = {
    "--teacher": ("first.nemo", "teacher", "first.nemo"),
    "--valid": ("spoken", "valid", "spoken"),
    "--method": ("oneshot", "method", "oneshot"),
    "--score": ("wanda", "oneshot.score", "wanda"),
    "--score-minutes": ("3", "oneshot.score_minutes", 3.0),
    "--trials": ("4", "oneshot.trials", 4),
    "--refit-minutes": ("5", "oneshot.reconstruct_minutes", 5.0),
    "--refit-steps": ("7", "oneshot.reconstruct_steps", 7),
    "--uniform": (None, "oneshot.uniform", True),
    "--seed": ("6", "oneshot.seed", 6),
    "--minutes": ("7", "learned.minutes", 7.0),
    "--steps": ("8", "learned.steps", 8),
    "--phases": ("start,recover", "learned.phases", ["start", "recover"]),
    "--strides": ("3", "learned.strides", 3),
    "--batch-seconds": ("9", "learned.batch_seconds", 9.0),
    "--augment": ("masks", "learned.augment", "masks"),
    "--precision": ("float32", "learned.precision", "float32"),
    "--multiple-of": ("10", "scope.multiple_of", 10),
    "--min-heads": ("1", "scope.min_heads", 1),
    "--width": (None, "scope.width", True),
    "--whole": ("layers.0.*,layers.1", "scope.whole", ["layers.0.*", "layers.1"]),
}
"""Of every option but those that a run needs: a value, the setting that it is of, and what that is then."""


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_decides_its_setting_and_no_other(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: str
) -> None:
    asked: list[PruneSettings] = []

    def note(settings: PruneSettings, *_: object, **__: object) -> None:
        asked.append(settings)
        raise SecateurError("enough")

    monkeypatch.setattr(secateur.pruning.prune, "prune", note)
    value, name, expected = OPTIONS[option]
    words = ["prune", model, "--data", "speech", "--keep", "params=60%", "--out", tmp_path / "out"]
    if option != "--score":
        # A score that judges all there is, so that every option has something to say.
        words += ["--score", "hessian"]
    run(*words)
    run(*words, option, *([] if value is None else [value]))
    before, after = asked
    changed = [name for name, _, _ in differences(before.plain(), after.plain())]
    assert changed == [name]
    setting: Any = after.plain()
    for part in name.split("."):
        setting = setting[part]
    assert setting == expected


def test_no_option_is_left_out_above() -> None:
    given_apart = {"model", "data", "keep", "limit"}
    assert command.SETTINGS.keys() - given_apart == {
        option.removeprefix("--").replace("-", "_") for option in OPTIONS
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"minutes": 5, "steps": 4},
            "--minutes and --steps both say how long the phases are: give one of them",
        ),
        ({"steps": 4, "method": "oneshot"}, "--steps is for --method learned, and the method is oneshot"),
        ({"tensorboard": "curves", "method": "oneshot"}, "--tensorboard is for --method learned"),
        (
            {"uniform": True, "phases": "start,search,recover"},
            "uniform sharing is for scores, and a search decides",
        ),
        ({"phases": "search,luck"}, "there is no phase 'luck'; choose among start, search, reconstruct, "),
        ({"config": "nowhere.yaml"}, "nowhere.yaml cannot be read: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_are_refused(
    refused: Refused, model: Path, speech: Path, tmp_path: Path, options: dict[str, object], said: str
) -> None:
    options = {"method": "learned", **options}
    assert said in refused(*prune_arguments(model, speech, tmp_path / "out", **options))
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    ("given", "missing"),
    [((), "MODEL"), (("model.nemo",), "--data"), (("model.nemo", "--data", "speech"), "--keep")],
)
def test_without_a_config_model_data_and_budget_are_needed(
    run: Run, given: tuple[str, ...], missing: str
) -> None:
    result = run("prune", *given, "--out", "out")
    assert result.exit_code == 2
    assert "Error: Missing " in result.stderr
    assert missing in result.stderr.splitlines()[-1]


def test_the_defaults_that_help_shows_are_those_of_the_settings() -> None:
    needed = ("model.nemo", "--data", "speech", "--keep", "params=50%", "--out", "out")
    options = command.prune.make_context("prune", list(needed)).params
    settings = PruneSettings("model.nemo", "speech", "params=50%")
    assert settings.changed({command.SETTINGS[name]: options[name] for name in command.SETTINGS}) == settings
