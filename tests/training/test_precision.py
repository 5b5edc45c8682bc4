from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from secateur.training.precision import Working, working_type


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).eval()


def test_parameters_are_cast_and_batch_norms_are_not() -> None:
    net = model()
    Working(net, torch.bfloat16)
    assert net[0].weight.dtype == net[2].bias.dtype == torch.bfloat16
    assert net[1].weight.dtype == net[1].running_mean.dtype == torch.float32


def test_steps_too_small_for_half_precision_add_up() -> None:
    net = model()
    before = net[0].weight.detach().clone()
    working = Working(net, torch.bfloat16)
    optimizer = torch.optim.SGD(working.parameters(), lr=1e-5)
    for _ in range(1000):
        net(torch.ones(3, 4, dtype=torch.bfloat16))[:, 0].sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        working.update_model()
    moved = (working.state()["0.weight"] - before).abs().max()
    assert moved > 1e-3
    torch.testing.assert_close(net[0].weight.float(), working.state()["0.weight"], atol=0, rtol=2**-8)


def test_the_gradient_is_that_of_full_precision_to_rounding() -> None:
    net, full = model(), model()
    working = Working(net, torch.bfloat16)
    x = torch.linspace(-1, 1, 12).view(3, 4)
    net(x.bfloat16()).float().square().sum().backward()
    full(x).square().sum().backward()
    for twin, parameter in zip(working.parameters(), full.parameters(), strict=True):
        torch.testing.assert_close(twin.grad, parameter.grad, rtol=0.05, atol=0.05)


def test_a_state_is_in_full_precision_and_can_be_gone_back_to() -> None:
    net = model()
    working = Working(net, torch.bfloat16)
    state = working.state()
    assert all(tensor.dtype == torch.float32 for tensor in state.values() if tensor.is_floating_point())
    with torch.no_grad():
        working.parameters()[0].add_(1.0)
    working.update_model()
    working.load_state(state)
    torch.testing.assert_close(working.state(), state, rtol=0, atol=0)
    torch.testing.assert_close(net[0].weight.float(), state["0.weight"].bfloat16().float(), rtol=0, atol=0)


def test_a_restored_model_has_its_full_weights_and_can_be_trained() -> None:
    net = model()
    expected = net[0].weight.detach().clone()
    working = Working(net, torch.bfloat16)
    working.restore()
    torch.testing.assert_close(net[0].weight.detach(), expected, rtol=0, atol=0)
    net(torch.ones(3, 4)).sum().backward()
    assert net[0].weight.grad is not None
    assert net[0].weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_without_a_lower_precision_the_parameters_are_the_models_own(dtype: torch.dtype | None) -> None:
    net = model()
    working = Working(net, dtype)
    assert [id(p) for p in working.parameters()] == [id(p) for p in net.parameters()]


@pytest.mark.parametrize("has_it", [True, False])
def test_on_a_gpu_it_is_the_one_that_computes_which_says_whether_it_has_bfloat16(
    monkeypatch: pytest.MonkeyPatch, has_it: bool
) -> None:
    asked = []

    def at(device: torch.device) -> nullcontext[None]:
        asked.append(device)
        return nullcontext()

    def supported(*, including_emulation: bool = True) -> bool:
        return including_emulation or has_it

    monkeypatch.setattr(torch.cuda, "device", at)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    model = SimpleNamespace(dtype=torch.float32, device=torch.device("cuda", 1))
    assert working_type("auto", model) == (torch.bfloat16 if has_it else None)
    assert asked == [torch.device("cuda", 1)]
