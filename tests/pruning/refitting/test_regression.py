from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.pruning.refitting.regression import Regression
from secateur.structure.surgery import Constant


def frames(number: int, size: int, seed: int, dtype: torch.dtype = torch.double) -> Tensor:
    return torch.randn(number, size, generator=torch.Generator().manual_seed(seed), dtype=torch.double).to(
        dtype
    )


@torch.no_grad()
def refit(module: nn.Module, x: Tensor, y: Tensor, ridge: float = 0.0, batches: int = 3) -> None:
    regression = Regression(module, [ridge])
    for part in range(batches):
        regression.add(x[part::batches], y[part::batches])
    regression.solve()


def test_without_a_ridge_it_is_least_squares_with_an_intercept() -> None:
    layer = nn.Linear(4, 3).double()
    x, y = frames(50, 4, 0) + 2, frames(50, 3, 1) - 5
    refit(layer, x, y)
    design = np.column_stack([x.numpy(), np.ones(50)])
    solution = np.linalg.lstsq(design, y.numpy(), rcond=None)[0]
    assert np.allclose(layer.weight.detach(), solution[:4].T, atol=1e-12)
    assert np.allclose(layer.bias.detach(), solution[4], atol=1e-12)


def test_without_a_bias_it_is_least_squares_through_the_origin() -> None:
    layer = nn.Linear(4, 3, bias=False).double()
    x, y = frames(50, 4, 0) + 2, frames(50, 3, 1) - 5
    refit(layer, x, y)
    assert np.allclose(
        layer.weight.detach().T, np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0], atol=1e-12
    )


def test_the_ridge_pulls_towards_the_weight_that_was_there_and_leaves_the_bias_free() -> None:
    # x is -1, 0, 1 (variance summed over frames: 2), y = 5 x + 7. With r = 1 the pull is 1 * 2 towards w = 1:
    # minimise 2 (w - 5)^2 + 2 (w - 1)^2, so w = 3; the bias is the mean of y, 7, whatever it was.
    layer = nn.Linear(1, 1).double()
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(-100.0)
    x = torch.tensor([[-1.0], [0.0], [1.0]]).double()
    refit(layer, x, 5 * x + 7, ridge=1.0)
    assert layer.weight.item() == pytest.approx(3)
    assert layer.bias.item() == pytest.approx(7)
    # The same frames moved along x: the same slope, and an intercept that makes up for the move.
    with torch.no_grad():
        layer.weight.fill_(1.0)
    refit(layer, x + 10, 5 * x + 7, ridge=1.0)
    assert layer.weight.item() == pytest.approx(3)
    assert layer.bias.item() == pytest.approx(7 - 30)


def test_a_convolution_is_fitted_on_its_flattened_windows() -> None:
    true, layer = (nn.Conv2d(2, 3, (2, 3)).double() for _ in range(2))
    x = torch.randn(1, 2, 9, 9, generator=torch.Generator().manual_seed(0)).double()
    windows = nn.functional.unfold(x, (2, 3))[0].T
    refit(layer, windows, true(x)[0].flatten(1).T.detach())
    assert torch.allclose(layer.weight, true.weight, atol=1e-10)
    assert torch.allclose(layer.bias, true.bias, atol=1e-10)


@pytest.mark.parametrize("pair", [False, True])
def test_a_constant_becomes_the_mean(pair: bool) -> None:
    constant = Constant(3, pair).double()
    y = frames(40, 3, 1) + 4
    refit(constant, frames(40, 5, 0), y)
    assert torch.allclose(constant.bias, y.mean(0), atol=1e-12)


def test_no_frames_change_nothing() -> None:
    layer = nn.Linear(4, 3)
    before = [tensor.clone() for tensor in layer.parameters()]
    refit(layer, torch.zeros(0, 4), torch.zeros(0, 3))
    Regression(layer, [1e-3]).solve()
    assert all(torch.equal(now, then) for now, then in zip(layer.parameters(), before, strict=True))


def test_batches_without_frames_among_others_change_nothing() -> None:
    one, other = (nn.Linear(2, 1).double() for _ in range(2))
    other.load_state_dict(one.state_dict())
    x, y = frames(3, 2, 0), frames(3, 1, 1)
    refit(one, x, y, ridge=0.1, batches=1)
    refit(other, x, y, ridge=0.1, batches=7)
    assert torch.allclose(one.weight, other.weight, atol=1e-12)
    assert torch.allclose(one.bias, other.bias, atol=1e-12)


def test_inputs_that_never_vary_leave_the_weight_and_move_the_bias() -> None:
    layer = nn.Linear(2, 1)
    before = layer.weight.detach().clone()
    x, y = torch.full((1000, 2), 0.3), frames(1000, 1, 1, torch.float32) + 9
    refit(layer, x, y, ridge=1e-3)
    assert torch.allclose(layer.weight, before)
    assert torch.allclose(layer(x[:1]), y.mean(), atol=1e-4)


def test_a_mean_far_from_zero_costs_no_precision() -> None:
    layer = nn.Linear(4, 2)
    x = frames(3000, 4, 0, torch.float32) + 1000
    weight = frames(2, 4, 1, torch.float32)
    refit(layer, x, x @ weight.T)
    assert torch.allclose(layer.weight, weight, atol=1e-4)


def test_half_precision_is_summed_in_single_precision() -> None:
    layer = nn.Linear(4, 2).bfloat16()
    x, weight = frames(3000, 4, 0, torch.bfloat16), frames(2, 4, 1)
    y = (x.double() @ weight.T).bfloat16()
    refit(layer, x, y, batches=100)
    assert torch.allclose(layer.weight.double(), weight, atol=0.02)


def test_a_pull_that_half_precision_has_no_number_for_pulls_all_the_same() -> None:
    layer = nn.Linear(4, 2).half()
    before = layer.weight.detach().clone()
    x, y = 100 * frames(3000, 4, 0, torch.half), frames(3000, 2, 1, torch.half)
    refit(layer, x, y, ridge=100.0)
    assert layer.weight.isfinite().all()
    assert torch.allclose(layer.weight, before, atol=0.02)


RIDGES = [1e-4, 1e-2, 1.0, 100.0]


@torch.no_grad()
def refit_with_choice(layer: nn.Module, x: Tensor, y: Tensor, held_out: int) -> float | None:
    """The last frames are held out."""
    regression = Regression(layer, RIDGES)
    split = len(x) - held_out
    regression.add(x[:split], y[:split])
    regression.add(x[split:], y[split:], held_out=True)
    return regression.solve()


def noisy(number: int, bias: bool = True) -> tuple[nn.Linear, Tensor, Tensor]:
    """A layer, and frames that ask for a somewhat different one, under noise."""
    layer = nn.Linear(20, 3, bias=bias).double()
    with torch.no_grad():
        wanted = layer.weight + 0.1 * frames(3, 20, 0)
        layer.weight += 0.1 * frames(3, 20, 1)
    x = frames(number, 20, 2) + 2
    return layer, x, x @ wanted.detach().T + frames(number, 3, 3)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("number", [30, 60, 400, 4000])
@torch.no_grad()
def test_the_ridge_taken_errs_least_on_what_is_held_out_and_is_then_used_on_everything(
    number: int, bias: bool
) -> None:
    layer, x, y = noisy(number, bias)
    split = number - number // 4
    errors = {}
    for ridge in RIDGES:
        trial = copy.deepcopy(layer)
        refit(trial, x[:split], y[:split], ridge)
        errors[ridge] = float((trial(x[split:]) - y[split:]).square().sum())
    expected = copy.deepcopy(layer)
    best = min(errors, key=lambda ridge: errors[ridge])
    refit(expected, x, y, best)
    assert refit_with_choice(layer, x, y, number // 4) == best
    assert torch.allclose(layer.weight, expected.weight, atol=1e-12)


def test_little_audio_changes_little_and_much_audio_much() -> None:
    few, many = (refit_with_choice(*noisy(number), number // 4) for number in (24, 10_000))
    assert few is not None
    assert few >= 1.0
    assert many == RIDGES[0]


def test_without_anything_held_out_the_pull_is_the_strongest() -> None:
    layer, x, y = noisy(1000)
    assert refit_with_choice(layer, x, y, 0) == RIDGES[-1]
    assert refit_with_choice(layer, x, y, 1000) == RIDGES[-1]
