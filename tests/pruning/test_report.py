"""What a report says of units, on small random models."""

from __future__ import annotations

import pytest

from secateur.pruning.planning.budget import Budget
from secateur.pruning.report import made_report
from secateur.pruning.settings import PruneSettings
from secateur.structure.cost import mac_cost, parameter_cost
from secateur.structure.groups import find_groups
from secateur.structure.plan import PruningPlan
from tiny_models import tiny_model


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("gone", ["layers.0.self_attn.heads", "layers.0.self_attn", "layers.0"])
def test_nothing_inside_of_what_is_gone_is_said_to_be_kept(gone: str, use_bias: bool) -> None:
    model = tiny_model("conformer", use_bias=use_bias)
    groups = find_groups(model)
    plan = PruningPlan.keep(groups, {gone: [], "layers.1.self_attn.heads": [1]})
    costs = {"params": parameter_cost(groups), "macs": mac_cost(groups, model, 10.0)}
    settings = PruneSettings("model", "speech", "params=50%")
    units = made_report(settings, Budget.of(params=0.5), groups, plan, costs, None)["units"]
    for name, (kept, size) in units.items():
        assert size == groups[name].size
        if name.startswith("layers.0.self_attn."):
            assert kept == 0, name
        elif not name.startswith("layers.0"):
            assert kept == (1 if name == "layers.1.self_attn.heads" else size), name
