from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from secateur.errors import SecateurError
from secateur.structure.groups import Groups, find_groups
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model

MakeModel = Callable[..., PreTrainedModel]


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> PreTrainedModel:
    return make_model("conformer", layers=3)


@pytest.fixture(scope="module")
def groups(model: PreTrainedModel) -> Groups:
    return find_groups(model)


def test_three_lines_make_a_smaller_model(model: PreTrainedModel) -> None:
    groups = find_groups(model)
    plan = PruningPlan.keep(groups, {"layers.0.feed_forward1.units": range(7), "layers.2": []})
    smaller = slice_model(model, plan)

    assert smaller.encoder.layers[0].feed_forward1.linear1.out_features == 7
    assert len(smaller.encoder.layers) == 2


def test_a_plan_is_json_that_a_person_can_read(groups: Groups) -> None:
    kept = {"layers.0.feed_forward1.units": [5, 0, 1, 2, 9], "layers.1.conv": []}
    assert json.loads(PruningPlan.keep(groups, kept).to_json()) == {
        "format": "secateur-plan",
        "version": 1,
        "family": "conformer",
        "fingerprint": groups.fingerprint,
        "layers": 3,
        "kept": {"layers.0.feed_forward1.units": "0-2,5,9 of 20", "layers.1.conv": "none of 1"},
    }


def test_a_saved_plan_loads_as_it_was(groups: Groups, tmp_path: Path) -> None:
    plan = PruningPlan.keep(groups, {"layers.0.self_attn.heads": [1, 3], "subsampling.2.channels": [0]})
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json", groups) == plan
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@given(st.sets(st.integers(0, 60)))
def test_ranges_say_exactly_which_units(units: set[int]) -> None:
    plan = PruningPlan(
        "conformer", "0123456789ab", 1, {"layers.0.units": tuple(sorted(units))}, {"layers.0.units": 61}
    )
    assert PruningPlan.from_json(plan.to_json()) == plan


def test_what_says_nothing_new_is_left_out(groups: Groups) -> None:
    plan = PruningPlan.keep(
        groups,
        {
            "layers.0.feed_forward1.units": range(20),  # whole
            "layers.1": [],
            "layers.1.conv.channels": [0],  # inside a layer that goes
            "layers.2.self_attn.heads": [],
            "layers.2.self_attn.value": [1],  # inside a module without heads
            "layers.2.feed_forward2": [],
            "layers.2.feed_forward2.units": [],  # inside a module that goes
        },
    )
    assert plan.kept == {"layers.1": (), "layers.2.self_attn.heads": (), "layers.2.feed_forward2": ()}


def test_a_module_without_units_and_without_bias_is_a_module_that_goes(make_model: MakeModel) -> None:
    groups = find_groups(make_model("conformer", use_bias=False))
    assert PruningPlan.keep(groups, {"layers.0.conv.channels": []}).kept == {"layers.0.conv": ()}


def test_masks_are_ones_at_what_stays(groups: Groups) -> None:
    plan = PruningPlan.keep(groups, {"layers.0.self_attn.heads": [1, 3], "layers.1": []})
    masks = plan.masks(torch.float64)
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "layers.0.self_attn.heads": [0.0, 1.0, 0.0, 1.0],
        "layers.1": [0.0],
    }
    assert plan.counts() == {"layers.0.self_attn.heads": 2, "layers.1": 0}


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        ({"layers.0.feed_forward1.unit": [1]}, "did you mean layers.0.feed_forward1.units?"),
        (
            {"layers.0.self_attn.heads": [4]},
            "keeps unit 4 of layers.0.self_attn.heads, whose units are 0 to 3",
        ),
        ({"subsampling.0.channels": []}, "keeps 0 units of subsampling.0.channels; at least 1 must stay"),
        ({"layers.0": [], "layers.1": [], "layers.2": []}, "keeps 0 layers; at least 1 must stay"),
    ],
)
def test_a_plan_that_asks_for_what_the_model_has_not_is_refused(
    groups: Groups, kept: dict[str, list[int]], sentence: str
) -> None:
    with pytest.raises(SecateurError) as error:
        PruningPlan.keep(groups, kept)
    assert sentence in str(error.value)


def test_a_plan_of_another_model_is_refused_with_both_named(
    groups: Groups, make_model: MakeModel, tmp_path: Path
) -> None:
    PruningPlan.keep(groups, {"layers.0": []}).save(tmp_path / "plan.json")
    other = make_model("conformer", layers=2)
    with pytest.raises(SecateurError) as error:
        PruningPlan.load(tmp_path / "plan.json", find_groups(other))
    assert str(error.value).startswith(
        f"{tmp_path}/plan.json was made for a 3-layer conformer model (fingerprint {groups.fingerprint}), this one is a "
        "2-layer conformer"
    )
    with pytest.raises(SecateurError, match="was made for a 3-layer"):
        slice_model(other, PruningPlan.load(tmp_path / "plan.json"))


def damaged(groups: Groups, **changes: object) -> str:
    plan = json.loads(PruningPlan.keep(groups, {"layers.0.conv.channels": [1, 2]}).to_json())
    return json.dumps({**plan, **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": "something"}, "is no pruning plan"),
        ({"version": 2}, "is of version 2, this Secateur reads version 1"),
        ({"layers": None}, "is damaged: its 'layers' is missing or wrong"),
        ({"kept": {"layers.0.conv.channels": "1-2"}}, "does not read like"),
        ({"kept": {"layers.0.conv.channels": [1, 2]}}, "does not read like"),
        ({"kept": {"layers.0.conv.channels": "1-2 of 17"}}, "says that layers.0.conv.channels has 17 units"),
        (
            {"kept": {"layers.0.conv.channels": "1-200 of 16"}},
            "layers.0.conv.channels keeps 1-200 of 16 units",
        ),
        ({"kept": {"layers.0.conv.channels": "0-3,100 of 16"}}, "keeps 100 of 16 units, which are 0 to 15"),
        ({"kept": {"layers.0.conv.channels": "100-120 of 16"}}, "keeps 100-120 of 16 units"),
        ({"kept": {"layers.0.conv.channels": "0-3,9-7 of 16"}}, "keeps 9-7 of 16 units"),
        ({"kept": {"layers.9": "none of 1"}}, "names a group layers.9 that this model has not"),
    ],
)
def test_a_damaged_plan_is_refused_in_one_sentence(
    groups: Groups, tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    (tmp_path / "plan.json").write_text(damaged(groups, **changes))
    with pytest.raises(SecateurError) as error:
        PruningPlan.load(tmp_path / "plan.json", groups)
    assert sentence in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "plan.json"))


def test_half_a_plan_and_no_plan_are_refused(groups: Groups, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(damaged(groups)[:-40])
    with pytest.raises(SecateurError, match="is damaged"):
        PruningPlan.load(tmp_path / "plan.json")
    with pytest.raises(SecateurError, match=r"missing\.json cannot be read as a plan"):
        PruningPlan.load(tmp_path / "missing.json")
