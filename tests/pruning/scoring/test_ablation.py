"""Ablations against models that really lack what is ablated, and distances computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from secateur.pruning.scoring import ablation as module
from secateur.pruning.scoring.ablation import Ablator, ablatable, ablate, remove_layers
from secateur.recognizer import Recognizer, Waveform
from secateur.structure.groups import Groups, find_groups
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model
from tiny_models import FAMILIES

MakeRecognizer = Callable[..., Recognizer]


def noise(seconds: float, seed: int) -> Waveform:
    return np.random.default_rng(seed).normal(scale=0.1, size=round(16000 * seconds)).astype(np.float32)


SPEECH = [noise(0.5, 1), noise(0.8, 2)]


def logits(recognizer: Recognizer, groups: Groups, *gone: str) -> Tensor:
    """Of a model without some groups, [frames, vocabulary]."""
    model = slice_model(recognizer.model, PruningPlan.keep(groups, dict.fromkeys(gone, ())))
    smaller = Recognizer(model, recognizer.features, recognizer.tokenizer)
    with torch.no_grad():
        return torch.cat([smaller.logits([wave])[0][0] for wave in SPEECH])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_lost_without_a_module_or_a_layer_is_what_a_model_without_it_lacks(
    make_recognizer: MakeRecognizer, family: str
) -> None:
    recognizer = make_recognizer(family)
    groups = find_groups(recognizer.model)
    ablator = Ablator(recognizer, groups, SPEECH, temperature=2.0, speech_weight=3.0)
    whole = logits(recognizer, groups)
    for name in ("layers.1", next(iter(groups.branches))):
        less = logits(recognizer, groups, name)
        p, q = (whole / 2).softmax(-1), (less / 2).softmax(-1)
        weight = 1 + 3 * (1 - whole.softmax(-1)[:, recognizer.blank])
        found = ablator.without(name)
        assert found.divergence == pytest.approx(float(((p * (p / q).log()).sum(1) * weight).mean()))
        assert found.mean == pytest.approx(float((whole.mean(0) - less.mean(0)).norm()))
        assert found.deviation == pytest.approx(
            float((whole.var(0, correction=0).sqrt() - less.var(0, correction=0).sqrt()).norm())
        )
        assert found.divergence > 0
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in recognizer.model.modules())


def test_modules_layers_and_units_outside_of_modules_are_ablated(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer", layers=1)
    groups = find_groups(recognizer.model)
    outside = [name for name, group in groups.items() if not group.inside and name != "layers.0"]
    names = ablatable(groups)
    assert set(names) == {"layers.0", *groups.branches, *outside}
    assert "subsampling.0.channels" in outside
    shares: list[float] = []
    found = ablate(Ablator(recognizer, groups, SPEECH), shares.append)
    assert list(found) == names
    assert all(np.isfinite([each.divergence, each.mean, each.deviation]).all() for each in found.values())
    assert sum(shares) == pytest.approx(1.0)


def test_layers_go_greedily(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer", layers=3)
    groups = find_groups(recognizer.model)
    ablator = Ablator(recognizer, groups, SPEECH)
    known = {
        frozenset(gone): ablator.without(*gone).divergence
        for number in (1, 2, 3)
        for gone in combinations(groups.layers, number)
    }
    shares: list[float] = []
    found = remove_layers(ablator, shares.append)
    order = list(found)
    for number in (1, 2, 3):
        before, now = frozenset(order[: number - 1]), frozenset(order[:number])
        assert found[order[number - 1]] == known[now]
        assert known[now] == min(d for gone, d in known.items() if before < gone and len(gone) == number)
    assert len(shares) == 6
    assert sum(shares) == pytest.approx(1.0)


def test_speech_beyond_what_ablations_need_is_not_looked_at(
    make_recognizer: MakeRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = make_recognizer("conformer", layers=1)
    groups = find_groups(recognizer.model)
    monkeypatch.setattr(module, "SECONDS", 0.6)
    first = Ablator(recognizer, groups, SPEECH)
    more = Ablator(recognizer, groups, [*SPEECH, noise(1.0, 3)])
    assert first.frames == more.frames
    assert first.without("layers.0") == more.without("layers.0")
