"""The real model with the plans that were learned for it, which lie beside the results that they led to."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import secateur
from secateur.pruning.planning.budget import Budget
from secateur.structure import counting
from secateur.structure.cost import mac_cost, parameter_cost
from secateur.structure.groups import find_groups
from secateur.structure.masking import masked
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
PLANS = sorted((RESULTS / "plans").glob("*.json"))
SECONDS = 10.0


@pytest.fixture(scope="module")
def model(shared: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = secateur.load(shared / "models" / "conformer-ctc-small.nemo").model
    return loaded


def test_there_are_plans() -> None:
    assert PLANS


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_a_learned_plan_masks_as_it_slices(model: PreTrainedModel, path: Path) -> None:
    groups = find_groups(model)
    plan = PruningPlan.load(path, groups)
    features = torch.randn(2, 300, 80, generator=torch.Generator().manual_seed(0))
    real = torch.arange(300) < torch.tensor([[300], [170]])
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        dense = copy.deepcopy(model).to(dtype)
        inputs = {"input_features": features.to(dtype), "attention_mask": real}
        with torch.no_grad():
            sliced = slice_model(dense, plan)(**inputs).logits
            with masked(dense, groups, plan.masks(dtype)):
                switched_off = dense(**inputs).logits
        assert (sliced - switched_off).abs().max() <= tolerance * sliced.abs().max()


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_a_learned_plan_meets_the_budget_of_its_result(model: PreTrainedModel, path: Path) -> None:
    groups = find_groups(model)
    sliced = slice_model(model, PruningPlan.load(path, groups))
    counted = {
        "params": counting.parameters(sliced) / parameter_cost(groups).dense,
        "macs": counting.macs(sliced, SECONDS) / mac_cost(groups, model, SECONDS).dense,
    }
    figures = json.loads((RESULTS / path.name).read_text(encoding="utf-8"))["figures"]
    limits = {name: bound.amount for name, bound in Budget.parse(figures["budget"]).bounds.items()}
    below = [limits[name] - counted[name] for name in limits]
    assert min(below) >= 0
    assert min(below) <= 0.005
