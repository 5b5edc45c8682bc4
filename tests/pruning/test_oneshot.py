from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from secateur.errors import SecateurError
from secateur.pruning.oneshot import OneShot, prune_oneshot
from secateur.pruning.planning.budget import Budget
from secateur.pruning.trials import Trials
from secateur.recognizer import Recognizer, Waveform
from secateur.speech.sampling import first
from secateur.structure.cost import mac_cost, parameter_cost
from secateur.structure.groups import find_groups
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model

MakeRecognizer = Callable[..., Recognizer]
RATE = 16000


@pytest.fixture
def recognizer(make_recognizer: MakeRecognizer) -> Recognizer:
    return make_recognizer("conformer", width=16, units=40, channels=8)


def noise(seconds: float, seed: int) -> Waveform:
    return np.random.default_rng(seed).normal(scale=0.1, size=round(RATE * seconds)).astype(np.float32)


SPEECH = [[noise(2.0, 0), noise(1.9, 1), noise(1.2, 2)], [noise(2.4, 3), noise(2.0, 4)]]


def cut(
    recognizer: Recognizer,
    keep: str = "params=50%",
    progress: Callable[[str, float], object] = lambda *_: None,
    **settings: object,
) -> tuple[PruningPlan, Recognizer]:
    groups = find_groups(recognizer.model)
    costs = {"params": parameter_cost(groups), "macs": mac_cost(groups, recognizer.model, 10.0)}
    chosen = OneShot(**{"score_minutes": 0.1, "reconstruct_minutes": 1.0, "reconstruct_steps": 2, **settings})
    return prune_oneshot(recognizer, groups, costs, Budget.parse(keep), SPEECH, chosen, progress)


def error(recognizer: Recognizer, expected: Recognizer) -> float:
    differences = []
    for batch in SPEECH:
        (logits, lengths), (wanted, _) = recognizer.logits(batch), expected.logits(batch)
        differences += [(x - y)[:n].flatten() for x, y, n in zip(logits, wanted, lengths, strict=True)]
    return float(torch.cat(differences).square().mean())


@pytest.mark.parametrize("score", ["obs", "fisher", "wanda", "magnitude"])
def test_every_score_gives_a_smaller_recogniser_and_leaves_the_dense_one(
    recognizer: Recognizer, score: str
) -> None:
    before = {name: tensor.clone() for name, tensor in recognizer.model.state_dict().items()}
    plan, smaller = cut(recognizer, score=score)
    dense = recognizer.model
    assert smaller.model.num_parameters() <= 0.5 * dense.num_parameters()
    assert smaller.model.num_parameters() == parameter_cost(find_groups(dense))(plan.counts())
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())
    assert all(parameter.grad is None for parameter in dense.parameters())
    assert all(torch.isfinite(parameter).all() for parameter in smaller.model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in dense.modules())


def test_without_reconstruction_the_weights_are_those_that_the_plan_keeps(recognizer: Recognizer) -> None:
    plan, smaller = cut(recognizer, score="magnitude", reconstruct_minutes=0.0)
    sliced = slice_model(recognizer.model, plan)
    for one, other in zip(smaller.model.parameters(), sliced.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("score", ["obs", "fisher", "magnitude"])
def test_reconstruction_keeps_the_plan_and_brings_the_logits_nearer(
    recognizer: Recognizer, score: str
) -> None:
    bare_plan, bare = cut(recognizer, score=score, reconstruct_minutes=0.0)
    plan, refitted = cut(recognizer, score=score)
    assert plan == bare_plan
    assert error(refitted, recognizer) < 0.5 * error(bare, recognizer)


def test_a_budget_of_everything_changes_nothing_that_is_heard(recognizer: Recognizer) -> None:
    for score in ("obs", "magnitude"):
        plan, whole = cut(recognizer, keep="params=100%", score=score)
        assert plan.kept == {}
        assert error(whole, recognizer) < 1e-12


@pytest.mark.parametrize("score", ["latent", "layerdrop", "depth"])
def test_whole_modules_and_layers_have_no_fraction_to_keep(score: str) -> None:
    with pytest.raises(SecateurError, match=f"the score {score} removes whole .*: leave uniform out"):
        OneShot(score, uniform=True)


def test_uniform_keeps_the_same_fraction_of_every_group(recognizer: Recognizer) -> None:
    plan, _ = cut(recognizer, keep="params=60%", score="magnitude", uniform=True)
    groups, counts = find_groups(recognizer.model), plan.counts()
    units = [name for name in groups if name.endswith((".units", ".channels"))]
    kept = [counts.get(name, groups[name].size) / groups[name].size for name in units]
    assert max(kept) - min(kept) < 0.2
    assert not any(counts.get(name, 1) == 0 for name, group in groups.items() if group.size == 1)


def test_trials_take_the_plan_that_diverges_least_when_refitted(recognizer: Recognizer) -> None:
    told: list[str] = []
    plan, _ = cut(recognizer, score="fisher", progress=lambda stage, _: told.append(stage), trials=6)
    assert told.count("trying") == 7
    usual, _ = cut(recognizer, score="fisher")
    trials = Trials(recognizer, SPEECH, seed=0)
    assert trials(plan) <= trials(usual)
    parameters = parameter_cost(find_groups(recognizer.model))
    assert parameters(plan.counts()) <= 0.5 * parameters.dense


def test_a_trial_of_the_whole_model_finds_no_divergence(recognizer: Recognizer) -> None:
    groups = find_groups(recognizer.model)
    trials = Trials(recognizer, SPEECH, seed=0)
    assert trials(PruningPlan.keep(groups, {})) == pytest.approx(0, abs=1e-6)
    half = {name: range(group.size // 2) for name, group in groups.items() if name.endswith(".units")}
    assert trials(PruningPlan.keep(groups, half)) > 1e-4


def test_a_single_batch_is_enough_for_a_trial(recognizer: Recognizer) -> None:
    plan = PruningPlan.keep(find_groups(recognizer.model), {"layers.0.conv.channels": [0, 1]})
    assert Trials(recognizer, SPEECH[:1], seed=0)(plan) > 0


def test_trials_need_something_to_share_out() -> None:
    for settings in ({"trials": -1}, {"trials": 3, "uniform": True}, {"trials": 3, "score": "random"}):
        with pytest.raises(SecateurError, match="trials"):
            OneShot(**settings)


def test_scores_look_at_no_more_audio_than_they_were_given(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[float] = []
    prepare = Recognizer.prepare

    def note(self: Recognizer, waveforms: list[Waveform]) -> dict[str, torch.Tensor]:
        heard.extend(len(wave) / RATE for wave in waveforms)
        return prepare(self, waveforms)

    monkeypatch.setattr(Recognizer, "prepare", note)
    cut(recognizer, score="wanda", score_minutes=3.5 / 60, reconstruct_minutes=0.0)
    assert heard == [2.0, 1.9]
    heard.clear()
    # Once to rotate the heads.
    cut(recognizer, score="fisher", score_minutes=3.5 / 60, reconstruct_minutes=0.0)
    assert heard == [2.0, 1.9] * 2


@pytest.mark.parametrize(("seconds", "number"), [(0.0, 0), (0.1, 1), (2.0, 1), (2.1, 2), (3.9, 2), (99.0, 3)])
def test_the_first_seconds_are_whole_waveforms_that_reach_them(seconds: float, number: int) -> None:
    waves = SPEECH[0]
    assert len(first(waves, seconds * RATE, len)) == number


def test_progress_names_the_stages_in_order_and_ends_each(recognizer: Recognizer) -> None:
    told: list[tuple[str, float]] = []
    cut(recognizer, progress=lambda stage, done: told.append((stage, done)), score="fisher")
    stages = list(dict.fromkeys(stage for stage, _ in told))
    assert stages == ["rotating", "scoring", "allocating", "slicing", "refitting"]
    for stage in stages:
        shares = [done for name, done in told if name == stage]
        assert shares == sorted(shares)
        assert all(0 <= share <= 1 + 1e-9 for share in shares)
    assert {stage: done for stage, done in told if done > 0} == pytest.approx(
        {"scoring": 1.0, "refitting": 1.0}
    )
