from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import secateur
from secateur.errors import SecateurError
from secateur.pruning.compare import (
    METHODS,
    RECORD,
    CompareSettings,
    Comparison,
    Row,
    compare,
    read_budgets,
    scores,
)
from secateur.pruning.compare import runs as room
from secateur.pruning.learning import method, pace
from secateur.pruning.learning.learned import PHASES, Learned
from secateur.pruning.learning.method import LearnedMethod
from secateur.pruning.oneshot import OneShot
from secateur.pruning.planning.scope import Scope
from secateur.pruning.scoring.scores import SCORES
from secateur.pruning.settings import PruneSettings
from secateur.recognizer import Recognizer
from secateur.structure import counting
from secateur.structure.plan import PruningPlan
from secateur.training.checkpoint import read_state
from tiny_models import FAMILIES

# What the module makes once is made once only if all of it runs in one process.
pytestmark = pytest.mark.xdist_group("compare")

MakeSettings = Callable[..., CompareSettings]
RATE = 16000


@pytest.fixture(scope="module")
def model(save_model: Callable[..., Path]) -> Path:
    return save_model(layers=3)


@pytest.fixture(scope="module")
def speech(record_noise: Callable[..., Path]) -> Path:
    return record_noise(*(0.5 + number / 6 for number in range(4)))


@pytest.fixture(scope="module")
def settings(model: Path, speech: Path) -> MakeSettings:
    def settings(*methods: str, keep: tuple[str, ...] = ("60%",), **others: Any) -> CompareSettings:
        learned = Learned(
            steps=2, search_share=0.5, batch_seconds=1.0, precision="float32", valid_utterances=0
        )
        oneshot = OneShot(score_minutes=0.02, reconstruct_minutes=0.03, reconstruct_steps=2)
        chosen = {"limit": 2, "oneshot": oneshot, "learned": learned, "audio_seconds": 2.0, "rounds": 2}
        return CompareSettings(model, speech, speech, keep, methods, **chosen | others)

    return settings


@pytest.fixture(scope="module")
def everything(settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    """All methods at one budget, which feed-forward units alone cannot meet."""
    out = tmp_path_factory.mktemp("arena") / "out"
    return out, compare(settings("all"), out)


def test_every_method_meets_the_budget_and_is_measured(everything: tuple[Path, Comparison]) -> None:
    out, comparison = everything
    assert [row.method for row in comparison.rows] == list(METHODS)
    assert ("search", *SCORES, "scratch", "torch-pruning") == METHODS
    outsider = comparison.rows[-1]
    assert outsider.error is not None
    assert outsider.error.startswith("of this model torch-pruning is let prune feed-forward units alone")
    assert not (out / f"{outsider.name}.unfinished").exists()
    for row in comparison.rows[:-1]:
        assert row.error is None, row
        assert row.budget == "params=60%,macs=60%"
        assert 0 < max(row.kept.values()) <= 0.6
        assert row.valid is not None
        assert row.time is not None
        assert row.difference is not None
        assert {"wer", "wer_interval", "cer"} <= row.valid.keys()
        assert row.valid["utterances"] == 2
        assert row.time["low"] <= row.time["median"] <= row.time["high"]
        model = secateur.load(out / row.name).model
        assert counting.parameters(model) == row.valid["params"]
    assert json.loads((out / RECORD).read_text()) == comparison.to_json()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_meets_a_budget_on_every_family(
    settings: MakeSettings, save_model: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    """A budget that feed-forward units alone can meet too."""
    # With eight hundred frames a second most of the time would go into attention.
    fewer_frames = {"conv_stride": (10, 3, 3)} if family == "wav2vec2" else {}
    model = save_model(family, layers=4, units=60, **fewer_frames)
    wanted = replace(settings("all", keep=("params=85%",)), model=model)
    rows = compare(wanted, tmp_path / "out").rows
    assert [(row.method, row.error) for row in rows] == [(method, None) for method in METHODS]
    dense = counting.parameters(secateur.load(wanted.model).model)
    for row in rows:
        smaller = secateur.load(tmp_path / "out" / row.name).model
        assert counting.parameters(smaller) == round(row.kept["params"] * dense) <= 0.85 * dense


def test_only_what_decides_differs_between_methods(everything: tuple[Path, Comparison]) -> None:
    out, comparison = everything
    rows = comparison.rows[:-1]
    runs = {row.method: PruneSettings.from_yaml(out / row.name / "run.yaml") for row in rows}
    scratch, search = runs.pop("scratch"), runs.pop("search")
    assert search.learned.phases == PHASES
    assert search.oneshot.score == "obs"
    for name, run in runs.items():
        assert run.oneshot.score == name
        assert run.learned.phases == ("start", "reconstruct", "recover")
        assert run == replace(search, oneshot=run.oneshot, learned=run.learned)
        assert replace(run.oneshot, score="obs") == search.oneshot
    assert (scratch.oneshot.score, scratch.learned.phases) == ("random", ("start", "recover"))
    assert {sum(row.steps.values()) for row in rows} == {2}
    assert all({"start", "recover", "prune"} <= row.seconds.keys() for row in rows)


def test_the_residual_width_goes_where_the_method_judges_it(settings: MakeSettings, tmp_path: Path) -> None:
    wanted = settings("magnitude", "obs", "depth", "search", scope=Scope(width=True))
    runs = {method: wanted.run(method, "60%") for method in METHODS}
    assert {method for method, run in runs.items() if not run.scope.width} == {
        name for name, score in SCORES.items() if not score.judges_width
    }
    compare(wanted, tmp_path / "out")
    narrow = {
        method
        for method in wanted.methods
        if "width" in PruningPlan.load(tmp_path / "out" / f"{method}_params60_macs60/plan.json").kept
    }
    assert "magnitude" in narrow
    assert not narrow & {"obs", "depth"}


def test_there_are_as_many_strides_as_asked_for_where_there_can_be_several(settings: MakeSettings) -> None:
    # Phases are not looked at.
    wanted = settings("all", learned=Learned(strides=2, phases=("start", "reconstruct")))
    several = {method for method in METHODS if wanted.run(method, "60%").learned.strides == 2}
    assert several == {"search", *SCORES}
    assert {wanted.run(method, "params=60%,latency=60%").learned.strides for method in METHODS} == {1}
    wide = replace(wanted, scope=Scope(width=True))
    assert {wide.run(method, "60%").learned.strides for method in ("magnitude", "obs")} == {1, 2}


def test_scratch_keeps_the_same_fraction_of_every_layer(everything: tuple[Path, Comparison]) -> None:
    out, _ = everything
    units = json.loads((out / "scratch_params60_macs60" / "report.json").read_text())["units"]
    kept = {tuple(count) for name, count in units.items() if name.endswith("feed_forward1.units")}
    counts = sorted(count for count, _ in kept)
    assert counts[-1] - counts[0] <= 2  # Of 20, what still fitted being given back.
    assert all(units[name] == [1, 1] for name in units if name.count(".") == 1 and name.startswith("layers."))


def test_another_library_prunes_by_itself_and_what_is_left_is_recovered(
    settings: MakeSettings, tmp_path: Path
) -> None:
    (row,) = compare(settings("torch-pruning", keep=("params=85%",)), tmp_path).rows
    assert row.error is None
    assert 0.8 < row.kept["params"] <= 0.85
    assert (sum(row.steps.values()), "start" in row.seconds) == (2, True)
    assert PruneSettings.from_yaml(tmp_path / row.name / "run.yaml").learned.phases == ("recover",)
    model = secateur.load(tmp_path / row.name).model
    plan = json.loads((tmp_path / row.name / "plan.json").read_text())["kept"]
    assert all(name.endswith("units") for name in plan)
    for number, layer in enumerate(model.encoder.layers):
        units = len(layer.feed_forward1.linear1.weight)
        assert plan[f"layers.{number}.feed_forward1.units"].endswith("of 20")
        assert units < 20
    assert not (tmp_path / "scores").exists()


def test_the_unpruned_model_and_the_speech_are_the_same_for_all(
    settings: MakeSettings, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated, given, prune = [], [], room.prune

    def evaluate(recognizer: Recognizer, *arguments: Any, **others: Any) -> Any:
        evaluated.append(counting.parameters(recognizer.model))
        return secateur.evaluate(recognizer, *arguments, **others)

    def noted(*arguments: Any, **others: Any) -> Any:
        given.append((id(others["given"].pool), id(others["given"].before)))
        return prune(*arguments, **others)

    monkeypatch.setattr(room, "evaluate", evaluate)
    monkeypatch.setattr(room, "prune", noted)
    comparison = compare(settings("magnitude", "random", test=speech), tmp_path)
    assert len(set(given)) == 1
    before = comparison.unpruned["valid"]
    assert evaluated.count(before["params"]) == 2
    assert comparison.unpruned["test"]["wer"] == before["wer"]
    report = json.loads((tmp_path / "random_params60_macs60" / "report.json").read_text())
    assert report["before"]["wer"] == before["wer"]


@pytest.fixture
def scorings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Scores that were computed, one after the other."""
    made, judge = list[str](), scores.judge

    def noted(*arguments: Any, **others: Any) -> Any:
        made.append(next(each.score for each in arguments if isinstance(each, OneShot)))
        return judge(*arguments, **others)

    monkeypatch.setattr(scores, "judge", noted)
    monkeypatch.setattr(method, "decide", lambda *_, **__: pytest.fail("a run scored by itself"))
    return made


def test_a_score_is_computed_once_for_all_budgets_and_methods_that_ask_for_it(
    settings: MakeSettings, tmp_path: Path, scorings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = settings("search", "random", "scratch", keep=("60%", "75%"))
    with monkeypatch.context() as patched:
        patched.setattr(LearnedMethod, "_reconstruct", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            compare(asked, tmp_path)
    assert scorings == ["obs"]
    rows = compare(asked, tmp_path).rows
    assert len(rows) == 6
    assert not any(row.error for row in rows)
    assert scorings == ["obs", "random"]
    shared = {row.method: row.seconds["start"] for row in rows if "75%" in row.budget}
    scored = read_state(tmp_path / "scores" / "obs.pt")["seconds"]
    assert shared["search"] >= round(scored, 2)
    compare(settings("obs", keep=("75%",)), tmp_path)
    assert scorings == ["obs", "random"]


@pytest.mark.parametrize("method", ["search", "obs", "scratch"])
def test_a_run_of_a_comparison_comes_to_what_it_comes_to_by_itself(
    everything: tuple[Path, Comparison], settings: MakeSettings, tmp_path: Path, method: str
) -> None:
    run = settings("all").run(method, "params=60%,macs=60%")
    secateur.prune(run, tmp_path / "alone")
    compared = everything[0] / f"{method}_params60_macs60"
    for name in ("plan.json", "model.safetensors"):
        assert (tmp_path / "alone" / name).read_bytes() == (compared / name).read_bytes()


def test_scores_that_are_damaged_or_of_other_settings_are_made_anew(
    settings: MakeSettings, tmp_path: Path, scorings: list[str]
) -> None:
    compare(settings("magnitude"), tmp_path)
    file = tmp_path / "scores" / "magnitude.pt"
    file.write_bytes(file.read_bytes()[:-100])
    compare(settings("magnitude", keep=("75%",)), tmp_path)
    for name in ("60", "75"):
        shutil.rmtree(tmp_path / f"magnitude_params{name}_macs{name}")
    compare(settings("magnitude", scope=Scope(min_heads=1)), tmp_path)
    assert scorings == ["magnitude"] * 3


def test_a_comparison_that_was_stopped_does_only_what_is_left(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, prune = settings("magnitude", "wanda"), room.prune
    begun: list[str] = []

    def stopped(settings: PruneSettings, *arguments: Any, **others: Any) -> Any:
        begun.append(settings.oneshot.score)
        if begun == ["magnitude", "wanda"]:
            raise KeyboardInterrupt
        return prune(settings, *arguments, **others)

    monkeypatch.setattr(room, "prune", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare(asked, tmp_path)
    first = json.loads((tmp_path / RECORD).read_text())["rows"]
    assert [row["method"] for row in first] == ["magnitude"]
    comparison = compare(asked, tmp_path)
    assert begun == ["magnitude", "wanda", "wanda"]
    assert comparison.to_json()["rows"][0] == first[0]


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_a_run_that_was_stopped_goes_on_where_it_was(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, told = settings("magnitude"), list[str]()
    with monkeypatch.context() as patched:
        patched.setattr(LearnedMethod, "_recover", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            compare(asked, tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    assert record["rows"] == []
    unfinished = tmp_path / "magnitude_params60_macs60.unfinished"
    with pytest.raises(
        SecateurError, match="unfinished run with other settings .*scope.multiple_of was 1, is 2"
    ):
        compare(replace(asked, scope=Scope(multiple_of=2)), tmp_path)
    comparison = compare(asked, tmp_path, tell=told.append)
    (row,) = comparison.rows
    assert comparison.unpruned == record["unpruned"]
    assert told[-1] == f"going on with the run in {unfinished}"
    assert row.error is None
    assert not unfinished.exists()


def test_a_finished_run_without_a_row_is_measured_and_not_done_again(
    everything: tuple[Path, Comparison],
    settings: MakeSettings,
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, comparison = everything
    wanda = comparison.rows[METHODS.index("wanda")]
    shutil.copytree(out / wanda.name, tmp_path / wanda.name)
    monkeypatch.setattr(room, "prune", lambda *_, **__: pytest.fail("it was pruned"))
    (row,) = compare(settings("wanda", test=speech), tmp_path).rows
    assert (row.kept, row.valid, row.steps) == (wanda.kept, wanda.valid, wanda.steps)
    assert row.seconds == wanda.seconds
    assert row.test is not None
    assert row.valid is not None
    assert row.test["wer"] == row.valid["wer"]
    assert len((tmp_path / row.name / "test.jsonl").read_text().splitlines()) == 2


def test_a_run_whose_report_is_damaged_is_one_sentence(
    everything: tuple[Path, Comparison], settings: MakeSettings, tmp_path: Path
) -> None:
    name = "wanda_params60_macs60"
    shutil.copytree(everything[0] / name, tmp_path / name)
    (tmp_path / name / "report.json").write_text("{", encoding="utf-8")
    with pytest.raises(
        SecateurError, match=r"report\.json cannot be read: .*; delete the folder, and the run"
    ):
        compare(settings("wanda"), tmp_path)


def test_a_place_for_scores_that_is_none_is_one_sentence(settings: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "scores").touch()
    # Which is no fault of the method, and so no row.
    with pytest.raises(SecateurError, match="scores cannot be made: "):
        compare(settings("magnitude"), tmp_path)


def test_what_came_to_nothing_stays_in_the_record_and_is_tried_again_when_asked_for(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impossible = {"keep": ("params=25%",)}
    (failed,) = compare(settings("layerdrop", **impossible), tmp_path).rows
    assert failed.error is not None
    tries = []

    def fail(method: str, budget: str, *_: object) -> Row:
        tries.append(method)
        return Row(method, budget, error="again")

    monkeypatch.setattr(room, "_row", fail)
    rows = compare(settings("magnitude", **impossible), tmp_path).rows
    assert {row.method: row.error for row in rows} == {"layerdrop": failed.error, "magnitude": "again"}
    assert tries == ["magnitude"]
    compare(settings("layerdrop", **impossible), tmp_path)
    assert tries == ["magnitude", "layerdrop"]


def test_with_other_speech_to_measure_on_what_is_there_is_measured_anew(
    settings: MakeSettings, speech: Path, tmp_path: Path
) -> None:
    compare(settings("magnitude"), tmp_path)
    rows = compare(settings("random", test=speech), tmp_path).rows
    assert [row.method for row in rows] == ["magnitude", "random"]
    assert all(row.test is not None for row in rows)


def test_runs_are_not_forgotten_while_they_are_measured_anew(
    settings: MakeSettings, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(settings("magnitude"), tmp_path)

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(room, "_row", stopped)
        with pytest.raises(KeyboardInterrupt):
            compare(settings("random", test=speech), tmp_path)
    rows = compare(settings("random", test=speech), tmp_path).rows
    assert [row.method for row in rows] == ["magnitude", "random"]


def test_a_model_that_has_changed_since_is_refused(
    settings: MakeSettings, save_model: Callable[..., Path], tmp_path: Path
) -> None:
    asked = replace(settings("magnitude"), model=save_model(layers=3))
    compare(asked, tmp_path)
    shutil.rmtree(asked.model)
    save_model(layers=3, seed=1).rename(asked.model)
    with pytest.raises(SecateurError, match="has changed since the runs in .* were made: give another"):
        compare(asked, tmp_path)


def test_methods_and_budgets_can_be_added(settings: MakeSettings, tmp_path: Path) -> None:
    compare(settings("magnitude"), tmp_path)
    rows = compare(settings("random", keep=("80%",)), tmp_path).rows
    assert [(row.method, row.budget[7:10]) for row in rows] == [
        ("random", "80%"),
        ("magnitude", "60%"),
    ]


def test_a_method_that_cannot_meet_the_budget_gets_a_row_that_says_why(
    settings: MakeSettings, tmp_path: Path
) -> None:
    heard: list[str] = []
    asked = settings("layerdrop", "magnitude", keep=("params=25%",))
    failed, worked = sorted(compare(asked, tmp_path, tell=heard.append).rows, key=lambda row: row.method)
    assert failed.error is not None
    assert "the budget params=25% cannot be met: the smallest possible here is params=" in failed.error
    assert failed.valid is None
    assert worked.error is None
    assert heard == ["1 of 2: magnitude, params=25%", "2 of 2: layerdrop, params=25%"]
    assert json.loads((tmp_path / RECORD).read_text())["rows"][1]["error"] == failed.error


def test_runs_with_other_settings_are_refused_with_what_differs(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(settings("magnitude"), tmp_path)
    monkeypatch.setattr(room, "prune", lambda *_, **__: pytest.fail("it was pruned"))
    with pytest.raises(
        SecateurError,
        match=r"magnitude_params60_macs60 holds a run with other settings \(scope.min_heads was 0, is 1\): give the same",
    ) as caught:
        compare(settings("random", scope=Scope(min_heads=1)), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keep": ()}, "there is no budget to compare at; give one such as 50%"),
        ({"keep": ("50",)}, "'50' in it, which limits none of"),
        ({"keep": ("50%,,30%",)}, "'' in it, which limits none of"),
        ({"keep": ("params=50%,30%",)}, "has '30%' in it"),
        ({"rounds": 0}, "rounds is 0; give a finite number above 0"),
        ({"methods": ()}, "there is no method to compare; choose all, or among search, "),
        ({"methods": ("luck",)}, "there is no method 'luck'; choose all, or among search, "),
        ({"data": "nowhere"}, "nowhere does not exist"),
        ({"valid": "nowhere"}, "nowhere does not exist"),
        ({"test": "nowhere"}, "nowhere does not exist"),
        ({"model": "nowhere.nemo"}, "nowhere.nemo does not exist"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_wrong_request_is_one_sentence_and_leaves_nothing(
    settings: MakeSettings, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    def asked(keep: tuple[str, ...] = ("60%",), methods: tuple[str, ...] = ("magnitude",)) -> CompareSettings:
        others = {name: value for name, value in change.items() if name not in ("keep", "methods")}
        return replace(settings(*methods, keep=keep), **others)

    chosen = {name: value for name, value in change.items() if name in ("keep", "methods")}
    with pytest.raises(SecateurError, match=re.escape(said)) as caught:
        compare(asked(**chosen), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_speech_without_transcripts_is_refused_before_the_work(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    monkeypatch.setattr(room, "prune", lambda *_, **__: pytest.fail("it was pruned"))
    for kind in ("valid", "test"):
        with pytest.raises(SecateurError, match="has no transcript"):
            compare(replace(settings("magnitude"), **{kind: tmp_path}), tmp_path / "out")


@pytest.mark.parametrize(
    ("texts", "budgets"),
    [
        (["70%,50%"], ("params=70%,macs=70%", "params=50%,macs=50%")),
        (["0.5", "50%"], ("params=50%,macs=50%",)),
        ("70%,50%", ("params=70%,macs=70%", "params=50%,macs=50%")),
        (["params=50%,latency=60%", "30%"], ("params=50%,latency=60%", "params=30%,macs=30%")),
    ],
)
def test_a_fraction_stands_for_parameters_and_macs(texts: str | list[str], budgets: tuple[str, ...]) -> None:
    assert read_budgets(texts) == budgets
    assert read_budgets(budgets) == budgets


def test_the_pace_is_measured_once_for_all_runs_by_the_clock(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[float] = []

    def slower(*_: object) -> float:
        measured.append(1e-3 * 100 ** len(measured))
        return measured[-1]

    monkeypatch.setattr(room, "pace", slower)
    monkeypatch.setattr(pace, "FEWEST_MINUTES", 0.1)
    learned = Learned(minutes=0.01, batch_seconds=1.0, precision="float32", valid_utterances=0)
    oneshot = OneShot(score_minutes=0.3, reconstruct_minutes=0.2, reconstruct_steps=2)
    asked = settings("wanda", "magnitude", learned=learned, oneshot=oneshot)
    with monkeypatch.context() as patched:
        patched.setattr(LearnedMethod, "_reconstruct", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            compare(asked, tmp_path / "out")
    compare(asked, tmp_path / "out")
    assert measured == [1e-3]
    assert json.loads((tmp_path / "out" / RECORD).read_text())["pace"] == 1e-3
    heard = [
        json.loads(report.read_text(encoding="utf-8"))["minutes_heard"]
        for report in sorted((tmp_path / "out").glob("*/report.json"))
    ]
    # Magnitudes are those of weights, which need no speech.
    assert heard == [{"start": minutes, "reconstruct": 0.1} for minutes in (0.0, 0.1)]
