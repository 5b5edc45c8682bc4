from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping

import pytest
import torch

from secateur.errors import SecateurError
from secateur.progress import ProgressBar
from secateur.pruning.compare import outsider
from secateur.pruning.learning.learned import Learned
from secateur.pruning.learning.method import LearnedMethod
from secateur.pruning.oneshot import OneShot
from secateur.pruning.planning.budget import Budget
from secateur.recognizer import Recognizer
from secateur.speech.pool import SpeechPool
from secateur.speech.skips import SkipLog
from secateur.structure.cost import CostModel, mac_cost, parameter_cost
from secateur.structure.counting import noise_input
from secateur.structure.groups import Groups, find_groups
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model
from secateur.training.workspace import Workspace
from tiny_models import FAMILIES

MakeRecognizer = Callable[..., Recognizer]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_torch_pruning_leaves_and_what_its_plan_slices_hear_the_same(
    make_recognizer: MakeRecognizer, family: str
) -> None:
    recognizer = make_recognizer(family)
    groups = find_groups(recognizer.model)
    inputs = noise_input(recognizer.model, 1.0)
    theirs = copy.deepcopy(recognizer.model)
    kept = outsider.keep_fraction(theirs, groups, inputs, 0.41)
    units = [name for name, group in groups.items() if group.kind == "feed-forward units"]
    assert sorted(kept) == sorted(units)
    assert {len(each) for each in kept.values()} == {8}
    assert len({tuple(each) for each in kept.values()}) > 1
    ours = slice_model(recognizer.model, PruningPlan.keep(groups, kept))
    with torch.no_grad():
        expected, found = theirs(**inputs).logits, ours(**inputs).logits
        whole = recognizer.model(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert not torch.allclose(found, whole, atol=1e-3)


def run(
    recognizer: Recognizer, groups: Groups, costs: Mapping[str, CostModel], budget: Budget
) -> LearnedMethod:
    """A run that is to be decided, on no speech."""
    pool = SpeechPool([], recognizer.sample_rate, SkipLog())
    return LearnedMethod(
        recognizer,
        groups,
        costs,
        budget,
        pool,
        [],
        OneShot(),
        Learned(rate=3e-4),
        Workspace(None),
        ProgressBar("", quiet=True),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_its_plan_keeps_as_much_of_every_feed_forward_module_as_the_budget_lets(
    make_recognizer: MakeRecognizer, family: str
) -> None:
    recognizer = make_recognizer(family, units=60)
    before = {name: tensor.clone() for name, tensor in recognizer.model.state_dict().items()}
    groups = find_groups(recognizer.model)
    costs = {"params": parameter_cost(groups), "macs": mac_cost(groups, recognizer.model, 2.0)}
    budget = Budget.parse("params=80%,macs=97%")
    counts = outsider.decide(run(recognizer, groups, costs, budget)).plan.resolved(groups).counts()
    assert len(set(counts.values())) == 1

    def meets(more: int) -> bool:
        kept = {name: count + more for name, count in counts.items()}
        shares = {"params": 0.8, "macs": 0.97}
        return all(costs[name](kept) <= share * costs[name].dense for name, share in shares.items())

    assert meets(0)
    assert not meets(1)
    for name, tensor in recognizer.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_budget_that_feed_forward_units_alone_cannot_meet_is_refused_in_a_sentence(
    make_recognizer: MakeRecognizer,
) -> None:
    recognizer = make_recognizer("conformer")
    groups = find_groups(recognizer.model)
    with pytest.raises(SecateurError) as caught:
        outsider.decide(
            run(recognizer, groups, {"params": parameter_cost(groups)}, Budget.parse("params=30%"))
        )
    assert str(caught.value).startswith(
        "of this model torch-pruning is let prune feed-forward units alone, by which the budget params=30% cannot be met: "
        "the smallest possible is params="
    )
    assert "\n" not in str(caught.value)


def test_without_torch_pruning_the_error_says_what_brings_it(
    make_recognizer: MakeRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    recognizer = make_recognizer("conformer")
    groups = find_groups(recognizer.model)
    with pytest.raises(SecateurError, match=r"torch-pruning is not installed: pip install '\.\[rivals\]'"):
        outsider.decide(
            run(recognizer, groups, {"params": parameter_cost(groups)}, Budget.parse("params=90%"))
        )
