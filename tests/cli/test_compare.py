from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from secateur.cli import compare as command
from secateur.errors import SecateurError
from secateur.pruning.compare import CompareSettings
from secateur.pruning.learning.method import LearnedMethod

Run = Callable[..., Result]
Refused = Callable[..., str]


def arguments(model: Path, speech: Path, out: Path, **others: object) -> list[object]:
    options = {
        "data": speech, "valid": speech, "keep": "60%", "methods": "random,magnitude", "out": out, "steps": 1,
        "batch-seconds": 2, "limit": 1, "score-minutes": 0.02, "refit-minutes": 0.02, "refit-steps": 2, "precision": "float32",
    }  # fmt: skip
    given = {name: value for name, value in (options | others).items() if value is not None}
    return ["compare", model, *(part for name, value in given.items() for part in (f"--{name}", value))]


def test_compare_shows_a_line_for_each_method_and_leaves_runs_figures_and_a_page(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    out, json_file = tmp_path / "out", tmp_path / "figures.json"
    result = run(*arguments(model, speech, out, json=json_file))
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert lines[0] == ["method", "params", "MACs", "time", "WER", "valid", "recovery"]
    assert [line[0] for line in lines[2:6]] == ["unpruned", "params=60%,macs=60%", "magnitude", "random"]
    assert lines[-2:] == [
        f"All runs and their figures are in {out}.".split(),
        f"What came of it is drawn in {out / 'compare.html'}.".split(),
    ]
    names = ["compare.html", "compare.json", "magnitude_params60_macs60", "random_params60_macs60", "scores"]
    assert sorted(path.name for path in out.iterdir()) == names
    figures = json.loads(json_file.read_text())
    assert figures == json.loads((out / "compare.json").read_text())
    assert [row["method"] for row in figures["rows"]] == ["magnitude", "random"]
    assert run("inspect", out / "random_params60_macs60", "--quiet").exit_code == 0


def test_a_method_that_cannot_meet_the_budget_is_a_line_and_a_reason(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    others = {"methods": "layerdrop,magnitude", "keep": "params=35%", "test": speech}
    result = run(*arguments(model, speech, tmp_path / "out", **others))
    assert result.exit_code == 0, result.stderr
    assert "WER test" in result.stdout
    assert ["layerdrop", "not", "possible"] in [line.split() for line in result.stdout.splitlines()]
    assert "layerdrop, params=35%: the budget params=35% cannot be met" in result.stdout


def test_a_budget_that_no_method_meets_is_refused(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    others = {"methods": "magnitude", "keep": "0.01%", "quiet": None}
    result = run(*arguments(model, speech, tmp_path / "out", **others), "--quiet")
    assert (result.exit_code, result.stdout) == (2, "")
    said = result.stderr.splitlines()[-1]
    assert "no method came to a result; magnitude: the budget params=0.01%,macs=0.01% cannot be met" in said


def test_ctrl_c_keeps_what_is_done_and_says_where(
    run: Run, model: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recover = LearnedMethod._recover

    def press_ctrl_c(run: LearnedMethod, *given: Any) -> Any:
        if run.oneshot.score == "random":
            raise KeyboardInterrupt
        return recover(run, *given)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(LearnedMethod, "_recover", press_ctrl_c)
        result = run(*arguments(model, speech, out))
    assert result.exit_code == 130
    assert result.stderr.endswith(
        f"secateur: stopped; what was done is kept in {out}, and the same command goes on from there\n"
    )
    again = run(*arguments(model, speech, out))
    assert again.stderr.splitlines() == [
        "secateur: 2 of 2: random, params=60%,macs=60%",
        f"secateur: going on with the run in {out / 'random_params60_macs60'}.unfinished",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": "magnitude,luck"}, "there is no method 'luck'; choose all, or among search, "),
        ({"methods": ","}, "there is no method to compare"),
        (
            {"keep": "half"},
            "the budget 'half' has 'half' in it, which limits none of params, macs, latency",
        ),
        ({"minutes": 2}, "--minutes and --steps both say how long a run is: give one of them"),
        ({"valid": "nowhere"}, "nowhere does not exist"),
    ],
    ids=lambda value: " ".join(map(str, *value.items())) if isinstance(value, dict) else "",
)
def test_a_comparison_that_cannot_be_is_refused_and_leaves_nothing(
    refused: Refused, model: Path, speech: Path, tmp_path: Path, options: dict[str, object], said: str
) -> None:
    assert said in refused(*arguments(model, speech, tmp_path / "out", **options))
    assert list(tmp_path.iterdir()) == []


def test_the_defaults_of_the_command_are_those_of_the_settings(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def note(settings: CompareSettings, *_: object, **__: object) -> None:
        asked.append(settings)
        raise SecateurError("enough")

    monkeypatch.setattr("secateur.pruning.compare.compare", note)
    run(
        "compare",
        model,
        "--data",
        "a",
        "--valid",
        "b",
        "--keep",
        "70%,50%",
        "--keep",
        "latency=60%",
        "--out",
        "c",
    )
    assert asked == [CompareSettings(str(model), "a", "b", ("70%", "50%", "latency=60%"))]
    assert command.PAGE == "compare.html"
