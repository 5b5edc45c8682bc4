from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, reject
from hypothesis import strategies as st

from secateur.errors import SecateurError
from secateur.pruning.distillation import Distillation
from secateur.pruning.learning.learned import PHASES, Learned
from secateur.pruning.oneshot import OneShot
from secateur.pruning.planning.scope import Scope
from secateur.pruning.scoring.scores import SCORES
from secateur.pruning.settings import METHODS, PruneSettings
from secateur.speech.augmentation import AUGMENTATIONS

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
NUMBERS = st.floats(0, allow_infinity=False) | st.integers(0, 10**6)
ABOVE_NOTHING = st.floats(0, exclude_min=True, allow_infinity=False) | st.integers(1, 10**6)
COUNTS = st.integers(0, 10**9)


def sound(**values: Any) -> PruneSettings:
    """Settings of which no two contradict each other; others are drawn anew."""
    try:
        return PruneSettings(**values)
    except SecateurError:
        reject()


SETTINGS = st.builds(
    sound,
    model=TEXTS,
    data=TEXTS,
    keep=TEXTS,
    valid=st.none() | TEXTS,
    valid_limit=st.none() | st.integers(1, 10**9),
    method=st.sampled_from(METHODS),
    oneshot=st.builds(
        OneShot,
        score=st.sampled_from(sorted(SCORES)),
        score_minutes=ABOVE_NOTHING,
        seed=st.integers(0, 2**32 - 1),
    )
    | st.just(OneShot("magnitude", uniform=True)),
    learned=st.builds(
        Learned,
        minutes=NUMBERS,
        steps=st.none() | COUNTS,
        phases=st.lists(st.sampled_from(PHASES)).map(tuple),
        rate=ABOVE_NOTHING,
        augment=st.sampled_from(AUGMENTATIONS),
        distillation=st.builds(Distillation, output=NUMBERS, task=NUMBERS),
        precision=st.sampled_from(["auto", "bfloat16", "float32"]),
    ),
    audio_seconds=ABOVE_NOTHING,
    scope=st.builds(Scope, width=st.booleans(), whole=st.lists(TEXTS).map(tuple)),
)


@given(settings=SETTINGS)
def test_settings_come_back_from_the_file_as_they_were(
    settings: PruneSettings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("run") / "run.yaml"
    settings.to_yaml(path, {"secateur": "0.1"})
    assert PruneSettings.from_yaml(path) == settings


def test_settings_that_only_make_sense_together_change_together() -> None:
    settings = PruneSettings("m", "speech", "params=50%", oneshot=OneShot("random"))
    changed = settings.changed({"oneshot.trials": 5, "oneshot.score": "obs", "keep": "params=40%"})
    assert (changed.oneshot, changed.keep) == (OneShot("obs", trials=5), "params=40%")
    with pytest.raises(SecateurError, match="there can be no 5 trials"):
        settings.changed({"oneshot.trials": 5})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learned.distillation.hidden": math.nan}, "hidden is nan; give 0 or more"),
        ({"learned.distillation.output": -1.0}, "output is -1.0; give 0 or more"),
        ({"oneshot.score": "depth", "oneshot.trials": 3}, "there can be no 3 trials"),
        ({"scope.width": True}, "the residual width would stay, because the score obs does not judge it"),
        ({"learned.phases": ("start", "search"), "oneshot.uniform": True}, "a search decides for itself"),
    ],
)
def test_settings_that_would_not_do_what_they_say_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(SecateurError, match=said):
        PruneSettings("m", "speech", "params=50%").changed(changes)


def test_paths_come_back_as_text(tmp_path: Path) -> None:
    PruneSettings(Path("model.nemo"), Path("speech"), "params=50%").to_yaml(tmp_path / "run.yaml", {})
    assert PruneSettings.from_yaml(tmp_path / "run.yaml") == PruneSettings(
        "model.nemo", "speech", "params=50%"
    )


def written(path: Path, **others: object) -> Path:
    section = {"model": "model.nemo", "data": "speech", "keep": "params=50%"} | others
    path.write_text(yaml.safe_dump({"secateur": section}))
    return path


def test_what_a_file_does_not_say_has_its_default(tmp_path: Path) -> None:
    settings = PruneSettings.from_yaml(written(tmp_path / "run.yaml", learned={"steps": 10}))
    assert settings == PruneSettings("model.nemo", "speech", "params=50%", learned=Learned(steps=10))


def test_a_rate_may_be_written_without_a_dot(tmp_path: Path) -> None:
    path = written(tmp_path / "run.yaml")
    path.write_text(path.read_text() + "  learned: {rate: 3e-5}\n")
    assert PruneSettings.from_yaml(path).learned.rate == 3e-5


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"speed": 3}, "speed is 3, but there is no such setting; there are model, data, keep,"),
        (
            {"learned": {"stepps": 3}},
            "learned.stepps is 3, but there is no such setting; there are minutes, steps,",
        ),
        ({"keep": 50}, "keep is 50, which is not text"),
        ({"valid_limit": "all"}, "valid_limit is 'all', which is not a whole number or null"),
        ({"scope": {"multiple_of": 8.5}}, "scope.multiple_of is 8.5, which is not a whole number"),
        ({"scope": {"multiple_of": True}}, "scope.multiple_of is True, which is not a whole number"),
        ({"scope": {"width": 1}}, "scope.width is 1, which is not true or false"),
        ({"oneshot": {"score_minutes": "long"}}, "oneshot.score_minutes is 'long', which is not a number"),
        ({"learned": {"phases": "search"}}, "learned.phases is 'search', which is not a list"),
        ({"learned": {"phases": [1]}}, r"learned.phases\[0\] is 1, which is not text"),
        ({"learned": {"phases": ["find"]}}, "there is no phase 'find'; choose among start,"),
        ({"learned": {"distillation": 2}}, "learned.distillation is 2, which is not a section of settings"),
        ({"learned": None}, "learned is None, which is not a section of settings"),
        ({"method": "scissors"}, "there is no method 'scissors'; choose one of"),
        ({"learned": {"rate": float("nan")}}, "rate is nan; give a finite number above 0"),
        ({"learned": {"validations": -1}}, "validations is -1; give 0 or more"),
        ({"learned": {"search_share": 2.0}}, "search_share is 2.0; give 0 to 1"),
        (
            {"oneshot": {"reconstruct_minutes": -1.0}},
            "20 minutes to score on and -1 to refit on make no sense",
        ),
        ({"audio_seconds": 0.0}, "audio_seconds is 0.0; give a finite number above 0"),
        ({"valid_limit": 0}, "valid_limit is 0; give 1 or more"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_be_is_named_with_its_value(
    tmp_path: Path, others: dict[str, object], said: str
) -> None:
    with pytest.raises(SecateurError, match=f"run.yaml: {said}") as caught:
        PruneSettings.from_yaml(written(tmp_path / "run.yaml", **others))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "has no section 'secateur'; give the run.yaml of a result"),
        (b"- a list", "has no section 'secateur'"),
        (b"secateur: [a, list]", "secateur is .'a', 'list'., which is not a section"),
        (b"secateur: {model: m, data: d}", "keep is missing; add it under secateur"),
        (b"secateur: {model: m", "is no YAML: "),
        (b"\xff\xfe\xfd", "cannot be read: .*; give the run.yaml of a result"),
    ],
)
def test_a_file_that_is_no_run_is_refused(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(text)
    with pytest.raises(SecateurError, match=f"run.yaml:? {said}") as caught:
        PruneSettings.from_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        with pytest.raises(SecateurError, match="cannot be read: "):
            PruneSettings.from_yaml(path)


def test_values_change_by_their_names() -> None:
    before = PruneSettings("model.nemo", "speech", "params=50%", learned=Learned(rate=1e-3))
    after = before.changed({"keep": "params=30%", "learned.steps": 7, "learned.distillation.task": 0.5})
    assert after == PruneSettings(
        "model.nemo",
        "speech",
        "params=30%",
        learned=Learned(rate=1e-3, steps=7, distillation=Distillation(task=0.5)),
    )


def test_a_teacher_that_would_teach_nobody_is_refused() -> None:
    with pytest.raises(SecateurError, match="a teacher is of no use to the method oneshot"):
        PruneSettings("model", "speech", "50%", teacher="other", method="oneshot")


def test_numbers_of_units_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SecateurError, match="multiple_of is 0; give a finite number above 0"):
        Scope(multiple_of=0)
    with pytest.raises(SecateurError, match="min_heads is -1; give 0 or more"):
        Scope(min_heads=-1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kep": "50%"}, r"^kep is '50%', but there is no such setting; there are model, data, keep, "),
        ({"lerned.rate": 1e-4}, r"^lerned is .*, but there is no such setting; there are model, "),
        (
            {"learned.rat": 1e-4},
            r"^learned\.rat is 0\.0001, but there is no such setting; there are minutes, ",
        ),
        ({"keep.params": "50%"}, r"^keep is '50%', which is not a section of settings$"),
    ],
)
def test_settings_that_there_are_not_cannot_be_changed(values: dict[str, object], message: str) -> None:
    settings = PruneSettings("m.nemo", data="d", keep="50%")
    with pytest.raises(SecateurError, match=message):
        settings.changed(values)
