"""The learned method on small random models and seconds of noise: its phases, its budgets, and runs that are killed."""

from __future__ import annotations

import copy
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import secateur
from secateur.errors import SecateurError
from secateur.progress import ProgressBar
from secateur.pruning.distillation import Distillation
from secateur.pruning.learning import method as room
from secateur.pruning.learning import schedule
from secateur.pruning.learning.learned import PHASES, Learned, usual_rate
from secateur.pruning.learning.method import LearnedMethod
from secateur.pruning.learning.mixing import PARTS
from secateur.pruning.learning.schedule import Schedule
from secateur.pruning.oneshot import OneShot
from secateur.pruning.planning.budget import Budget
from secateur.pruning.prune import prune
from secateur.pruning.settings import PruneSettings
from secateur.recognizer import Recognizer
from secateur.speech.corpus import open_corpus
from secateur.speech.pool import SpeechPool
from secateur.speech.skips import SkipLog
from secateur.structure import counting
from secateur.structure.cost import parameter_cost
from secateur.structure.groups import find_groups
from secateur.structure.masking import masked
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model
from secateur.timing import threads
from secateur.training.precision import working_type
from secateur.training.workspace import LOCK, Workspace

MakeRecognizer = Callable[..., Recognizer]
MakeSettings = Callable[..., PruneSettings]
RATE = 16000


@pytest.fixture(scope="module")
def model(save_model: Callable[..., Path]) -> Path:
    return save_model(width=32, units=96, channels=12)


@pytest.fixture(scope="module")
def speech(record_noise: Callable[..., Path]) -> Path:
    return record_noise(*(0.5 + number / 10 for number in range(6)))


@pytest.fixture
def settings(model: Path, speech: Path) -> MakeSettings:
    def settings(
        keep: str = "params=60%,macs=60%", score: str = "magnitude", seed: int = 0, **learned: Any
    ) -> PruneSettings:
        quick: dict[str, Any] = {
            "steps": 8,
            "phases": PHASES,
            "strides": 1,
            "search_share": 0.5,
            "batch_seconds": 2.0,
            "precision": "float32",
            "validations": 2,
            "valid_utterances": 2,
        }
        oneshot = OneShot(
            score=score, score_minutes=0.03, reconstruct_minutes=0.05, reconstruct_steps=2, seed=seed
        )
        return PruneSettings(model, speech, keep, oneshot=oneshot, learned=Learned(**quick | learned))

    return settings


def written(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("plan.json", "model.safetensors")]


@pytest.mark.parametrize(
    "phases",
    [(), ("search",), *(tuple(phase for phase in PHASES if phase != each) for each in PHASES)],
    ids=lambda phases: "-".join(phases) or "none",
)
def test_each_phase_can_be_left_out_and_all_budgets_are_met_by_what_is_left(
    settings: MakeSettings, model: Path, phases: tuple[str, ...]
) -> None:
    pruned = prune(settings(phases=phases))
    dense, smaller = secateur.load(model).model, pruned.recognizer.model
    shares = [
        counting.parameters(smaller) / counting.parameters(dense),
        counting.macs(smaller, 10.0) / counting.macs(dense, 10.0),
    ]
    assert 0.995 * 0.6 < max(shares) <= 0.6
    assert list(pruned.report["history"]) == [phase for phase in ("search", "recover") if phase in phases]
    assert all(torch.isfinite(tensor).all() for tensor in smaller.state_dict().values())
    groups = find_groups(dense)
    assert counting.parameters(smaller) == parameter_cost(groups)(pruned.plan.counts())


@pytest.mark.parametrize("family", ["parakeet", "wav2vec2"])
def test_other_families_are_pruned_the_same_way(
    make_recognizer: MakeRecognizer, settings: MakeSettings, speech: Path, family: str
) -> None:
    recognizer = make_recognizer(family, width=32, units=64)
    recognizer.model.float()
    before = {name: tensor.clone() for name, tensor in recognizer.model.state_dict().items()}
    wanted = replace(settings("params=70%", "fisher", steps=4), model=family, valid=speech)
    pruned = prune(wanted, recognizer=recognizer)
    assert 0.99 * 0.7 < pruned.report["kept"]["params"] <= 0.7
    assert [row["step"] for row in pruned.report["history"]["recover"] if "WER" in row] == [0, 1, 2]
    now = recognizer.model.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())
    assert not any(module._forward_hooks for module in recognizer.model.modules())


def test_masked_equals_sliced_for_the_plan_that_was_learned(settings: MakeSettings, model: Path) -> None:
    plan = prune(settings("params=40%", steps=12, gate_rate=0.5)).plan
    dense = secateur.load(model, dtype=torch.float64)
    inputs = dense.prepare([np.random.default_rng(1).normal(scale=0.1, size=RATE).astype(np.float32)])
    with torch.no_grad(), masked(dense.model, find_groups(dense.model), plan.masks(torch.float64)):
        expected = dense.model(**inputs).logits
    with torch.no_grad():
        logits = slice_model(dense.model, plan)(**inputs).logits
    assert (logits - expected).abs().max() <= 1e-9


def test_the_same_seed_gives_the_same_plan_and_weights(settings: MakeSettings, tmp_path: Path) -> None:
    for name in ("one", "again"):
        torch.manual_seed(len(name))
        prune(settings(score="obs", seed=1), tmp_path / name)
    assert written(tmp_path / "one") == written(tmp_path / "again")


SEEDED = """
import sys
from secateur.pruning.prune import prune
from secateur.pruning.settings import PruneSettings
prune(PruneSettings.from_yaml(sys.argv[1]), sys.argv[2])
"""


def test_the_same_seed_gives_the_same_in_another_process_whatever_its_hashes(
    settings: MakeSettings, tmp_path: Path
) -> None:
    settings(score="obs", seed=1).to_yaml(tmp_path / "run.yaml", {})
    for hashes in ("1", "2"):
        command = [sys.executable, "-c", SEEDED, str(tmp_path / "run.yaml"), str(tmp_path / hashes)]
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": hashes}, check=True)
    assert written(tmp_path / "1") == written(tmp_path / "2")


def test_a_teacher_that_hears_ahead_teaches_the_same(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = settings(augment="masks")
    with threads(3):
        ahead = prune(asked).report["history"]
        monkeypatch.setattr(room, "TEACHING", 0.0)
        in_turns = prune(asked).report["history"]
    for phase, rows in in_turns.items():
        for one, other in zip(rows, ahead[phase], strict=True):
            told = {name for name in one if name not in ("seconds", "waited")}
            assert {name: other[name] for name in told} == pytest.approx(
                {name: one[name] for name in told}, rel=1e-3
            )


def units_apart(one: PruningPlan, other: PruningPlan) -> int:
    """Units that one of two plans keeps and the other does not."""
    kept = [
        {name: set(plan.kept.get(name, range(size))) for name, size in plan.sizes.items()}
        for plan in (one, other)
    ]
    return sum(len(kept[0][name] ^ kept[1][name]) for name in kept[0])


def test_gates_learn_another_plan_than_scores_decided(settings: MakeSettings) -> None:
    decided = prune(settings("params=50%", phases=("start",))).plan
    still, moved = (
        prune(settings("params=50%", phases=("start", "search"), steps=30, gate_rate=rate)).plan
        for rate in (1e-9, 0.5)
    )
    assert units_apart(moved, decided) > 3 * max(1, units_apart(still, decided))


def test_layers_that_scores_took_away_can_stay_away_in_the_search(
    settings: MakeSettings, save_model: Callable[..., Path]
) -> None:
    deep = save_model(layers=4)

    def gone(*phases: str) -> set[str]:
        kept = prune(replace(settings("params=70%", "layerdrop", phases=phases), model=deep)).plan.kept
        return {name for name in kept if re.fullmatch(r"layers\.\d+", name) and not kept[name]}

    # Of the second one a part may come back, where all of it is more than the budget asks for.
    assert len(gone("start")) == 2
    assert gone("start", "search") & gone("start")


def test_recovery_brings_the_pruned_model_nearer_to_the_unpruned_one(settings: MakeSettings) -> None:
    phases = ("start", "recover")
    history = prune(settings("params=50%", phases=phases, steps=60, rate=3e-3, augment="none")).report[
        "history"
    ]
    losses = [row["output"] + row["hidden"] for row in history["recover"]]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_what_an_earlier_pruning_left_is_pruned_on_with_the_first_model_as_teacher(
    settings: MakeSettings, model: Path, tmp_path: Path
) -> None:
    recover = {"phases": ("start", "recover"), "augment": "none"}
    first = prune(settings("params=80%", steps=2, **recover), tmp_path / "first")
    asked = replace(settings("params=75%", steps=60, rate=3e-3, **recover), model=tmp_path / "first")
    second = prune(replace(asked, teacher=model), tmp_path / "second")
    assert second.report["after"]["params"] <= 0.6 * first.report["before"]["params"]
    assert second.report["before"]["params"] == first.report["after"]["params"]
    # It comes nearer to the first model than without it, when it has the second one to learn from.
    without = prune(asked)
    dense = secateur.load(model)
    wave = np.random.default_rng(5).standard_normal(RATE).astype(np.float32)
    wanted = dense.logits([wave])[0].log_softmax(-1)
    away = [
        float((wanted - each.recognizer.logits([wave])[0].log_softmax(-1)).square().mean())
        for each in (second, without)
    ]
    assert away[0] < away[1]


def test_expected_costs_fall_to_their_limits_during_the_search(settings: MakeSettings) -> None:
    chosen = settings(phases=("search",), steps=60, gate_rate=0.5, augment="none")
    rows = prune(chosen).report["history"]["search"]
    begins, ends = rows[0], rows[-1]
    for name in ("params", "macs"):
        assert begins[name] > 0.95
        assert ends[name] < 0.63


CHILD = """
import os, signal

import torch

torch.set_num_threads(1)

from secateur.pruning.learning import method
from secateur.pruning import prune
from secateur.training import checkpoint, trainer

trainer.CHECKPOINT_SECONDS, trainer.CHECKPOINT_SHARE = -1.0, float("inf")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def write_half(state, file):
    file.write(b"PK")
    file.flush()
    die()


def deadly(function, call, end):
    def counted(*args, **kwargs):
        nonlocal call
        call -= 1
        return end(*args, **kwargs) if call == 0 else function(*args, **kwargs)

    return counted


if death is not None:
    path, call = death
    holder, _, name = path.rpartition(".")
    end = write_half if name == "save" else lambda *_, **__: die()
    setattr(eval(holder), name, deadly(getattr(eval(holder), name), call, end))
prune.prune(settings, out)
"""


@pytest.fixture(scope="module")
def children() -> ForkServerContext:
    """Processes that begin with all that is slow to import."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork processes")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["secateur.pruning.prune"])
    return context


START, SEARCHING = (
    ["figures.json", "settings.json", "start.pt"],
    ["approach.pt", "search.so-far.pt", "figures.json", "settings.json", "start.pt"],
)
SEARCHED = ["approach.pt", "search.pt", "figures.json", "settings.json", "start.pt"]
REFITTED = ["reconstruct.pt", *SEARCHED]
DEATHS = [
    # In the start; in what is refitted for the search.
    ("method.decide", 1, ["figures.json", "settings.json"]),
    ("method.carry_out", 1, START),
    # In the middle of a step of the search; while a checkpoint is written, half of which is there; after the last step.
    ("method.Search.stepped", 3, SEARCHING),
    ("checkpoint.torch.save", 2, [*SEARCHING, ".search.so-far.pt.partial"]),
    ("method.round_to_plan", 1, SEARCHING),
    # In the reconstruction; in the middle of a step of the recovery, before there is a result.
    ("method.carry_out", 1, SEARCHED),
    ("method.Recovery.stepped", 3, ["recover.so-far.pt", *REFITTED]),
    ("prune.save_pruned", 1, ["recover.pt", *REFITTED]),
]
"""Where a run is killed, at which call, and what it leaves; the next one goes on, and is killed at the next place."""


def test_a_run_that_is_killed_in_every_phase_ends_as_one_that_is_not(
    children: ForkServerContext, settings: MakeSettings, speech: Path, tmp_path: Path
) -> None:
    wanted = replace(settings(score="obs"), valid=speech, valid_limit=2)

    def run(out: Path, death: tuple[str, int] | None) -> int | None:
        child = children.Process(target=exec, args=(CHILD, {"settings": wanted, "out": out, "death": death}))
        child.start()
        child.join()
        return child.exitcode

    for path, call, left in DEATHS:
        assert run(tmp_path / "killed", (path, call)) == -signal.SIGKILL, path
        files = {file.name for file in (tmp_path / "killed.unfinished").iterdir()} - {LOCK}
        assert sorted(re.sub(r"\.\d+\.partial", ".partial", file) for file in files) == sorted(left), path
    assert run(tmp_path / "killed", None) == run(tmp_path / "straight", None) == 0
    assert written(tmp_path / "killed") == written(tmp_path / "straight")
    histories = [
        json.loads((tmp_path / name / "report.json").read_text())["history"]
        for name in ("killed", "straight")
    ]
    assert histories[0] == histories[1]
    assert [[row["step"] for row in rows if "WER" in row] for rows in histories[0].values()] == [
        [],
        [0, 2, 4],
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "straight"]


def test_batches_that_memory_does_not_hold_cost_nothing_that_was_done_before_them(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError

    out, asked = tmp_path / "out", settings(phases=("start", "reconstruct", "recover"))
    with monkeypatch.context() as patch:
        patch.setattr(room.Recovery, "loss", too_large)
        with pytest.raises(torch.OutOfMemoryError):
            prune(asked, out)
    # Scores and refitting are there; they are not made again.
    monkeypatch.setattr(room, "decide", lambda *_, **__: pytest.fail("it was scored again"))
    smaller = asked.changed({"learned.batch_seconds": 1.0})
    with pytest.raises(SecateurError, match="keep was"):
        prune(smaller.changed({"keep": "params=50%"}), out)
    prune(smaller, out)
    assert PruneSettings.from_yaml(out / "run.yaml").learned.batch_seconds == 1.0


def test_a_refitting_that_memory_does_not_hold_costs_no_scores(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    out, asked = tmp_path / "out", settings(phases=("start", "reconstruct", "recover"))
    with monkeypatch.context() as patch:
        patch.setattr(room, "carry_out", too_large)
        with pytest.raises(torch.OutOfMemoryError):
            prune(asked, out)
    monkeypatch.setattr(room, "decide", lambda *_, **__: pytest.fail("it was scored again"))
    prune(asked.changed({"oneshot.reconstruct_minutes": 0.07}), out)
    assert PruneSettings.from_yaml(out / "run.yaml").oneshot.reconstruct_minutes == 0.07


def test_what_was_refitted_stays_refitted_so(settings: MakeSettings, tmp_path: Path) -> None:
    asked = settings()
    Workspace.of(tmp_path / "out", asked.plain())._lock.release()
    (Workspace.place(tmp_path / "out") / "reconstruct.pt").touch()
    with pytest.raises(SecateurError, match="oneshot.reconstruct_minutes was"):
        prune(asked.changed({"oneshot.reconstruct_minutes": 0.07}), tmp_path / "out")


@pytest.mark.parametrize("what", ["the model", "the teacher", "the speech"])
def test_a_run_does_not_go_on_when_what_lies_at_a_path_is_another(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    asked = settings(phases=("start", "recover"))
    own = asked.changed(
        {"model": tmp_path / "model", "teacher": tmp_path / "teacher", "data": tmp_path / "speech"}
    )
    for each in ("model", "teacher"):
        shutil.copytree(asked.model, tmp_path / each)
    shutil.copytree(asked.data, tmp_path / "speech")
    with monkeypatch.context() as patch:
        patch.setattr(room.Recovery, "loss", stopped)
        with pytest.raises(KeyboardInterrupt):
            prune(own, tmp_path / "out")
    if what != "the speech":
        place = own.model if what == "the model" else own.teacher
        recognizer = secateur.load(place)
        torch.nn.init.normal_(recognizer.model.ctc_head.weight)
        recognizer.save_pretrained(place)
    else:
        next((tmp_path / "speech").glob("*.wav")).unlink()
    with pytest.raises(SecateurError, match=f"{what} has changed since it began"):
        prune(own, tmp_path / "out")


def test_batches_may_not_change_once_there_was_training(settings: MakeSettings, tmp_path: Path) -> None:
    place = Workspace.place(tmp_path / "out")
    asked = settings()
    Workspace.of(tmp_path / "out", asked.plain())._lock.release()
    (place / "search.so-far.pt").touch()
    with pytest.raises(SecateurError, match="learned.batch_seconds was 2.0, is 1.0"):
        prune(asked.changed({"learned.batch_seconds": 1.0}), tmp_path / "out")


class StoppedError(Exception):
    pass


class Clock:
    """A clock that stands still unless it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> dict[str, Any]:
        self.now += seconds
        return {}


@pytest.mark.parametrize("stopped_after", [None, "start", "reconstruct", "search"])
def test_phases_share_the_time_that_is_left_whoever_spent_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stopped_after: str | None,
) -> None:
    """The start takes 100 s, refitting 60 s, of 10 minutes; one run may be stopped, and another go on."""
    clock = Clock()
    monkeypatch.setattr(schedule, "perf_counter", clock)
    lengths: dict[str, float | None] = {}

    def run(stop: str | None) -> None:
        times = Schedule(
            Learned(minutes=10.0, phases=PHASES, search_share=0.5), Workspace.of(tmp_path / "out", {})
        )

        def done(stage: str, seconds: float) -> None:
            times.stage(stage, lambda: clock.passes(seconds))
            if stage == stop:
                raise StoppedError

        done("start", 100.0)
        done("reconstruct", 60.0)
        lengths["search"] = times.length("search").seconds
        done("search", 180.0)
        lengths["recover"] = times.length("recover").seconds

    if stopped_after is not None:
        with pytest.raises(StoppedError):
            run(stopped_after)
        clock.passes(5000.0)
    run(None)
    assert lengths == {"search": (600 - 100 - 60) / 2, "recover": 600 - 100 - 60 - 180}


@pytest.mark.parametrize("best", PARTS)
def test_the_result_is_as_far_from_the_refitted_weights_as_it_hears_best(
    make_recognizer: MakeRecognizer, speech: Path, best: float
) -> None:
    recognizer = make_recognizer("conformer")
    groups = find_groups(recognizer.model)
    seen: list[dict[str, torch.Tensor]] = []
    # Before, half way and at the end of recovery, then of each part.
    errors = iter([0.9, 0.8, 0.7, *(0.5 if part == best else 0.6 for part in PARTS)])

    def validate(student: Recognizer) -> float:
        seen.append({name: tensor.clone() for name, tensor in student.model.state_dict().items()})
        return next(errors)

    method = LearnedMethod(
        recognizer,
        groups,
        {"params": parameter_cost(groups)},
        Budget.parse("params=50%"),
        SpeechPool.read(open_corpus(speech), RATE, skips=SkipLog()),
        [],
        OneShot(score="magnitude", reconstruct_minutes=0),
        Learned(
            steps=6,
            phases=("start", "recover"),
            precision="float32",
            batch_seconds=2.0,
            validations=2,
            rate=3e-4,
        ),
        Workspace(None),
        ProgressBar("", quiet=True),
        validate=validate,
    )
    _, student = method.run()
    assert method.parts == {part: 0.5 if part == best else 0.6 for part in PARTS}
    assert len(seen) == 3 + len(PARTS)
    refitted, recovered = seen[0], seen[2]
    assert any(not torch.equal(refitted[name], recovered[name]) for name in refitted)
    for name, tensor in student.model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, torch.lerp(refitted[name], recovered[name], best))


@pytest.mark.parametrize(
    ("phases", "lengths"),
    [(PHASES, (40, 60)), (("start", "search"), (100, None)), (("start", "recover"), (None, 100))],
)
def test_steps_that_are_asked_for_are_shared_too(
    settings: MakeSettings, phases: tuple[str, ...], lengths: tuple[int | None, int | None]
) -> None:
    times = Schedule(settings(phases=phases, steps=100, search_share=0.4).learned, Workspace(None))
    for phase, length in zip(("search", "recover"), lengths, strict=True):
        if length is not None:
            assert times.length(phase).steps == length


def test_precision_is_that_of_the_weights_unless_they_are_single(
    make_recognizer: MakeRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_recognizer("conformer").model
    assert working_type("bfloat16", model) is None
    model.float()
    assert working_type("bfloat16", model) is torch.bfloat16
    assert working_type("float32", model) is None
    for able in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: {"avx512_bf16": able})
        assert working_type("auto", model) is (torch.bfloat16 if able else None)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert working_type("auto", model) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_learns_in_full_and_stays_in_half(
    settings: MakeSettings, model: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    half = secateur.load(model, dtype=dtype)
    before = copy.deepcopy(half.model.state_dict())
    learned = {"phases": ("recover",), "steps": 3, "validations": 0}
    pruned = prune(settings("params=100%", **learned), tmp_path / "out", recognizer=half)
    assert {p.dtype for p in secateur.load(tmp_path / "out").model.parameters()} == {dtype}
    for name, tensor in half.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    single = secateur.load(model, dtype=dtype)
    single.model.float()
    again = prune(settings("params=100%", **learned), recognizer=single)
    # As it would have learned in full precision, and rounded then.
    for name, tensor in again.recognizer.model.state_dict().items():
        assert torch.equal(pruned.recognizer.model.state_dict()[name], tensor.to(dtype)), name


def test_transcripts_count_where_the_task_does(settings: MakeSettings) -> None:
    distillation = Distillation(task=0.1)
    with_them, without = (
        prune(settings(steps=4, distillation=distillation, transcripts=transcripts)).report["history"]
        for transcripts in (True, False)
    )
    assert all(row["task"] > 0 for rows in with_them.values() for row in rows)
    assert with_them != without


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            {"phases": ("start", "finish")},
            "there is no phase 'finish'; choose among start, search, reconstruct",
        ),
        ({"precision": "float8"}, "there is no precision 'float8'"),
        ({"batch_seconds": 0.0}, "batches of 0 s cannot be made; give a finite length above 0"),
        ({"steps": -3}, "a run cannot take less than no time"),
        ({"minutes": -1.0}, "a run cannot take less than no time"),
    ],
)
def test_settings_that_are_not_there_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SecateurError, match=sentence):
        Learned(**wrong)


def test_a_run_in_half_precision_that_was_stopped_by_ctrl_c_ends_as_one_that_was_not(
    settings: MakeSettings, tmp_path: Path
) -> None:
    wanted = settings(precision="bfloat16")

    for phase in ("search", "recover"):

        def press_in(now: str, row: Mapping[str, float], phase: str = phase) -> None:
            if (now, row["step"]) == (phase, 2):
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            prune(wanted, tmp_path / "stopped", log=press_in)
        assert (tmp_path / "stopped.unfinished" / f"{phase}.so-far.pt").exists()
    prune(wanted, tmp_path / "stopped")
    prune(wanted, tmp_path / "straight")
    assert written(tmp_path / "stopped") == written(tmp_path / "straight")
    for tensor in secateur.load(tmp_path / "stopped").model.parameters():
        assert tensor.dtype == torch.float32
        assert torch.isfinite(tensor).all()


def test_the_more_has_to_go_the_higher_the_rate() -> None:
    assert usual_rate(1.0) == usual_rate(0.5) == 3e-4
    assert usual_rate(0.3) == usual_rate(0.01) == pytest.approx(1e-3)
    between = [usual_rate(share) for share in (0.5, 0.45, 0.4, 0.35, 0.3)]
    ratios = [after / before for before, after in itertools.pairwise(between)]
    assert ratios == pytest.approx([ratios[0]] * 4)
    assert ratios[0] > 1
