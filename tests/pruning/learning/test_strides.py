"""Several strides: what each has to come to, that the end is where one would have come to, and runs that are stopped on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import secateur
from known_costs import Fixed
from secateur.errors import SecateurError
from secateur.progress import TARGET
from secateur.pruning.learning import method
from secateur.pruning.learning.learned import PHASES, Learned, usual_rate
from secateur.pruning.learning.strides import MUCH, strides
from secateur.pruning.oneshot import OneShot
from secateur.pruning.planning.budget import Budget
from secateur.pruning.planning.scope import Scope
from secateur.pruning.prune import prune
from secateur.pruning.settings import PruneSettings
from secateur.structure import counting
from secateur.structure.cost import Cost, mac_cost, parameter_cost
from secateur.structure.groups import find_groups
from secateur.structure.slicing import slice_model

MakeSettings = Callable[..., PruneSettings]


@pytest.fixture(scope="module")
def model(save_model: Callable[..., Path]) -> Path:
    return save_model(width=32, units=96, channels=12, layers=4)


@pytest.fixture(scope="module")
def costs(model: Path) -> dict[str, Cost]:
    dense = secateur.load(model).model
    groups = find_groups(dense)
    return {"params": parameter_cost(groups), "macs": mac_cost(groups, dense, 10.0)}


@pytest.fixture
def settings(model: Path, record_noise: Callable[..., Path]) -> MakeSettings:
    speech = record_noise(*(0.5 + number / 10 for number in range(6)))

    def settings(
        keep: str, score: str = "magnitude", scope: Scope | None = None, **learned: Any
    ) -> PruneSettings:
        quick: dict[str, Any] = {"steps": 6, "batch_seconds": 2.0, "precision": "float32"}
        oneshot = OneShot(score=score, score_minutes=0.03, reconstruct_minutes=0.05, reconstruct_steps=2)
        return PruneSettings(
            model, speech, keep, oneshot=oneshot, learned=Learned(**quick | learned), scope=scope or Scope()
        )

    return settings


def test_every_stride_takes_the_same_factor_and_its_share_of_the_time(costs: dict[str, Cost]) -> None:
    budget = Budget.of(params=0.343, macs=0.512)
    way = strides(budget, costs, Learned(strides=3, minutes=40.0), width=False)
    for name, factor in (("params", 0.7), ("macs", 0.8)):
        shares = [each.budget.limits(costs)[name] / costs[name].dense for each in way]
        assert shares == pytest.approx([factor, factor**2, factor**3])
    # The last is as long as two others.
    assert [each.learned.minutes for each in way] == pytest.approx([10, 10, 20])
    assert [each.until for each in way] == pytest.approx([10, 20, 40])
    assert [each.learned.rate for each in way] == pytest.approx([usual_rate(0.7**n) for n in (1, 2, 3)])
    assert [each.before for each in way] == [1, 2, 0]


@pytest.mark.parametrize("steps", [0, 1, 7, 100])
def test_steps_are_shared_out_and_none_is_lost(costs: dict[str, Cost], steps: int) -> None:
    way = strides(Budget.of(params=0.5), costs, Learned(strides=3, steps=steps, rate=0.1), width=False)
    assert sum(each.learned.steps or 0 for each in way) == steps
    assert {each.learned.rate for each in way} == {0.1}


def test_there_are_two_where_much_has_to_go_and_it_is_trained(costs: dict[str, Cost]) -> None:
    def usual(budget: Budget, *, width: bool = False, **learned: Any) -> int:
        return len(strides(budget, costs, Learned(**learned), width=width))

    assert usual(Budget.of(params=MUCH + 0.01, macs=0.9)) == 1
    assert usual(Budget.of(params=0.9, macs=MUCH)) == 2
    assert usual(Budget.of(macs=0.3), strides=1) == 1
    assert usual(Budget.of(macs=0.3), phases=("start", "reconstruct")) == 1
    assert usual(Budget.of(macs=0.3), width=True) == 1
    with pytest.raises(SecateurError, match="several strides do not go with the residual width"):
        usual(Budget.of(macs=0.3), strides=2, width=True)
    with pytest.raises(SecateurError, match="several strides do not go with phases of which none trains"):
        usual(Budget.of(macs=0.3), strides=2, phases=("start", "reconstruct"))


@given(st.integers(1, 10**9))
def test_half_of_anything_is_half(dense: int) -> None:
    costs = {"params": Fixed(dense)}
    assert len(strides(Budget.parse("params=50%"), costs, Learned(), width=False)) == 2
    assert len(strides(Budget.parse("params=50.1%"), costs, Learned(), width=False)) == 1


@pytest.mark.parametrize("keep", ["params=40%,macs=40%", "macs=30%"])
def test_the_budget_is_met_by_what_is_left_and_the_plan_leaves_that_of_the_first_model(
    settings: MakeSettings, model: Path, keep: str
) -> None:
    told: list[str] = []
    pruned = prune(settings(keep, strides=2), tell=told.append)
    dense, smaller = secateur.load(model).model, pruned.recognizer.model
    shares = {
        "params": counting.parameters(smaller) / counting.parameters(dense),
        "macs": counting.macs(smaller, 10.0) / counting.macs(dense, 10.0),
    }
    limits = {name: limit.amount for name, limit in Budget.parse(keep).bounds.items()}
    assert all(shares[name] <= limit for name, limit in limits.items())
    assert max(shares[name] / limit for name, limit in limits.items()) > 0.98
    sliced = slice_model(dense, pruned.plan)
    assert {name: tensor.shape for name, tensor in sliced.state_dict().items()} == {
        name: tensor.shape for name, tensor in smaller.state_dict().items()
    }
    assert list(pruned.report["history"]) == ["recover-1", "recover"]
    assert list(pruned.report["phase_seconds"]) == [
        f"{phase}{suffix}" for suffix in ("-1", "") for phase in ("start", "reconstruct", "recover")
    ]
    assert pruned.report["used"]["strides"] == 2
    few, *each = (sentence.partition(",")[0] for sentence in told)
    assert few == "6 utterances are too few to set some aside"
    assert each == ["stride 1 of 2", "stride 2 of 2"]
    assert pruned.report["used"]["validations"] == 0


def test_the_later_stride_learns_from_the_unpruned_model(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []

    class Seen(method.Distiller):
        def __init__(self, teacher: Any, student: Any, *rest: Any) -> None:
            sizes.append((counting.parameters(teacher.model), counting.parameters(student.model)))
            super().__init__(teacher, student, *rest)

    monkeypatch.setattr(method, "Distiller", Seen)
    prune(settings("params=40%", strides=2))
    (first, half), (second, end) = sizes
    assert first == second
    assert end < half < first


def test_what_is_to_stay_whole_stays_so_though_layers_before_it_go(
    settings: MakeSettings, model: Path
) -> None:
    scope = Scope(whole=("layers.2.*",))
    plan = prune(settings("params=60%", "layerdrop", scope, strides=2)).plan
    assert len(plan.gone & {f"layers.{i}" for i in range(4)}) >= 2
    assert not [name for name in plan.kept if name.startswith("layers.2")]


def test_a_run_that_is_stopped_in_any_stride_ends_as_one_that_is_not(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, straight, stopped = settings("params=40%", strides=2), tmp_path / "straight", tmp_path / "stopped"
    prune(asked, straight)
    step = method.Recovery.stepped
    for call, kept in ((2, "reconstruct-1.pt"), (5, "reconstruct.pt")):
        left = call

        def stepped(objective: method.Recovery) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt
            step(objective)

        with monkeypatch.context() as patch:
            patch.setattr(method.Recovery, "stepped", stepped)
            with pytest.raises(KeyboardInterrupt):
                prune(asked, stopped)
        assert (tmp_path / "stopped.unfinished" / kept).exists()
    prune(asked, stopped)
    for name in ("plan.json", "model.safetensors"):
        assert (stopped / name).read_bytes() == (straight / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "straight"]


def test_weights_are_float32_again_where_they_were(settings: MakeSettings, model: Path) -> None:
    half = secateur.load(model, dtype=torch.bfloat16)
    assert prune(settings("params=40%", strides=2), recognizer=half).recognizer.model.dtype == torch.bfloat16


def test_every_stride_hears_batches_of_its_own(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    feed = method.Feed

    def listened(*given: Any, **named: Any) -> Any:
        heard.append(named["seed"])
        return feed(*given, **named)

    monkeypatch.setattr(method, "Feed", listened)
    prune(settings("params=40%", strides=3))
    prune(settings("params=40%", strides=1))
    *earlier, last, alone = heard
    assert len({*earlier, last}) == 3
    assert last == alone


def test_expected_costs_are_told_of_the_model_that_the_run_began_with(settings: MakeSettings) -> None:
    found = prune(settings("params=40%", strides=2, phases=PHASES, search_share=0.5, steps=12))
    history = found.report["history"]
    assert list(history) == ["search-1", "recover-1", "search", "recover"]
    first, second = ([row["params"] for row in history[phase]] for phase in ("search-1", "search"))
    assert first[0] > 0.6
    assert second[0] < 0.66
    targets = [row[f"{TARGET}params"] for row in history["search"]]
    assert targets[-1] == pytest.approx(0.4)


def test_a_later_stride_that_comes_to_nothing_costs_no_earlier_one(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, out, left = settings("params=40%", strides=2, steps=6), tmp_path / "out", 5
    loss = method.Recovery.loss

    def too_large(*given: Any) -> Any:
        nonlocal left
        left -= 1
        if left <= 2:
            raise torch.OutOfMemoryError
        return loss(*given)

    with monkeypatch.context() as patch:
        patch.setattr(method.Recovery, "loss", too_large)
        with pytest.raises(torch.OutOfMemoryError):
            prune(asked, out)
    made = {path.name for path in (tmp_path / "out.unfinished").glob("*.pt")}
    assert {"recover-1.pt", "reconstruct.pt"} <= made
    with pytest.raises(SecateurError, match="reconstruct_steps was 2, is 3"):
        prune(asked.changed({"oneshot.reconstruct_steps": 3}), out)
    monkeypatch.setattr(method, "decide", lambda *_, **__: pytest.fail("it was scored again"))
    prune(asked.changed({"learned.batch_seconds": 1.0}), out)
