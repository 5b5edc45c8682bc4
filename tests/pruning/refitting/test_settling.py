"""A block that is trained by itself: what it learns, and what stays as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur.pruning.refitting.settling import settle


def block() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def everywhere(x: list[Tensor]) -> list[Tensor]:
    return [torch.arange(each.shape[0] * each.shape[1]) for each in x]


def trained(
    module: nn.Module, x: list[Tensor], y: list[Tensor], frames: list[Tensor], steps: int, seed: int = 0
) -> None:
    run: Callable[[int], Tensor] = lambda index: module(x[index])  # noqa: E731
    settle(list(module.parameters()), run, y, frames, steps, torch.Generator().manual_seed(seed))


def apart(module: nn.Module, x: list[Tensor], y: list[Tensor]) -> float:
    with torch.no_grad():
        return sum(float((module(a) - b).square().sum()) for a, b in zip(x, y, strict=True))


@pytest.fixture
def speech() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, frames, 3, dtype=torch.double) for frames in (40, 30, 50)]


def test_a_block_comes_nearer_to_what_it_is_to_put_out(speech: list[Tensor]) -> None:
    module, other = block(), block()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        y = [other(x) for x in speech]
    before = apart(module, speech, y)
    trained(module, speech, y, everywhere(speech), 150)
    assert apart(module, speech, y) < 0.3 * before


def test_frames_that_are_not_to_be_learned_from_change_nothing(speech: list[Tensor]) -> None:
    one, other = block(), block()
    y = [x.cos() for x in speech]
    # The second utterance of each batch is padding, or held out.
    frames = [torch.arange(x.shape[1]) for x in speech]
    trained(one, speech, y, frames, 10)
    for x, z in zip(speech, y, strict=True):
        x[1], z[1] = 99.0, -99.0
    trained(other, speech, y, frames, 10)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_batch_without_frames_is_left_out_and_nothing_else_is_touched(speech: list[Tensor]) -> None:
    module = block()
    unused = nn.Parameter(torch.ones(2, dtype=torch.double), requires_grad=False)
    frames = [*everywhere(speech)[:2], torch.empty(0, dtype=torch.long)]
    heard: list[int] = []

    def run(index: int) -> Tensor:
        heard.append(index)
        out: Tensor = module(speech[index])
        return out

    for parameter in module.parameters():
        parameter.requires_grad_(False)
    y = [torch.zeros_like(x) for x in speech]
    with torch.no_grad():
        settle([*module.parameters(), unused], run, y, frames, 5, torch.Generator().manual_seed(0))
    assert sorted(heard[:2]) == sorted(heard[2:4]) == [0, 1]
    assert len(heard) == 5
    assert torch.equal(unused, torch.ones(2, dtype=torch.double))
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_generator_decides_the_order(speech: list[Tensor]) -> None:
    y = [x.cos() for x in speech]
    ends = []
    for seed in (3, 3, 5):
        module = block()
        trained(module, speech, y, everywhere(speech), 12, seed)
        ends.append(torch.cat([parameter.detach().flatten() for parameter in module.parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
