"""Every score on every family: the budget is met, by the nearest plan below it, and what is left hears."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from secateur.pruning.oneshot import OneShot, prune_oneshot
from secateur.pruning.planning.budget import Budget
from secateur.pruning.scoring.scores import SCORES
from secateur.recognizer import Recognizer
from secateur.structure.cost import mac_cost, parameter_cost
from secateur.structure.groups import find_groups
from tiny_models import FAMILIES

MakeRecognizer = Callable[..., Recognizer]
WHOLE = {"layerdrop", "depth", "latent"}
KEEP = 0.6


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("score", SCORES)
def test_a_score_meets_parameters_and_macs_by_the_nearest_plan_below(
    make_recognizer: MakeRecognizer, family: str, score: str
) -> None:
    recognizer = make_recognizer(family, layers=4, units=40, channels=4)
    groups = find_groups(recognizer.model)
    costs = {"params": parameter_cost(groups), "macs": mac_cost(groups, recognizer.model, 2.0)}
    waves = [np.random.default_rng(seed).normal(scale=0.1, size=4800).astype(np.float32) for seed in range(2)]
    settings = OneShot(score=score, reconstruct_minutes=0.0)
    budget = Budget.parse(f"params={KEEP:.0%},macs={KEEP:.0%}")
    plan, smaller = prune_oneshot(recognizer, groups, costs, budget, [waves], settings, lambda *_: None)

    limits = {name: KEEP * cost.dense for name, cost in costs.items()}
    assert smaller.model.num_parameters() == costs["params"](plan.counts()) <= limits["params"]
    assert costs["macs"](plan.counts()) <= limits["macs"]
    for name, count in plan.counts().items():
        more = plan.counts() | {name: count + 1}
        assert any(cost(more) > limits[each] for each, cost in costs.items())
    if score in WHOLE:
        coarse = groups.branches if score == "latent" else groups.layers
        assert set(plan.kept) <= set(coarse)
    if score == "layerdrop":
        assert set(plan.kept) == {"layers.1", "layers.3"}
    with torch.no_grad():
        logits, _ = smaller.logits(waves[:1])
    assert torch.isfinite(logits).all()
