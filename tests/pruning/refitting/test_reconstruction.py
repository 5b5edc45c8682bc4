from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel

import secateur
from secateur.errors import SecateurError
from secateur.models.conformer import RelativeAttention
from secateur.pruning.refitting import front_end, reconstruction
from secateur.pruning.refitting.capture import capture
from secateur.pruning.refitting.front_end import front_lengths
from secateur.pruning.refitting.positions import RIDGES, every_distance
from secateur.pruning.refitting.reconstruction import (
    Inputs,
    alike,
    consumer_of,
    reconstruct,
)
from secateur.pruning.refitting.regression import Regression, outputs, windows
from secateur.recognizer import Recognizer
from secateur.speech.corpus import open_corpus
from secateur.speech.sampling import sample_batches
from secateur.speech.skips import SkipLog
from secateur.structure.axes import kept_positions
from secateur.structure.groups import Groups, find_groups
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model
from secateur.structure.surgery import Constant

MakeRecognizer = Callable[..., Recognizer]

FAMILIES: dict[str, dict[str, object]] = {
    "conformer": {},
    "conformer, separable": {"subsampling": "dw_striding", "conv_norm": "layer_norm", "use_bias": False},
    "parakeet": {},
    "wav2vec2": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    "wav2vec2, norms after": {"feat_extract_norm": "layer", "do_stable_layer_norm": False},
    "wav2vec2, norm over time": {"feat_extract_norm": "group", "do_stable_layer_norm": False},
}
in_every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def make(make_recognizer: MakeRecognizer) -> MakeRecognizer:
    def make(family: str, **settings: object) -> Recognizer:
        return make_recognizer(family.partition(",")[0], **{**FAMILIES[family], **settings})

    return make


def noise(recognizer: Recognizer, frames: float, seed: int) -> np.ndarray:
    samples = round(frames * recognizer.samples_per_frame)
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def speech(recognizer: Recognizer, *batches: Sequence[float]) -> list[Inputs]:
    """Batches of noise, of utterances with these numbers of frames."""
    batches = batches or ((60, 41.5, 33), (70, 50))
    waves = [[noise(recognizer, frames, seed) for seed, frames in enumerate(batch)] for batch in batches]
    if not recognizer.pads_cleanly:
        waves = [[wave] for batch in waves for wave in batch]
    return [recognizer.prepare(batch) for batch in waves]


@torch.no_grad()
def heard(model: PreTrainedModel, batches: Sequence[Inputs]) -> Tensor:
    """Logits at all real frames, [frames, vocabulary]."""
    found = []
    for batch in batches:
        logits, lengths = model(**batch).logits, front_lengths(model, batch)
        found += [row[:length] for row, length in zip(logits, lengths, strict=True)]
    return torch.cat(found)


def error(model: PreTrainedModel, teacher: PreTrainedModel, batches: Sequence[Inputs]) -> float:
    """The largest difference of a logit, as a fraction of the largest logit."""
    expected = heard(teacher, batches)
    return float((heard(model, batches) - expected).abs().max() / expected.abs().max())


def squared_error(model: PreTrainedModel, teacher: PreTrainedModel, batches: Sequence[Inputs]) -> float:
    return float((heard(model, batches) - heard(teacher, batches)).square().mean())


def random_plan(groups: Groups, seed: int) -> PruningPlan:
    """From every group of units that layers consume, about a third removed."""
    chance = random.Random(seed)
    return PruningPlan.keep(
        groups,
        {
            name: sorted(
                chance.sample(range(group.size), max(1, round(group.size * chance.uniform(0.5, 0.9))))
            )
            for name, group in groups.items()
            if group.size > 1
        },
    )


@torch.no_grad()
def double_units(model: PreTrainedModel, groups: Groups, names: Sequence[str]) -> PruningPlan:
    """Make the second half of each group a copy of its first half, and a plan that removes the copies."""
    half = {name: range(groups[name].size // 2) for name in names}
    doubled = {name: [*units, *units] for name, units in half.items()}
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for name, layout in groups.tensors.items():
        for index, dim in enumerate(layout.dims):
            positions = kept_positions(dim, doubled)
            if positions is not None:
                tensors[name].copy_(tensors[name].index_select(index, positions))
    return PruningPlan.keep(groups, half)


@torch.no_grad()
def refit_by_definition(
    student: PreTrainedModel, teacher: PreTrainedModel, plan: PruningPlan, batches: Sequence[Inputs]
) -> None:
    """For every module in turn, both models are run from the audio on; positions are refitted first, over all pairs of frames."""
    groups = find_groups(teacher, width="width" in plan.kept)
    kept = plan.resolved(groups).kept
    layers = groups.family.layers
    stay = [path for name, path in groups.layers.items() if kept.get(name, (0,))]
    moved = {f"{path}.": f"{layers}.{index}." for index, path in enumerate(stay)}
    sites = [
        site.module for name in kept if name != "width" for site in groups[name].sites if site.side == "input"
    ]
    branches = {branch.path: branch for branch in groups.branches.values()}
    # A layer aims at where the last of the gone layers behind it leads, and closes as that one does.
    paths = list(groups.layers.values())
    ends = [paths.index(path) - 1 for path in stay[1:]] + [len(paths) - 1]
    modules = [path for path, _ in teacher.named_modules() if path in branches]
    beyond = {}
    for index, (path, end) in enumerate(zip(stay, ends, strict=True)):
        one, other = (
            [name for name in modules if name.startswith(f"{home}.")] for home in (path, paths[end])
        )
        beyond[one[-1]] = branches[other[-1]]
        if groups.family.closing is not None and paths[end] != path:
            taught = teacher.get_submodule(f"{paths[end]}.{groups.family.closing}")
            closing = student.get_submodule(f"{layers}.{index}.{groups.family.closing}")
            width = list(kept.get("width", range(len(taught.weight))))
            closing.load_state_dict({name: value[width] for name, value in taught.state_dict().items()})
    for path in groups.selects:
        table, share = every_distance(teacher)
        home = next((home for home in moved if path.startswith(home)), None)
        if home is None or not isinstance(
            student.get_submodule(moved[home] + "self_attn"), RelativeAttention
        ):
            continue
        taught, module = teacher.get_submodule(path), student.get_submodule(path.replace(home, moved[home]))
        rows = kept_positions(groups.tensors[f"{path}.weight"].dims[0], kept)
        y = taught(table.to(taught.weight)).double()
        x, y = table[:, module.columns], y if rows is None else y[:, rows]
        # The least squares of rows weighed by their shares, with an intercept that is thrown away.
        x, y = (torch.cat([each, each.new_ones(len(each), 1)], 1) for each in (x, y))
        x, y = (each * share.sqrt()[:, None] for each in (x, y))
        pull = RIDGES[0] * (x[:, :-1].square().sum(0) - (x[:, -1:] * x[:, :-1]).sum(0).square()).mean()
        system = x.T @ x
        system[range(len(system) - 1), range(len(system) - 1)] += pull
        right = x.T @ y[:, :-1]
        right[:-1] += pull * module.weight.double().T
        module.weight.copy_(torch.linalg.solve(system, right)[:-1].T)
    for path, _ in list(teacher.named_modules()):
        if path in sites and not path.startswith(layers):
            taught, module = teacher.get_submodule(path), student.get_submodule(path)
            regression = Regression(module, reconstruction.RIDGES)
            turns = itertools.cycle([False, False, False, True])
            channels = kept_positions(groups.tensors[f"{path}.weight"].dims[0], kept)
            for batch in batches:
                x = windows(module, capture(student, batch, {"x": (module, "input")})["x"])
                y = outputs(taught, capture(teacher, batch, {"y": (taught, "output")})["y"])
                y = y if channels is None else y[..., channels]
                for row, length in enumerate(front_lengths(teacher, batch, taught)):
                    one = x[row, :length].reshape(-1, module.weight[0].numel())
                    regression.add(one, y[row, :length].flatten(0, -2), held_out=next(turns))
            regression.solve()
        home = next((home for home in moved if path.startswith(home)), None)
        if path not in branches or home is None:
            continue
        branch = branches[path]
        own = path.replace(home, moved[home])
        tap = consumer = student.get_submodule(own)
        if next(consumer.parameters(), None) is None:
            continue
        shown = beyond.get(path, branch)
        taught, above = (
            teacher.get_submodule(name) for name in (consumer_of(groups, shown), shown.norm or shown.path)
        )
        if not isinstance(consumer, Constant):
            consumer = student.get_submodule(consumer_of(groups, branch).replace(home, moved[home]))
            tap = student.get_submodule((branch.norm or path).replace(home, moved[home]))
        regression = Regression(consumer, reconstruction.RIDGES)
        turns = itertools.cycle([False, False, False, True])
        stays = kept.get("width", slice(None))
        for batch in batches:
            seen = capture(student, batch, {"stream": (tap, "input"), "x": (consumer, "input")})
            aim = capture(teacher, batch, {"stream": (above, "input"), "y": (taught, "output")})
            target = (outputs(taught, aim["y"]) + aim["stream"] / shown.scale)[..., stays]
            if shown is not branch:
                own = (
                    teacher.get_submodule(consumer_of(groups, branch)),
                    teacher.get_submodule(branch.norm or path),
                )
                here = capture(teacher, batch, {"y": (own[0], "output"), "stream": (own[1], "input")})
                near = (outputs(own[0], here["y"]) + here["stream"] / branch.scale)[..., stays]
                target = alike(target, near) if groups.family.closing else target * shown.scale / branch.scale
            target = target - seen["stream"] / branch.scale
            x = windows(consumer, seen["x"]).flatten(2)
            for row, length in enumerate(front_lengths(teacher, batch)):
                regression.add(x[row, :length], target[row, :length], held_out=next(turns))
        regression.solve()


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *itertools.product(FAMILIES, ["units", "modules and layers", "last layers", "pruned before"]),
        *itertools.product(["conformer", "conformer, separable"], ["width", "width, last layers"]),
    ],
)
def test_it_does_what_its_definition_says(
    make: MakeRecognizer, family: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_end, "ROWS_PER_INPUT", 10**9)
    recognizer = make(family, layers=3)
    teacher, batches = recognizer.model, speech(recognizer)
    first, *_, last = [name for name in find_groups(teacher).branches if name.startswith("layers.1.")]
    if kind == "pruned before":
        bare = {f"layers.0.{last.split('.')[-1]}.units": [], first: []}
        teacher = slice_model(teacher, PruningPlan.keep(find_groups(teacher), bare))
    groups = find_groups(teacher, width="width" in kind)
    kept = dict(random_plan(groups, 3).kept)
    if kind == "modules and layers":
        kept |= {"layers.0": [], first: [], f"layers.2.{last.split('.')[-1]}.units": []}
    if "last layers" in kind:
        kept |= {"layers.1": [], "layers.2": []}
    plan = PruningPlan.keep(groups, kept)
    student, expected = slice_model(teacher, plan), slice_model(teacher, plan)
    reconstruct(student, teacher, plan, batches)
    refit_by_definition(expected, teacher, plan, batches)
    for (name, one), other in zip(student.named_parameters(), expected.parameters(), strict=True):
        assert (one - other).abs().max() < 1e-8 * max(1, other.abs().max()), name


@in_every_family
def test_a_plan_that_removes_nothing_leaves_the_logits(make: MakeRecognizer, family: str) -> None:
    recognizer = make(family)
    teacher, batches = recognizer.model, speech(recognizer)
    student = slice_model(teacher, PruningPlan.keep(find_groups(teacher), {}))
    reconstruct(student, teacher, PruningPlan.keep(find_groups(teacher), {}), batches)
    assert error(student, teacher, batches) < 1e-6


@in_every_family
def test_removed_copies_are_made_up_for_exactly(make: MakeRecognizer, family: str) -> None:
    recognizer = make(family)
    teacher, batches = recognizer.model, speech(recognizer)
    groups = find_groups(teacher)
    # Half of a query and half of a key lose their product, which no single layer can make up for; columns of a table are no copies.
    others = ("query/key width", "position features")
    names = [name for name, group in groups.items() if group.size > 1 and group.kind not in others]
    assert len({groups[name].kind for name in names}) >= 3
    plan = double_units(teacher, groups, names)
    student = slice_model(teacher, plan)
    assert error(student, teacher, batches) > 1e-2
    reconstruct(student, teacher, plan, batches, ridges=[1e-12])
    assert error(student, teacher, batches) < 1e-6


def test_the_consumer_of_removed_copies_counts_the_rest_twice(make: MakeRecognizer) -> None:
    recognizer = make("conformer", layers=1)
    teacher, batches = recognizer.model, speech(recognizer)
    plan = double_units(teacher, find_groups(teacher), ["layers.0.feed_forward1.units"])
    student = slice_model(teacher, plan)
    before = student.encoder.layers[0].feed_forward1.linear2.weight.clone()
    reconstruct(student, teacher, plan, batches, ridges=[1e-12])
    after = student.encoder.layers[0].feed_forward1.linear2.weight
    assert torch.allclose(after, 2 * before, atol=1e-6)


def test_positions_are_right_for_longer_speech_than_was_heard(make: MakeRecognizer) -> None:
    recognizer = make("conformer", width=64)
    teacher, batches = recognizer.model, speech(recognizer, (60, 50), (70,))
    table, _ = every_distance(teacher)
    before = teacher.encoder.layers[0].self_attn.relative_k_proj
    # Columns of sines and cosines that turn slowly are hardly told from each other.
    columns = [*range(40), 63]
    plan = PruningPlan.keep(find_groups(teacher), {"layers.0.self_attn.positions": columns})
    student = slice_model(teacher, plan)

    @torch.no_grad()
    def off() -> float:
        """How far positions are off, but for what is the same for all of them."""
        right = before(table.to(before.weight))
        apart = student.encoder.layers[0].self_attn.relative_k_proj(table.to(before.weight)) - right
        return float((apart - apart.mean(0)).square().sum() / (right - right.mean(0)).square().sum())

    sliced = off()
    reconstruct(student, teacher, plan, batches)
    assert off() < 0.7 * sliced


def test_what_has_learned_since_it_was_sliced_keeps_its_positions(make: MakeRecognizer) -> None:
    recognizer = make("conformer")
    teacher, batches = recognizer.model, speech(recognizer)
    kept = {f"layers.{layer}.self_attn.positions": range(8) for layer in range(2)}
    plan = PruningPlan.keep(find_groups(teacher), kept)
    student = slice_model(teacher, plan)
    one, other = (layer.self_attn.relative_k_proj for layer in student.encoder.layers)
    with torch.no_grad():
        one.weight.mul_(1.1)
    before = one.weight.clone(), other.weight.clone()
    reconstruct(student, teacher, plan, batches)
    assert torch.equal(one.weight, before[0])
    assert not torch.equal(other.weight, before[1])


@in_every_family
@pytest.mark.parametrize("seed", range(3))
def test_a_random_plan_is_nearer_to_the_teacher_afterwards(
    make: MakeRecognizer, family: str, seed: int
) -> None:
    recognizer = make(family, seed=seed)
    teacher, batches = recognizer.model, speech(recognizer)
    plan = random_plan(find_groups(teacher), seed)
    student = slice_model(teacher, plan)
    before = squared_error(student, teacher, batches)
    reconstruct(student, teacher, plan, batches)
    assert squared_error(student, teacher, batches) < before


@pytest.mark.parametrize("family", [name for name in FAMILIES if "norm over time" not in name])
def test_padding_never_counts(make: MakeRecognizer, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = make(family)
    monkeypatch.setattr(front_end, "ROWS_PER_INPUT", 10**9)
    teacher = recognizer.model
    plan = random_plan(find_groups(teacher), 0)
    padded, alone = slice_model(teacher, plan), slice_model(teacher, plan)
    waves = [noise(recognizer, frames, seed) for seed, frames in enumerate([80, 33.3, 50.7])]
    reconstruct(padded, teacher, plan, [recognizer.prepare(waves)])
    reconstruct(alone, teacher, plan, [recognizer.prepare([wave]) for wave in waves])
    for (name, one), other in zip(padded.named_parameters(), alone.parameters(), strict=True):
        assert (one - other).abs().max() < 1e-8, name


@in_every_family
@settings(max_examples=8)
@given(frames=st.lists(st.floats(2, 60), min_size=1, max_size=4))
def test_real_frames_are_those_that_an_utterance_has_alone(
    make_recognizer: MakeRecognizer, family: str, frames: list[float]
) -> None:
    recognizer = make_recognizer(family.partition(",")[0], layers=1, **FAMILIES[family])
    model = recognizer.model
    waves = [noise(recognizer, count, seed) for seed, count in enumerate(frames)]
    together, alone = recognizer.prepare(waves), [recognizer.prepare([wave]) for wave in waves]
    lengths = front_lengths(model, together).tolist()
    assert lengths == recognizer.logits(waves)[1].tolist()
    assert lengths == [model(**single).logits.shape[1] for single in alone]
    for module in model.modules():
        if isinstance(module, nn.Linear):
            break
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            seen = [capture(model, single, {"y": (module, "output")})["y"].shape[2] for single in alone]
            assert front_lengths(model, together, module).tolist() == seen


@in_every_family
def test_removed_modules_and_layers_and_lone_biases_are_made_up_for(
    make: MakeRecognizer, family: str
) -> None:
    recognizer = make(family, layers=4)
    teacher, batches = recognizer.model, speech(recognizer)
    attention, forward = (
        ("attention", "feed_forward") if "wav2vec2" in family else ("self_attn", "feed_forward2")
    )
    plan = PruningPlan.keep(
        find_groups(teacher),
        {
            "layers.0": [],
            f"layers.1.{forward}.units": [],
            f"layers.2.{attention}": [],
            f"layers.2.{forward}.units": [0],
            f"layers.3.{attention}.heads": [],
        },
    )
    student = slice_model(teacher, plan)
    before = squared_error(student, teacher, batches)
    reconstruct(student, teacher, plan, batches)
    assert squared_error(student, teacher, batches) < before


@in_every_family
def test_a_layer_stands_in_for_those_behind_it_that_are_gone(make: MakeRecognizer, family: str) -> None:
    recognizer = make(family, layers=3)
    teacher, batches = recognizer.model, speech(recognizer)
    groups = find_groups(teacher)
    # The two layers that go do nothing, but that they scale the stream where it goes through norms.
    with torch.no_grad():
        for index, path in enumerate(groups.layers.values()):
            layer = teacher.get_submodule(path)
            for norm in layer.modules():
                if isinstance(norm, nn.LayerNorm):
                    norm.weight.fill_(3.0**index)
                    norm.bias.zero_()
            for branch in groups.branches.values():
                if index and branch.path.startswith(f"{path}."):
                    for parameter in teacher.get_submodule(consumer_of(groups, branch)).parameters():
                        parameter.zero_()
    plan = PruningPlan.keep(groups, {"layers.1": [], "layers.2": []})
    student = slice_model(teacher, plan)
    reconstruct(student, teacher, plan, batches)
    # Two norms in a row are one but for the small number that each adds to the variance.
    assert error(student, teacher, batches) < 1e-3


def test_a_lone_bias_becomes_the_mean_of_what_it_stands_for(make: MakeRecognizer) -> None:
    recognizer = make("conformer", layers=1)
    teacher, batches = recognizer.model, speech(recognizer)
    # What is removed is constant, so a bias can stand for all of it.
    with torch.no_grad():
        teacher.encoder.layers[0].feed_forward1.linear2.weight.zero_()
    plan = PruningPlan.keep(find_groups(teacher), {"layers.0.feed_forward1.units": []})
    student = slice_model(teacher, plan)
    with torch.no_grad():
        student.encoder.layers[0].feed_forward1.bias.normal_()
    reconstruct(student, teacher, plan, batches)
    assert torch.allclose(
        student.encoder.layers[0].feed_forward1.bias, teacher.encoder.layers[0].feed_forward1.linear2.bias
    )
    assert error(student, teacher, batches) < 1e-9


@in_every_family
def test_a_model_that_was_pruned_before_is_refitted_too(make: MakeRecognizer, family: str) -> None:
    recognizer = make(family, layers=2)
    batches = speech(recognizer)
    attention = "attention" if "wav2vec2" in family else "self_attn"
    first = {"layers.0.feed_forward.units" if "wav2vec2" in family else "layers.0.feed_forward1.units": []}
    first[f"layers.1.{attention}"] = []
    teacher = slice_model(recognizer.model, PruningPlan.keep(find_groups(recognizer.model), first))
    plan = random_plan(find_groups(teacher), 1)
    student = slice_model(teacher, plan)
    before = squared_error(student, teacher, batches)
    reconstruct(student, teacher, plan, batches)
    assert squared_error(student, teacher, batches) < before


def test_a_narrower_residual_stream_is_refitted_too(make: MakeRecognizer) -> None:
    recognizer = make("conformer")
    teacher, batches = recognizer.model, speech(recognizer)
    groups = find_groups(teacher, width=True)
    plan = PruningPlan.keep(groups, {**random_plan(groups, 0).kept, "width": range(15)})
    student = slice_model(teacher, plan)
    before = squared_error(student, teacher, batches)
    reconstruct(student, teacher, plan, batches)
    assert squared_error(student, teacher, batches) < before


@in_every_family
def test_steps_of_each_block_bring_it_nearer_on_speech_that_was_not_heard(
    make: MakeRecognizer, family: str
) -> None:
    recognizer = make(family, layers=3)
    teacher = recognizer.model
    *batches, unheard = speech(recognizer, *[[55 + i, 48 + i, 60 + i, 52 + i] for i in range(7)])
    plan = PruningPlan.keep(
        find_groups(teacher), {**random_plan(find_groups(teacher), 2).kept, "layers.1": []}
    )
    refitted, settled = slice_model(teacher, plan), slice_model(teacher, plan)
    reconstruct(refitted, teacher, plan, batches)
    reconstruct(settled, teacher, plan, batches, steps=150)
    # Random weights leave little to learn in some families; in none may it do much harm.
    most = 1.0 if family.startswith("conformer") else 2.0
    assert squared_error(settled, teacher, [unheard]) < most * squared_error(refitted, teacher, [unheard])
    assert not any(parameter.grad is not None for parameter in settled.parameters())


@in_every_family
def test_steps_move_weights_of_all_kinds_where_they_bring_the_stream_nearer(
    make: MakeRecognizer, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = make(family, layers=2)
    teacher, batches = (
        recognizer.model,
        speech(recognizer, *[[55 + i, 48 + i, 60 + i, 52 + i] for i in range(4)]),
    )
    groups = find_groups(teacher)
    # Of pre-norm layers nothing at all is left where all modules are gone.
    gone: dict[str, Sequence[int]] = {name: [] for name in groups.branches if name.startswith("layers.1.")}
    plan = PruningPlan.keep(groups, {**random_plan(groups, 2).kept, **gone})
    refitted, settled = slice_model(teacher, plan), slice_model(teacher, plan)
    reconstruct(refitted, teacher, plan, batches)
    # All that is learned stays, whatever it is worth.
    distances = iter(range(1000))
    monkeypatch.setattr(reconstruction.Reconstruction, "_apart", lambda *_: next(distances))
    reconstruct(settled, teacher, plan, batches, steps=2)
    before = dict(refitted.named_parameters())
    moved = {name for name, value in settled.named_parameters() if not torch.equal(value, before[name])}
    layers = f"{groups.family.layers}."
    assert any(name.startswith(f"{layers}0.") and "norm" in name for name in moved)
    assert any(not name.startswith(layers) for name in moved)
    assert not any("head" in name for name in moved)


def test_what_steps_bring_no_nearer_stays_as_it_was_refitted(
    make: MakeRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = make("conformer")
    teacher, batches = recognizer.model, speech(recognizer)
    plan = random_plan(find_groups(teacher), 0)
    refitted, worse, alone = (slice_model(teacher, plan) for _ in range(3))
    reconstruct(refitted, teacher, plan, batches)

    def spoil(parameters: Sequence[nn.Parameter], *_: object) -> None:
        for parameter in parameters:
            parameter.mul_(2)

    monkeypatch.setattr(reconstruction, "settle", spoil)
    reconstruct(worse, teacher, plan, batches, steps=3)
    for one, other in zip(refitted.parameters(), worse.parameters(), strict=True):
        assert torch.equal(one, other)
    # Of fewer than four utterances none is held out, so that nothing could tell.
    reconstruct(alone, teacher, plan, batches[:1], steps=3)
    reconstruct(refitted := slice_model(teacher, plan), teacher, plan, batches[:1])
    for one, other in zip(refitted.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)


@in_every_family
def test_a_seed_decides_everything_that_is_drawn(
    make: MakeRecognizer, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_end, "ROWS_PER_INPUT", 2)
    recognizer = make(family)
    teacher, batches = recognizer.model, speech(recognizer)
    plan = random_plan(find_groups(teacher), 0)
    students = []
    for seed in (7, 7, 8):
        torch.manual_seed(len(students))
        students.append(slice_model(teacher, plan))
        reconstruct(students[-1], teacher, plan, batches, steps=2, seed=seed)
    one, again, other = (list(student.parameters()) for student in students)
    assert all(torch.equal(x, y) for x, y in zip(one, again, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("training", [False, True])
def test_the_teacher_and_the_modes_of_both_stay_as_they_were(make: MakeRecognizer, training: bool) -> None:
    recognizer = make("conformer")
    teacher, batches = recognizer.model, speech(recognizer)
    plan = random_plan(find_groups(teacher), 0)
    student = slice_model(teacher, plan)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student.train(training)
    teacher.train(not training)
    reconstruct(student, teacher, plan, batches)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(tensor.is_contiguous() for tensor in teacher.parameters())
    assert all(module.training == training for module in student.modules())
    assert all(module.training != training for module in teacher.modules())


@in_every_family
def test_the_model_can_be_trained_afterwards(make: MakeRecognizer, family: str) -> None:
    recognizer = make(family)
    teacher, batches = recognizer.model, speech(recognizer)
    plan = random_plan(find_groups(teacher), 0)
    student = slice_model(teacher, plan)
    reconstruct(student, teacher, plan, batches)
    student(**batches[0]).logits.square().sum().backward()
    assert all(
        parameter.is_contiguous() and not parameter.is_inference() for parameter in student.parameters()
    )
    assert sum(parameter.grad is not None for parameter in student.parameters()) > 10


def test_progress_rises_to_one(make: MakeRecognizer) -> None:
    recognizer = make("conformer", layers=3)
    teacher, told = recognizer.model, []
    plan = random_plan(find_groups(teacher), 0)
    reconstruct(slice_model(teacher, plan), teacher, plan, speech(recognizer), progress=told.append)
    assert told == sorted(set(told))
    assert told[-1] == 1
    assert len(told) > 3


def test_no_audio_is_refused(make: MakeRecognizer) -> None:
    teacher = make("conformer").model
    plan = random_plan(find_groups(teacher), 0)
    with pytest.raises(SecateurError, match="no audio to reconstruct on"):
        reconstruct(slice_model(teacher, plan), teacher, plan, [])


def test_seconds_of_speech_bring_the_real_conformer_back_on_speech_it_has_not_heard(shared: Path) -> None:
    recognizer = secateur.load(shared / "models" / "conformer-ctc-small.nemo")
    corpus = open_corpus(shared / "data" / "librispeech" / "fit")
    waves = sample_batches(corpus, 0.8, recognizer.sample_rate, 15.0, seed=0, skips=SkipLog())
    *batches, unheard = [recognizer.prepare(batch) for batch in waves]
    teacher = recognizer.model
    groups = find_groups(teacher)
    kept = {name: range(3 * group.size // 4) for name, group in groups.items() if name.endswith(".units")}
    plan = PruningPlan.keep(groups, kept)
    sliced, overfitted, student = (slice_model(teacher, plan) for _ in range(3))
    reconstruct(overfitted, teacher, plan, batches, ridges=[1e-3])
    reconstruct(student, teacher, plan, batches)
    before, weak, after = (
        squared_error(model, teacher, [unheard]) for model in (sliced, overfitted, student)
    )
    assert after < 0.6 * min(before, weak)
