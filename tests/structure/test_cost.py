from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from known_costs import expected
from secateur.structure import counting
from secateur.structure.cost import Cost, mac_cost, parameter_cost
from secateur.structure.groups import Groups, find_groups
from tiny_models import FAMILIES

MakeModel = Callable[..., PreTrainedModel]
SECONDS = 0.4


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, make_model: MakeModel) -> PreTrainedModel:
    return make_model(request.param)


@pytest.fixture(scope="module")
def groups(model: PreTrainedModel) -> Groups:
    return find_groups(model, width=True)


@pytest.fixture(scope="module", params=["parameters", "macs"])
def cost(request: pytest.FixtureRequest, groups: Groups, model: PreTrainedModel) -> Cost:
    return parameter_cost(groups) if request.param == "parameters" else mac_cost(groups, model, SECONDS)


def test_nothing_removed_costs_what_the_model_costs(groups: Groups, model: PreTrainedModel) -> None:
    assert parameter_cost(groups).dense == counting.parameters(model)
    assert mac_cost(groups, model, SECONDS).dense == counting.macs(model, SECONDS)


def test_every_multiply_accumulate_of_a_conformer_belongs_to_some_term(make_model: MakeModel) -> None:
    for family in ("conformer", "parakeet"):
        model = make_model(family)
        assert mac_cost(find_groups(model), model, SECONDS).constant == 0


def test_a_feed_forward_unit_costs_its_two_columns_its_bias_and_their_use_at_every_frame(
    make_model: MakeModel,
) -> None:
    model = make_model("conformer", width=16)
    groups = find_groups(model)
    parameters, macs = parameter_cost(groups), mac_cost(groups, model, SECONDS)
    one_less = {"layers.0.feed_forward1.units": 19}
    frames = 10  # 40 frames of features, subsampled by 4
    assert parameters.dense - parameters(one_less) == 16 + 1 + 16
    assert macs.dense - macs(one_less) == frames * (16 + 16)


def test_a_key_dimension_costs_its_products_too(make_model: MakeModel) -> None:
    model = make_model("conformer", width=16, heads=4)
    macs = mac_cost(find_groups(model), model, SECONDS)
    frames, heads = 10, 4
    distances = 2 * frames - 1
    projections = heads * 16 * (2 * frames + distances)
    products = heads * frames * (frames + distances)
    assert macs.dense - macs({"layers.0.self_attn.query_key": 3}) == projections + products


def test_certain_probabilities_cost_what_the_plan_costs(groups: Groups, cost: Cost) -> None:
    keep = {name: torch.zeros(group.size) for name, group in groups.items()}
    for probabilities in keep.values():
        probabilities[: max(1, len(probabilities) // 2)] = 1.0
    counts = {name: int(probabilities.sum()) for name, probabilities in keep.items()}
    assert expected(cost, groups, keep).item() == cost(counts)


def test_the_expected_cost_is_the_mean_cost_of_independent_gates(make_model: MakeModel) -> None:
    """Enumerate every outcome of two gates each in two groups that meet in one product."""
    groups = find_groups(make_model("conformer", layers=1, heads=2, width=4))
    cost = parameter_cost(groups)
    heads, value = "layers.0.self_attn.heads", "layers.0.self_attn.value"
    p = {
        heads: torch.tensor([0.9, 0.4], dtype=torch.double),
        value: torch.tensor([0.7, 0.2], dtype=torch.double),
    }

    def outcomes(name: str) -> list[tuple[float, int]]:
        a, b = p[name].tolist()
        return [(a * b, 2), (a * (1 - b) + b * (1 - a), 1), ((1 - a) * (1 - b), 0)]

    norm = cost({}) - cost({heads: 0}) - (cost({}) - cost({heads: 1})) * 2
    mean = sum(
        ph * pv * cost({heads: nh, value: nv}) for ph, nh in outcomes(heads) for pv, nv in outcomes(value)
    )
    # With no head left the norm goes too, which the expectation sees from one expected head downwards only.
    assert mean == pytest.approx(expected(cost, groups, p).item() - outcomes(heads)[2][0] * norm)


def test_the_gradient_is_what_one_more_unit_costs(groups: Groups, cost: Cost) -> None:
    keep = {
        name: torch.ones(group.size, dtype=torch.double, requires_grad=True) for name, group in groups.items()
    }
    expected(cost, groups, keep).backward()
    for name, group in groups.items():
        if group.size > 2:
            assert keep[name].grad is not None
            assert keep[name].grad[0].item() == cost.dense - cost({name: group.size - 1})
