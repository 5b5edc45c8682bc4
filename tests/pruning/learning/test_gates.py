"""Hard concrete gates against their closed forms, and their expected cost against the mean of sampled plans."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from known_costs import expected, expected_counts
from secateur.pruning.learning.gates import RANGE, RATES, Gates
from secateur.recognizer import Recognizer
from secateur.structure.cost import mac_cost, parameter_cost
from secateur.structure.groups import Groups, find_groups
from secateur.structure.plan import PruningPlan
from tiny_models import FAMILIES

MakeRecognizer = Callable[..., Recognizer]
UNITS = "layers.0.feed_forward1.units"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def groups(make_recognizer: MakeRecognizer) -> Groups:
    return find_groups(make_recognizer("conformer", units=1000).model)


def at(groups: Groups, log_alpha: float) -> Gates:
    return Gates(groups, [UNITS], log_alpha)


def test_every_unit_has_a_gate_that_begins_almost_surely_open(groups: Groups) -> None:
    gates = Gates(groups)
    assert {name: len(keep) for name, keep in gates.keep().items()} == {n: g.size for n, g in groups.items()}
    for keep in gates.keep().values():
        torch.testing.assert_close(keep, torch.full_like(keep, 0.99))
    assert gates.coarse.numel() == len(groups.layers) + len(groups.branches)


def test_gates_begin_as_open_as_is_asked_for(groups: Groups) -> None:
    p = torch.linspace(0.05, 0.95, 1000)
    gates = Gates(groups, [UNITS, "layers.0"], {UNITS: p.logit(), "layers.1.conv.channels": torch.ones(16)})
    assert set(gates.keep()) == {UNITS, "layers.0"}
    torch.testing.assert_close(gates.keep()[UNITS], p)
    assert gates.keep()["layers.0"].item() == pytest.approx(0.99)


@pytest.mark.parametrize("end", [-1, 1])
def test_the_surest_gates_are_hardly_ever_open_in_part(groups: Groups, end: int) -> None:
    """A unit that surely stays is there in every draw, one that surely goes in none: the student is what the plan leaves."""
    gates, random = Gates(groups, [UNITS], {UNITS: torch.full((1000,), 100.0 * end)}), generator()
    z = torch.cat([gates.sample(random)[UNITS].detach() for _ in range(200)])
    assert (z == max(0, end)).float().mean().item() == pytest.approx(0.9933, abs=0.0006)


@pytest.mark.parametrize("log_alpha", [-3.0, -1.0, 0.0, 2.5])
def test_samples_are_distributed_as_the_hard_concrete_says(groups: Groups, log_alpha: float) -> None:
    gates, random = at(groups, log_alpha), generator()
    z = torch.cat([gates.sample(random)[UNITS].detach() for _ in range(200)])
    assert 0 <= z.min() <= z.max() <= 1

    def below(value: float) -> float:
        """P(z <= value) for a value in [0, 1): the distribution function of the stretched concrete."""
        s = (value + 0.1) / 1.2
        return 1 / (1 + math.exp(log_alpha - 2 / 3 * math.log(s / (1 - s))))

    for value in (0.0, 0.3, 0.5, 0.9):
        assert (z <= value).float().mean().item() == pytest.approx(below(value), abs=0.004)
    assert gates.keep()[UNITS][0].item() == pytest.approx(1 - below(0.5), abs=1e-6)
    assert gates.keep()[UNITS][0].item() == pytest.approx(z.mean().item(), abs=0.03)


def test_the_deterministic_gate_is_the_median_of_samples(groups: Groups) -> None:
    for log_alpha in (-2.0, -1.0, 0.3, 1.2, 2.0):
        gates, random = at(groups, log_alpha), generator()
        z = torch.cat([gates.sample(random)[UNITS].detach() for _ in range(100)])
        assert gates.deterministic()[UNITS][0].item() == pytest.approx(z.median().item(), abs=0.01)


def test_samples_pull_gates_towards_what_lowers_the_loss(groups: Groups) -> None:
    gates, random = at(groups, 0.0), generator()
    target = (torch.arange(1000) % 2).float()
    loss = sum((gates.sample(random)[UNITS] - target).square().sum() for _ in range(100))
    (gradient,) = torch.autograd.grad(loss, gates.fine)
    assert bool((gradient[target == 1] < 0).all())
    assert bool((gradient[target == 0] > 0).all())


def test_the_same_generator_gives_the_same_samples(groups: Groups) -> None:
    gates = Gates(groups, log_alpha=0.0)
    first, second = gates.sample(generator(3)), gates.sample(generator(3))
    assert all(torch.equal(first[name], second[name]) for name in groups)
    assert not torch.equal(first[UNITS], gates.sample(generator(4))[UNITS])


@pytest.mark.parametrize("kind", ["fine", "level"])
def test_a_gate_comes_back_from_either_end(groups: Groups, kind: str) -> None:
    for end in (-1e3, 1e3):
        gates = Gates(groups, [UNITS], 0.0)
        parameter = getattr(gates, kind)
        with torch.no_grad():
            parameter.fill_(end)
        gates.clamp_()
        gates.keep()[UNITS].sum().backward()
        assert parameter.grad is not None
        assert parameter.grad.min() > 1e-3
        assert gates.fine.abs().max() <= 2 * RANGE


def test_units_of_a_group_open_together_by_its_level_and_in_the_order_they_began_in(groups: Groups) -> None:
    other = "layers.1.feed_forward1.units"
    begin = torch.linspace(-60, 60, 1000)
    gates = Gates(groups, [UNITS, other], {UNITS: begin, other: begin})
    with torch.no_grad():
        gates.level[0] = 30.0
    assert gates.keep()[UNITS].sum().item() == pytest.approx(750, abs=1)
    assert gates.keep()[other].sum().item() == pytest.approx(500, abs=1)
    assert (gates.log_alpha()[UNITS].diff() > 0).all()


def test_each_kind_of_gate_learns_at_a_rate_of_its_own(groups: Groups) -> None:
    gates = Gates(groups)
    optimizer = torch.optim.Adam(gates.parameter_groups(0.1))
    before = {name: values.detach().clone() for name, values in gates.named_parameters()}
    gates.expected_counts().sum().backward()
    optimizer.step()
    for name, values in gates.named_parameters():
        torch.testing.assert_close(values, before[name] - 0.1 * RATES[name], atol=1e-5, rtol=0)
    assert len(Gates(groups, [UNITS]).parameter_groups(0.1)) == 2


def random_gates(groups: Groups, seed: int, low: float = 0.3, high: float = 0.99) -> Gates:
    log_alpha: dict[str, Tensor] = {
        name: (low + (high - low) * torch.rand(group.size, generator=generator(seed + row))).logit()
        for row, (name, group) in enumerate(groups.items())
    }
    return Gates(groups, log_alpha=log_alpha)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_expected_counts_at_once_are_those_of_each_group(
    make_recognizer: MakeRecognizer, family: str
) -> None:
    groups = find_groups(make_recognizer(family).model)
    gates = random_gates(groups, 0)
    torch.testing.assert_close(gates.expected_counts(), expected_counts(groups, gates.keep()))
    some = Gates(groups, list(groups)[1::2])
    torch.testing.assert_close(some.expected_counts(), expected_counts(groups, some.keep()))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expected_cost_is_the_mean_cost_of_sampled_plans(
    make_recognizer: MakeRecognizer, family: str
) -> None:
    """Units, modules and layers, each drawn by itself, a unit being there if all that it lies in is."""
    recognizer = make_recognizer(family, heads=8, units=24, channels=10)
    groups = find_groups(recognizer.model, min_layers=0)
    gates, random = random_gates(groups, 1), generator()
    for cost in (parameter_cost(groups), mac_cost(groups, recognizer.model, 0.3)):
        mean = expected(cost, groups, gates.keep()).item()
        assert cost.of(gates.expected_counts()).item() == pytest.approx(mean)
        drawn = []
        for _ in range(3000):
            masks = gates.sample(random)
            drawn.append(cost({name: int((mask > 0.5).sum()) for name, mask in masks.items()}))
        costs = torch.tensor(drawn, dtype=torch.double)
        standard_error = costs.std().item() / len(costs) ** 0.5
        # Besides chance, norms are counted as there while a unit is expected: a thousandth of the model.
        assert abs(costs.mean().item() - mean) < 4 * standard_error + 1e-3 * cost.dense


def test_what_is_drawn_costs_as_much_as_its_plan(make_recognizer: MakeRecognizer) -> None:
    groups = find_groups(make_recognizer("conformer", units=24).model, min_layers=0)
    gates, cost, random = random_gates(groups, 2), parameter_cost(groups), generator()
    for _ in range(20):
        kept = {name: mask.nonzero().flatten().tolist() for name, mask in gates.sample(random).items()}
        for name, group in groups.items():
            kept[name] = kept[name] or list(range(group.min_units))
        plan = PruningPlan.keep(groups, kept)
        assert cost(plan.counts()) == cost({name: len(units) for name, units in kept.items()})
