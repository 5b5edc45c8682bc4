"""Constraints on problems whose solution is known: gates of different worth, of which a share must go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from secateur.pruning.learning.constraint import Constraints
from secateur.pruning.learning.gates import Gates
from secateur.recognizer import Recognizer
from secateur.structure.groups import find_groups

MakeRecognizer = Callable[..., Recognizer]
UNITS = "layers.0.feed_forward1.units"


def test_the_term_is_the_augmented_lagrangian_of_an_inequality() -> None:
    constraints = Constraints([0.5, 0.5, 0.5], penalty=10.0)
    constraints.multipliers = torch.tensor([2.0, 2.0, 0.0], dtype=torch.double)
    costs = torch.tensor([0.6, 0.1, 0.4], dtype=torch.double, requires_grad=True)
    term = constraints.term(costs)
    # Violated: l g + r/2 g^2. With room to spare: as low as it goes, -l^2 / 2r. Nothing at stake: nothing.
    assert term.item() == pytest.approx((2 * 0.1 + 5 * 0.01) - 4 / 20 + 0)
    (gradient,) = torch.autograd.grad(term, costs)
    torch.testing.assert_close(gradient, torch.tensor([2.0 + 10 * 0.1, 0.0, 0.0], dtype=torch.double))


def test_multipliers_rise_with_what_is_too_much_and_never_fall_below_nothing() -> None:
    constraints = Constraints([0.5, 0.5], dual_step=2.0)
    constraints.update(torch.tensor([0.6, 0.3]))
    torch.testing.assert_close(constraints.multipliers, torch.tensor([0.2, 0.0]).double())
    constraints.update(torch.tensor([0.45, 0.6]))
    torch.testing.assert_close(constraints.multipliers, torch.tensor([0.1, 0.2]).double())


def test_equal_parts_of_the_way_take_the_same_factor_of_a_cost() -> None:
    constraints = Constraints([0.25, 1.0])
    assert constraints.target(0.0).tolist() == [1.0, 1.0]
    assert constraints.target(0.5).tolist() == [0.5, 1.0]
    assert constraints.target().tolist() == [0.25, 1.0]


def test_a_run_that_is_taken_up_again_goes_on_where_it_was() -> None:
    first = Constraints([0.5])
    first.update(torch.tensor([0.9]), 0.3)
    second = Constraints([0.5])
    second.load_state_dict(first.state_dict())
    costs = torch.tensor([0.7])
    assert torch.equal(second.term(costs, 0.4), first.term(costs, 0.4))
    first.update(costs)
    assert not torch.equal(first.multipliers, second.multipliers)


def search(gates: Gates, worth: Tensor, prices: Tensor, limits: list[float], steps: int = 1000) -> Tensor:
    """Costs, [steps, constraints], on the way to the gates that keep the most worth within the limits."""
    constraints, random = Constraints(limits), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(gates.parameter_groups(0.05))
    way = []
    for step in range(steps):
        place = min(1.0, 2 * step / steps)
        loss = (worth * (1 - gates.sample(random)[UNITS]).square()).sum()
        costs = prices @ gates.keep()[UNITS]
        optimizer.zero_grad()
        (loss + constraints.term(costs, place)).backward()
        optimizer.step()
        gates.clamp_()
        constraints.update(costs, place)
        way.append(costs.detach())
    return torch.stack(way)


@pytest.mark.parametrize("limits", [[0.5], [0.5, 0.45], [0.5, 0.9]])
@pytest.mark.parametrize("scale", [0.5, 5.0])
def test_costs_end_at_their_limits_and_do_not_swing(
    make_recognizer: MakeRecognizer, limits: list[float], scale: float
) -> None:
    gates = Gates(find_groups(make_recognizer("conformer", units=64).model), [UNITS])
    random = torch.Generator().manual_seed(1)
    worth = scale * torch.rand(64, generator=random) ** 2 / 64
    prices = torch.rand(len(limits), 64, generator=random) + 0.1 if len(limits) > 1 else torch.ones(1, 64)
    prices /= prices.sum(1, keepdim=True)
    way = search(gates, worth, prices, limits)
    over = (way[-100:] - torch.tensor(limits)).amax(1)
    assert over.abs().max() < 0.005
    assert (way[500:] - torch.tensor(limits)).amax(1).min() > -0.02
    if len(limits) == 1:
        kept = gates.deterministic()[UNITS] > 0.5
        best = worth.sort(descending=True).values[: int(kept.sum())].sum()
        assert (worth * kept).sum() > 0.9 * best
