"""The surgeon against the quadratic problem that it claims to solve."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import SecateurError
from secateur.pruning.scoring.statistics import LayerStatistics
from secateur.pruning.scoring.surgeon import surgeon_order


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.double)


def layer(
    gram: Tensor, metric: Tensor, *, mean: Tensor | None = None, positions: float = 1.0
) -> LayerStatistics:
    return LayerStatistics(
        positions, torch.zeros(len(gram)) if mean is None else mean, gram.diagonal(), gram, metric
    )


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


def test_inputs_that_hardly_change_are_judged_though_their_covariance_is_rounding_errors() -> None:
    mean = torch.linspace(-300, 500, 24, dtype=torch.double)
    gram = torch.outer(mean, mean).float().double()
    assert torch.linalg.eigvalsh(gram - torch.outer(mean, mean))[0] < -1e-3
    statistics = layer(gram, torch.eye(2).double(), mean=mean)
    weight = torch.ones(2, 24).double()
    found = surgeon_order(weight, statistics, torch.arange(24)[:, None], has_bias=True)
    assert sorted(found.order) == list(range(24))


def test_inputs_that_are_not_finite_are_refused_in_one_sentence() -> None:
    gram = torch.full((2, 2), float("nan")).double()
    with pytest.raises(SecateurError, match="what a layer reads is not finite"):
        surgeon_order(torch.ones(1, 2), layer(gram, tensor([1.0])), torch.arange(2)[:, None], has_bias=False)


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
