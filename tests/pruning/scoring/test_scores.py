"""Scores against cases worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from secateur.cli.prune import SCORES as NAMES
from secateur.pruning.planning.allocation import allocate
from secateur.pruning.planning.budget import Budget
from secateur.pruning.planning.elimination import Elimination
from secateur.pruning.scoring.ablation import Ablation, ablatable
from secateur.pruning.scoring.scores import SCORES
from secateur.pruning.scoring.statistics import LayerStatistics, Statistics, collect, consumers
from secateur.recognizer import Recognizer
from secateur.structure.axes import mask_along
from secateur.structure.cost import parameter_cost
from secateur.structure.groups import Groups, find_groups
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model
from tiny_models import FAMILIES

MakeRecognizer = Callable[..., Recognizer]
UNITS = "layers.0.feed_forward1.units"


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.double)


def one_by_one(elimination: Elimination) -> list[tuple[int, float]]:
    return list(zip(elimination.order, elimination.rise.tolist(), strict=True))


def test_an_elimination_is_an_order_of_all_units_with_harms_that_make_sense() -> None:
    assert one_by_one(Elimination.by_harm(tensor(3.0, 1.0, 2.0, 1.0))) == [
        (1, 1.0),
        (3, 1.0),
        (2, 2.0),
        (0, 3.0),
    ]
    for order, rise in (
        ((0, 0), (1.0, 1.0)),
        ((0,), (1.0, 1.0)),
        ((0, 1), (1.0, -1.0)),
        ((0, 1), (1.0, np.nan)),
    ):
        with pytest.raises(ValueError, match="an elimination"):
            Elimination(order, tensor(*rise))


def test_magnitude_is_the_norm_of_what_makes_a_unit_and_of_what_consumes_it(
    make_recognizer: MakeRecognizer,
) -> None:
    recognizer = make_recognizer("conformer", layers=1, width=2, heads=1, units=3)
    model, groups = recognizer.model, find_groups(recognizer.model)
    module = model.encoder.layers[0].feed_forward1
    with torch.no_grad():
        module.linear1.weight.copy_(tensor([1.0, 0.0], [3.0, 4.0], [0.0, 2.0]))
        module.linear2.weight.copy_(tensor([1.0, 0.0, 2.0], [1.0, 0.0, 0.0]))
    scores = SCORES["magnitude"](model, groups, Statistics())
    assert one_by_one(scores[UNITS]) == [(0, 3.0), (2, 8.0), (1, 25.0)]
    assert one_by_one(scores["layers.0.feed_forward1"]) == [(0, 36.0)]
    assert set(scores) == set(groups)


def test_wanda_is_weights_times_the_norms_of_what_they_multiply(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer", layers=1, width=2, heads=1, units=3)
    model, groups = recognizer.model, find_groups(recognizer.model)
    module = model.encoder.layers[0].feed_forward1
    with torch.no_grad():
        module.linear2.weight.copy_(tensor([1.0, -5.0, 2.0], [-1.0, 0.0, 2.0]))
    statistics = collect(recognizer, groups, [np.ones(4000, np.float32)], kinds=SCORES["wanda"].needs)
    square = tensor(9.0, 1.0, 0.25)
    known = LayerStatistics(positions=4.0, mean=square, square=square)
    path = "encoder.layers.0.feed_forward1.linear2"
    scores = SCORES["wanda"](model, groups, Statistics(1, {**statistics.layers, path: known}))
    # Norms are 3, 1 and 1/2, and twice that over the four positions of a frame.
    assert one_by_one(scores[UNITS]) == [(2, 4.0), (1, 10.0), (0, 12.0)]
    assert "layers.0.self_attn.query_key" not in scores
    assert "layers.0" not in scores
    assert "layers.0.self_attn" not in scores


def test_fisher_is_half_the_information_in_the_gates(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer", layers=1, units=3)
    groups = find_groups(recognizer.model)
    gates = {name: torch.ones(group.size).double() for name, group in groups.items()} | {
        UNITS: tensor(4.0, 2.0, 6.0)
    }
    scores = SCORES["fisher"](recognizer.model, groups, Statistics(1, {}, gates))
    assert one_by_one(scores[UNITS]) == [(1, 1.0), (0, 2.0), (2, 3.0)]
    assert not scores.keys() & (groups.layers.keys() | groups.branches.keys())


def test_taylor_is_the_absolute_slope_of_the_loss_in_the_gates(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer", layers=1, units=3)
    groups = find_groups(recognizer.model)
    slopes = {name: torch.ones(group.size).double() for name, group in groups.items()} | {
        UNITS: tensor(4.0, 2.0, 6.0)
    }
    scores = SCORES["taylor"](recognizer.model, groups, Statistics(1, slopes=slopes))
    assert one_by_one(scores[UNITS]) == [(1, 2.0), (0, 4.0), (2, 6.0)]
    assert not scores.keys() & (groups.layers.keys() | groups.branches.keys())


def test_hessian_is_half_the_squares_of_a_units_weights_times_their_curvature(
    make_recognizer: MakeRecognizer,
) -> None:
    recognizer = make_recognizer("conformer", layers=1, width=2, heads=1, units=3)
    model, groups = recognizer.model, find_groups(recognizer.model)
    module = model.encoder.layers[0].feed_forward1
    with torch.no_grad():
        module.linear1.weight.copy_(tensor([1.0, 0.0], [3.0, 4.0], [0.0, 2.0]))
        module.linear2.weight.copy_(tensor([1.0, 0.0, 2.0], [1.0, 0.0, 0.0]))
    path = "encoder.layers.0.feed_forward1"
    flat = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    known = {
        f"{path}.linear1.weight": tensor([2.0, 9.0], [0.0, 1.0], [9.0, 0.5]),
        f"{path}.linear2.weight": tensor([4.0, 9.0, 3.0], [0.0, 9.0, 9.0]),
    }
    scores = SCORES["hessian"](model, groups, Statistics(1, weights=flat | known))
    # Halves of 1*2 + 1*4, of 16*1, and of 4*0.5 + 4*3.
    assert one_by_one(scores[UNITS]) == [(0, 3.0), (2, 7.0), (1, 8.0)]
    assert one_by_one(scores["layers.0.feed_forward1"]) == [(0, 18.0)]
    assert one_by_one(scores["layers.0.feed_forward2"]) == [(0, 0.0)]
    assert set(scores) == set(groups)


def ablations(groups: Groups, **known: Ablation) -> dict[str, Ablation]:
    """Of everything that is ablated; known ones of modules of the first layer."""
    found = {name: Ablation(1.0, 1.0, 1.0) for name in ablatable(groups)}
    return found | {f"layers.0.{name}": ablation for name, ablation in known.items()}


def test_mope_gives_the_units_of_a_module_the_error_that_is_measured_without_it(
    make_recognizer: MakeRecognizer,
) -> None:
    recognizer = make_recognizer("conformer", layers=1, width=2, heads=1, units=3)
    model, groups = recognizer.model, find_groups(recognizer.model)
    module = model.encoder.layers[0].feed_forward1
    with torch.no_grad():
        # Squares are 3 for unit 0, 25 for unit 1 and 8 for unit 2.
        module.linear1.weight.copy_(tensor([1.0, 0.0], [3.0, 4.0], [0.0, 2.0]))
        module.linear2.weight.copy_(tensor([1.0, 0.0, 2.0], [1.0, 0.0, 0.0]))
    measured = ablations(groups, feed_forward1=Ablation(7.2, 9.0, 9.0))
    scores = SCORES["mope"](model, groups, Statistics(1, ablations=measured))
    assert scores[UNITS].order == (0, 2, 1)
    assert scores[UNITS].rise.tolist() == pytest.approx([0.6, 1.6, 5.0])
    assert one_by_one(scores["layers.0.feed_forward1"]) == [(0, 7.2)]
    assert one_by_one(scores["layers.0"]) == [(0, 1.0)]
    assert float(scores["subsampling.0.channels"].rise.sum()) == pytest.approx(1.0)
    assert "layers.0.self_attn.query_key" not in scores


@pytest.mark.parametrize("name", ["mope", "hessian"])
def test_a_module_of_which_a_bias_is_left_is_not_free(make_recognizer: MakeRecognizer, name: str) -> None:
    model = make_recognizer("conformer", layers=1).model
    smaller = slice_model(model, PruningPlan.keep(find_groups(model), {UNITS: []}))
    groups = find_groups(smaller)
    measured = ablations(groups, feed_forward1=Ablation(7.2, 9.0, 9.0))
    flat = {name: torch.ones_like(weight) for name, weight in smaller.named_parameters()}
    scores = SCORES[name](smaller, groups, Statistics(1, ablations=measured, weights=flat))
    module = "layers.0.feed_forward1"
    assert module in groups
    assert one_by_one(scores[module]) == [(0, 7.2)] if name == "mope" else module not in scores


def test_latent_is_the_change_of_mean_and_deviation_without_a_module(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer", layers=1)
    groups = find_groups(recognizer.model)
    measured = ablations(groups, conv=Ablation(9.0, 0.5, 0.25))
    scores = SCORES["latent"](recognizer.model, groups, Statistics(1, ablations=measured))
    assert one_by_one(scores["layers.0.conv"]) == [(0, 0.75)]
    assert set(scores) == set(groups.branches)


@pytest.mark.parametrize(
    ("layers", "order"),
    [(1, [1]), (3, [2, 1, 3]), (6, [4, 2, 6, 1, 5, 3]), (8, [8, 4, 2, 6, 1, 5, 3, 7])],
)
def test_layerdrop_takes_every_other_layer_and_of_these_every_other_first(
    make_recognizer: MakeRecognizer, layers: int, order: list[int]
) -> None:
    recognizer = make_recognizer("conformer", layers=layers, width=4, heads=1, units=2, channels=2)
    groups = find_groups(recognizer.model)
    scores = SCORES["layerdrop"](recognizer.model, groups, Statistics())
    harms = [float(scores[f"layers.{depth - 1}"].rise) for depth in order]
    assert harms == [100.0**place for place in range(layers)]
    assert set(scores) == set(groups.layers)


def test_depth_keeps_to_the_order_in_which_layers_went(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer", layers=4, width=4, heads=1, units=2, channels=2)
    groups = find_groups(recognizer.model)
    gone = {"layers.2": 1.0, "layers.0": 1.5, "layers.3": 4.0, "layers.1": 3.0}
    scores = SCORES["depth"](recognizer.model, groups, Statistics(1, depth=gone))
    harms = [float(scores[name].rise) for name in gone]
    assert harms == [1.0, 1e2, 1e4, 1e6]


@pytest.mark.parametrize("score", ["layerdrop", "depth"])
def test_layers_go_in_their_order_whatever_each_costs(make_recognizer: MakeRecognizer, score: str) -> None:
    """Layer 1, the first to go, holds a small part of what the others hold."""
    dense = make_recognizer("conformer", layers=4, units=60).model
    narrow = {f"layers.1.{module}.units": range(2) for module in ("feed_forward1", "feed_forward2")}
    narrow |= {"layers.1.self_attn.heads": range(1), "layers.1.conv.channels": range(2)}
    model = slice_model(dense, PruningPlan.keep(find_groups(dense), narrow))
    groups = find_groups(model)
    costs = {"params": parameter_cost(groups)}
    order = ["layers.1", "layers.3", "layers.0", "layers.2"]
    statistics = Statistics(1, depth={name: 1.0 + place for place, name in enumerate(order)})
    scores = SCORES[score](model, groups, statistics)
    for gone in (order[:1], order[:2], order[:3]):
        left = costs["params"](dict.fromkeys(gone, 0)) / costs["params"].dense
        plan = allocate(groups, scores, costs, Budget.parse(f"params={100 * left + 1e-6:.8f}%"))
        assert plan.gone == set(gone)


def test_random_takes_units_by_lot_and_weighs_them_by_their_parameters(
    make_recognizer: MakeRecognizer,
) -> None:
    recognizer = make_recognizer("conformer", layers=1, width=4, heads=2, units=50)
    model, groups = recognizer.model, find_groups(recognizer.model)
    one, same, other = (SCORES["random"](model, groups, Statistics(seed=seed)) for seed in (1, 1, 2))
    assert one_by_one(one[UNITS]) == one_by_one(same[UNITS])
    assert one[UNITS].order != other[UNITS].order
    # A unit has four weights before it and four behind it; draws lie between 0 and 1, evenly.
    draws = one[UNITS].rise / 8
    assert 0 <= float(draws.min()) < float(draws.max()) < 1
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.15)
    assert set(one) == set(groups) - set(groups.layers) - set(groups.branches)


@pytest.mark.parametrize("score", ["wanda", "obs"])
@pytest.mark.parametrize(
    ("family", "settings"),
    [("conformer", {}), ("conformer", {"subsampling": "dw_striding"}), ("wav2vec2", {})],
)
def test_a_unit_is_judged_by_its_own_inputs_of_the_consumer(
    make_recognizer: MakeRecognizer, family: str, settings: dict[str, object], score: str
) -> None:
    recognizer = make_recognizer(family, layers=1, **settings)
    model, groups = recognizer.model, find_groups(recognizer.model)
    wave = np.random.default_rng(0).normal(scale=0.1, size=8000).astype(np.float32)
    statistics = collect(recognizer, groups, [wave], kinds=SCORES[score].needs)
    chosen = {name: groups[name].size // 2 for name in consumers(groups)}
    alone = {name: torch.eye(groups[name].size, dtype=torch.double)[unit] for name, unit in chosen.items()}
    for name, path in consumers(groups).items():
        weight = model.get_parameter(f"{path}.weight")
        site = next(site for site in groups[name].sites if site.side == "input")
        factor = mask_along(site.dim, {name: alone[name]})
        taps = weight[0].numel() // len(factor)
        with torch.no_grad():
            weight.mul_(factor.repeat_interleave(taps).view(weight[0].shape))
    scores = SCORES[score](model, groups, statistics)
    for name, unit in chosen.items():
        harms = dict(one_by_one(scores[name]))
        assert harms[unit] > 0
        assert sum(harms.values()) == pytest.approx(harms[unit], rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SCORES)
def test_every_score_judges_every_family_by_the_statistics_it_asks_for(
    make_recognizer: MakeRecognizer, family: str, name: str
) -> None:
    recognizer = make_recognizer(family)
    groups = find_groups(recognizer.model, width=True)
    wave = np.random.default_rng(0).normal(scale=0.1, size=8000).astype(np.float32)
    score = SCORES[name]
    scores = score(recognizer.model, groups, collect(recognizer, groups, [wave], kinds=score.needs))
    coarse = set(groups.layers) | set(groups.branches)
    assert scores
    assert set(scores) <= set(groups)
    units = {name for branch in groups.branches.values() for name in branch.units}
    judged = units if name == "mope" else set(consumers(groups))
    assert judged <= set(scores) or set(scores) <= coarse
    assert all(len(elimination.order) == groups[group].size for group, elimination in scores.items())
    assert all(float(elimination.rise.sum()) > 0 for elimination in scores.values())


def test_the_command_line_knows_every_score() -> None:
    assert set(NAMES) == set(SCORES)
