"""Scores against cases worked out by hand, and the surgeon against the quadratic problem that it claims to solve."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur.pruning.scores import SCORES, Elimination, surgeon_order
from secateur.pruning.statistics import LayerStatistics, Statistics, collect, consumers
from secateur.recognizer import Recognizer
from secateur.structure.axes import mask_along
from secateur.structure.groups import find_groups

MakeRecognizer = Callable[..., Recognizer]
UNITS = "layers.0.feed_forward1.units"


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.double)


def layer(
    gram: Tensor, metric: Tensor, *, mean: Tensor | None = None, positions: float = 1.0
) -> LayerStatistics:
    return LayerStatistics(
        positions, torch.zeros(len(gram)) if mean is None else mean, gram.diagonal(), gram, metric
    )


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
    assert one_by_one(scores["layers.0"]) == [(0, 0.5)]


def test_the_surgeon_refits_what_stays_after_each_removal() -> None:
    # H = (1 1/2; 1/2 1), so (H^-1)_ii = 4/3. Without the second input the harm is 1/2 1^2 / (4/3) = 3/8, and the first
    # weight takes over half of the second: 1/2 (2 + 1/2)^2 = 25/8 is what it does harm to lose.
    gram = tensor([1.0, 0.5], [0.5, 1.0])
    found = surgeon_order(
        tensor([2.0, 1.0]), layer(gram, tensor([1.0])), torch.arange(2)[:, None], has_bias=False, ridge=0.0
    )
    assert found.order == (1, 0)
    assert found.rise.tolist() == pytest.approx([3 / 8, 25 / 8])


def test_harm_counts_where_the_output_matters_and_at_every_position() -> None:
    weight, metric = tensor([1.0, 0.0], [0.0, 2.0]), tensor([9.0, 0.0], [0.0, 1.0])
    found = surgeon_order(
        weight,
        layer(torch.eye(2).double(), metric, positions=3.0),
        torch.arange(2)[:, None],
        has_bias=False,
        ridge=0.0,
    )
    assert found.order == (1, 0)
    assert found.rise.tolist() == pytest.approx([3 * 4 / 2, 3 * 9 / 2])


def test_an_input_that_never_changes_costs_nothing_where_a_bias_takes_over() -> None:
    gram = tensor([25.0, 0.0], [0.0, 1.0])
    statistics = layer(gram, tensor([1.0]), mean=tensor(5.0, 0.0))
    blocks = torch.arange(2)[:, None]
    with_bias = surgeon_order(tensor([1.0, 1.0]), statistics, blocks, has_bias=True, ridge=1e-6)
    assert with_bias.order == (0, 1)
    assert with_bias.rise.tolist() == pytest.approx([0.0, 0.5], abs=1e-5)
    without = surgeon_order(tensor([1.0, 1.0]), statistics, blocks, has_bias=False, ridge=1e-6)
    assert without.order == (1, 0)
    assert without.rise.tolist() == pytest.approx([0.5, 12.5], rel=1e-4)


@given(
    seed=st.integers(0, 10**6),
    units=st.integers(1, 9),
    width=st.integers(1, 3),
    outputs=st.integers(1, 5),
    share=st.sampled_from([2, 3, 100]),
)
def test_the_surgeons_harm_is_what_the_best_refit_leaves(
    seed: int, units: int, width: int, outputs: int, share: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.double)

    inputs, seen = units * width, draw(40, units * width)
    gram, root = seen.T @ seen / 40 + 0.1 * torch.eye(inputs), draw(outputs, outputs)
    weight, metric = draw(outputs, inputs), root.T @ root
    blocks = torch.randperm(inputs, generator=generator).view(units, width)
    found = surgeon_order(weight, layer(gram, metric), blocks, has_bias=False, ridge=0.0, share=share)

    def least_harm(gone: tuple[int, ...]) -> float:
        """Half the trace of M (W - W') H (W - W')' at the best W' without these units."""
        without = blocks[list(gone)].flatten()
        stay = torch.tensor([i for i in range(inputs) if i not in without.tolist()], dtype=torch.long)
        refit = torch.zeros_like(weight)
        refit[:, stay] = torch.linalg.solve(gram[stay][:, stay], gram[stay] @ weight.T).T
        return float(torch.trace(metric @ (weight - refit) @ gram @ (weight - refit).T)) / 2

    left, removed = units, 0
    while left:
        step = max(1, left // share)
        left, removed = left - step, removed + step
        harm = float(found.rise[:removed].sum())
        assert harm == pytest.approx(least_harm(found.order[:removed]), rel=1e-3, abs=1e-4)
        if share == 100:
            before = found.order[: removed - 1]
            others = [least_harm((*before, unit)) for unit in range(units) if unit not in before]
            assert harm <= min(others) * (1 + 1e-3) + 1e-4


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


@pytest.mark.parametrize("family", ["conformer", "parakeet", "wav2vec2"])
@pytest.mark.parametrize("name", SCORES)
def test_every_score_judges_every_family_by_the_statistics_it_asks_for(
    make_recognizer: MakeRecognizer, family: str, name: str
) -> None:
    recognizer = make_recognizer(family)
    groups = find_groups(recognizer.model, width=True)
    wave = np.random.default_rng(0).normal(scale=0.1, size=8000).astype(np.float32)
    score = SCORES[name]
    scores = score(recognizer.model, groups, collect(recognizer, groups, [wave], kinds=score.needs))
    assert set(consumers(groups)) <= set(scores) <= set(groups)
    assert all(len(elimination.order) == groups[group].size for group, elimination in scores.items())
    assert all(float(elimination.rise.sum()) > 0 for elimination in scores.values())
