"""What every later step stands on, for random models and random plans of every family."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from secateur.structure import counting
from secateur.structure.checkpoint import load_model, save_pruned
from secateur.structure.cost import mac_cost, parameter_cost
from secateur.structure.groups import Groups, find_groups
from secateur.structure.masking import masked
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model
from tiny_models import FAMILIES

MakeModel = Callable[..., PreTrainedModel]
Inputs = Callable[[PreTrainedModel], dict[str, Tensor]]

SIZES = {
    "layers": st.integers(1, 3),
    "heads": st.sampled_from([1, 2, 4]),
    "width": st.sampled_from([8, 16]),
    "units": st.integers(1, 24),
    "channels": st.integers(2, 7),
    "seed": st.integers(0, 1000),
}
MODELS = st.one_of(
    st.fixed_dictionaries(
        {
            "family": st.just("conformer"),
            "subsampling": st.sampled_from(["striding", "dw_striding"]),
            "subsampling_factor": st.sampled_from([2, 4, 8]),
            "conv_norm": st.sampled_from(["batch_norm", "layer_norm"]),
            "conv_context": st.sampled_from(["symmetric", "causal"]),
            "use_bias": st.booleans(),
            **SIZES,
        }
    ),
    st.fixed_dictionaries(
        {
            "family": st.just("parakeet"),
            "subsampling_factor": st.sampled_from([4, 8]),
            "attention_bias": st.booleans(),
            "convolution_bias": st.booleans(),
            **SIZES,
        }
    ),
    st.fixed_dictionaries(
        {
            "family": st.just("wav2vec2"),
            "do_stable_layer_norm": st.booleans(),
            "feat_extract_norm": st.sampled_from(["group", "layer"]),
            "conv_bias": st.booleans(),
            **SIZES,
        }
    ),
)
on_any_model = given(shape=MODELS, seed=st.integers(0, 10**6))


def random_plan(groups: Groups, seed: int) -> PruningPlan:
    """Some groups whole, some cut to any number of units, some to the fewest that there may be."""
    chance = random.Random(seed)
    kept = {}
    for name, group in groups.items():
        draw = chance.random()
        if group.size == 1:
            # One layer has to stay, and it is not always the same.
            if draw < 0.12 and group.min_units == 0 and name != f"layers.{seed % len(groups.layers)}":
                kept[name] = []
        elif draw < 0.6:
            fewest = chance.random() < 0.2
            count = group.min_units if fewest else chance.randint(group.min_units, group.size)
            kept[name] = chance.sample(range(group.size), count)
    return PruningPlan.keep(groups, kept)


def take_apart(
    make_model: MakeModel, shape: dict[str, object], seed: int
) -> tuple[PreTrainedModel, Groups, PruningPlan]:
    model = make_model(**shape)
    groups = find_groups(model, width=seed % 2 == 0)
    return model, groups, random_plan(groups, seed)


@on_any_model
@settings(max_examples=60)
@torch.no_grad()
def test_masked_equals_sliced(
    make_model: MakeModel, inputs_for: Inputs, shape: dict[str, object], seed: int
) -> None:
    model, groups, plan = take_apart(make_model, shape, seed)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        model = model.to(dtype)
        inputs = inputs_for(model)
        with masked(model, groups, plan.masks(dtype)):
            expected = model(**inputs).logits
        logits = slice_model(model, plan)(**inputs).logits
        scale = 1.0 if dtype is torch.float64 else expected.abs().max()
        assert (logits - expected).abs().max() <= tolerance * scale


@on_any_model
def test_the_cost_of_a_plan_is_the_cost_counted_on_the_sliced_model(
    make_model: MakeModel, shape: dict[str, object], seed: int
) -> None:
    model, groups, plan = take_apart(make_model, shape, seed)
    sliced = slice_model(model, plan)
    assert parameter_cost(groups)(plan.counts()) == counting.parameters(sliced)
    assert mac_cost(groups, model, 0.3)(plan.counts()) == counting.macs(sliced, 0.3)


@on_any_model
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@torch.no_grad()
def test_a_saved_model_loads_with_the_same_logits_bit_for_bit(
    make_model: MakeModel, inputs_for: Inputs, tmp_path: Path, shape: dict[str, object], seed: int
) -> None:
    model, _, plan = take_apart(make_model, shape, seed)
    sliced = slice_model(model.float(), plan)
    save_pruned(sliced, plan, tmp_path / "pruned")
    loaded = load_model(tmp_path / "pruned")
    inputs = inputs_for(sliced)
    assert torch.equal(loaded(**inputs).logits, sliced(**inputs).logits)
    assert loaded.config.secateur_structure == sliced.config.secateur_structure
    assert PruningPlan.load(tmp_path / "pruned" / "plan.json") == plan


@on_any_model
@torch.no_grad()
def test_a_sliced_model_can_be_sliced_again(
    make_model: MakeModel, inputs_for: Inputs, shape: dict[str, object], seed: int
) -> None:
    model, _, plan = take_apart(make_model, shape, seed)
    sliced = slice_model(model, plan)
    groups = find_groups(sliced, width=True)
    again = random_plan(groups, seed + 1)
    inputs = inputs_for(model)
    with masked(sliced, groups, again.masks(torch.float64)):
        expected = sliced(**inputs).logits
    smaller = slice_model(sliced, again)
    assert (smaller(**inputs).logits - expected).abs().max() <= 1e-9
    assert parameter_cost(groups)(again.counts()) == counting.parameters(smaller)
    assert mac_cost(groups, sliced, 0.3)(again.counts()) == counting.macs(smaller, 0.3)


@on_any_model
@settings(max_examples=60)
@torch.no_grad()
def test_one_plan_after_another_is_a_plan(make_model: MakeModel, shape: dict[str, object], seed: int) -> None:
    model, groups, plan = take_apart(make_model, shape, seed)
    sliced = slice_model(model, plan)
    later = random_plan(find_groups(sliced, width=seed % 2 == 0), seed + 1)
    twice = slice_model(sliced, later)
    once = slice_model(model, plan.then(later, groups))
    assert once.config.secateur_structure == twice.config.secateur_structure
    expected = twice.state_dict()
    assert once.state_dict().keys() == expected.keys()
    for name, tensor in once.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


IN_A_FRESH_PROCESS = """
import sys

class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {absent!r}:
            raise ImportError(name)

sys.meta_path.insert(0, Absent())
import torch
torch.set_num_threads(1)
{load}
for folder, data in {folders!r}.items():
    model = load(folder).eval()
    inputs, expected = torch.load(data, weights_only=True)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, expected), folder
        model.save_pretrained(folder + "-again")
        again = load(folder + "-again").eval()
        assert torch.equal(again(**inputs).logits, expected), folder + "-again"
    if "secateur" in {absent!r}:
        # Each folder's own code.
        assert type(again).__module__ != type(model).__module__
assert not any(name.startswith(("secateur.pruning", "secateur.training")) for name in sys.modules)
"""
BY_SECATEUR = "from secateur.structure.checkpoint import load_model as load"
BY_TRANSFORMERS = """
from functools import partial
from transformers import AutoModelForCTC
load = partial(AutoModelForCTC.from_pretrained, trust_remote_code=True)
"""


@pytest.mark.parametrize(
    ("load", "absent"),
    [(BY_SECATEUR, []), (BY_TRANSFORMERS, ["secateur"]), (BY_SECATEUR + BY_TRANSFORMERS, [])],
    ids=["secateur", "transformers", "transformers beside secateur"],
)
def test_a_fresh_process_loads_it_with_secateur_and_without(
    make_model: MakeModel, inputs_for: Inputs, tmp_path: Path, load: str, absent: list[str]
) -> None:
    folders = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for family in FAMILIES:
        model, _, plan = take_apart(make_model, {"family": family, "layers": 3}, seed=4)
        sliced = slice_model(model.float(), plan)
        folder, data = str(tmp_path / family), str(tmp_path / f"{family}.pt")
        save_pruned(sliced, plan, folder)
        inputs = inputs_for(sliced)
        with torch.no_grad():
            torch.save((inputs, sliced(**inputs).logits), data)
        folders[folder] = data
    torch.set_num_threads(threads)
    script = IN_A_FRESH_PROCESS.format(absent=absent, load=load, folders=folders)
    environment = os.environ | {
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
