from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from known_costs import expected
from secateur.files import cache_folder
from secateur.structure import latency as latency_module
from secateur.structure import part_times
from secateur.structure.counting import macs_by_module, noise_input
from secateur.structure.groups import Groups, find_groups
from secateur.structure.latency import WIDTHS, Latency, latency_cost
from secateur.structure.part_times import KeptTimes, PartTimes, measure_parts, parts_by_module
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model
from secateur.structure.surgery import Constant
from secateur.timing import threads
from tiny_models import FAMILIES

MakeModel = Callable[..., PreTrainedModel]
SECONDS = 0.4
START, PER_MAC, GONE, PASS = 1e-3, 1e-9, 1e-5, 1e-4


class Clock:
    """A device on which a part takes ``time(its multiply-accumulates)``, and what is left of one that is gone little."""

    def __init__(self, time: Callable[[float], float] = lambda macs: START + PER_MAC * macs) -> None:
        self.time = time

    def __call__(
        self,
        models: Sequence[PreTrainedModel],
        parts: Mapping[str, str],
        inputs: Mapping[str, Tensor],
        rounds: int,
    ) -> list[PartTimes]:
        return [self.read(model, parts) for model in models]

    def read(self, model: PreTrainedModel, parts: Mapping[str, str]) -> PartTimes:
        counted = macs_by_module(model, SECONDS)
        holders = {path.rpartition(".")[0] for path in parts}
        times = dict.fromkeys(parts.values(), 0.0)
        for path, module in model.named_modules():
            if isinstance(module, Constant) and path in parts:
                times[parts[path]] = GONE
            elif path in parts and path in holders:
                times[parts[path]] = PASS
            elif path in parts and counted.get(path):
                times[parts[path]] = self.time(counted[path])
        return times

    def whole(self, model: PreTrainedModel, parts: Mapping[str, str]) -> float:
        return sum(self.read(model, parts).values())


class Noise:
    """A device that takes any time for anything."""

    def __init__(self) -> None:
        self.readings = 0
        self._chance = random.Random(0)

    def __call__(
        self,
        models: Sequence[PreTrainedModel],
        parts: Mapping[str, str],
        inputs: Mapping[str, Tensor],
        rounds: int,
    ) -> list[PartTimes]:
        self.readings += 1
        return [{name: self._chance.random() for name in parts.values()} for _ in models]


LINEAR = Clock()
CURVED = Clock(lambda macs: 1e-3 * math.sqrt(macs))


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, make_model: MakeModel) -> PreTrainedModel:
    return make_model(request.param, layers=2, units=24, channels=8)


@pytest.fixture(scope="module")
def groups(model: PreTrainedModel) -> Groups:
    return find_groups(model)


@pytest.fixture(scope="module")
def linear(model: PreTrainedModel, groups: Groups, tmp_path_factory: pytest.TempPathFactory) -> Latency:
    return latency_cost(groups, model, SECONDS, folder=tmp_path_factory.mktemp("linear"), measure=LINEAR)


@pytest.fixture(scope="module")
def curved(model: PreTrainedModel, groups: Groups, tmp_path_factory: pytest.TempPathFactory) -> Latency:
    return latency_cost(groups, model, SECONDS, folder=tmp_path_factory.mktemp("curved"), measure=CURVED)


@pytest.fixture
def tiny(make_model: MakeModel) -> PreTrainedModel:
    return make_model("conformer", layers=1)


def random_plan(groups: Groups, seed: int) -> PruningPlan:
    chance = random.Random(seed)
    kept: dict[str, Sequence[int]] = {}
    for name, group in groups.items():
        if group.size == 1 and group.min_units == 0:
            # One layer has to stay, and it is not always the same.
            if chance.random() < 0.2 and name != f"layers.{seed % len(groups.layers)}":
                kept[name] = []
        else:
            kept[name] = range(chance.choice(group.counts()))
    return PruningPlan.keep(groups, kept)


def test_a_device_whose_time_is_linear_in_the_work_is_foretold_exactly(
    model: PreTrainedModel, groups: Groups, linear: Latency
) -> None:
    parts = parts_by_module(groups, model)
    assert linear.dense == pytest.approx(LINEAR.whole(model, parts), rel=1e-12)
    for seed in range(6):
        plan = random_plan(groups, seed)
        sliced = slice_model(model, plan)
        assert linear(plan.counts()) == pytest.approx(LINEAR.whole(sliced, parts), rel=1e-12)


@pytest.mark.parametrize("held", [{"min_heads": 1}, {"whole": ["layers.0.*"]}], ids=["heads", "a layer"])
def test_what_must_stay_is_measured_as_it_stays(
    model: PreTrainedModel, tmp_path: Path, held: dict[str, Any]
) -> None:
    groups = find_groups(model, **held)
    latency = latency_cost(groups, model, SECONDS, folder=tmp_path, measure=LINEAR)
    fine = [name for name in groups if name not in {*groups.branches, *groups.layers}]
    plan = PruningPlan.keep(groups, {name: range(groups[name].counts()[-2]) for name in fine})
    measured = LINEAR.whole(slice_model(model, plan), parts_by_module(groups, model))
    assert latency(plan.counts()) == pytest.approx(measured, rel=1e-12)


def test_at_the_measured_widths_it_says_what_was_measured(
    model: PreTrainedModel, groups: Groups, curved: Latency
) -> None:
    for width in WIDTHS[1::2]:
        fine = [name for name in groups if name not in {*groups.branches, *groups.layers}]
        kept = {name: range(latency_module._units_at(width, groups[name])) for name in fine}
        sliced = slice_model(model, PruningPlan.keep(groups, kept))
        measured = CURVED.whole(sliced, parts_by_module(groups, model))
        assert curved({name: len(units) for name, units in kept.items()}) == pytest.approx(
            measured, rel=1e-12
        )


def test_between_two_measured_widths_it_is_straight(groups: Groups, curved: Latency) -> None:
    name = next(name for name, group in groups.items() if group.size == 24)
    nodes = [latency_module._units_at(width, groups[name]) for width in WIDTHS[:2]]
    seconds = [curved({name: count}) for count in range(nodes[1], nodes[0] + 1)]
    assert len(seconds) > 3
    assert torch.tensor(seconds, dtype=torch.double).diff(n=2).abs().max() < 1e-12


def test_what_starts_a_module_is_saved_with_its_last_unit(groups: Groups, linear: Latency) -> None:
    module, branch = next((name, branch) for name, branch in groups.branches.items() if branch.units)
    units = branch.units[0]
    unit = linear({units: 2}) - linear({units: 1})
    assert linear({units: 1}) - linear({units: 0}) == pytest.approx(START - GONE + unit)
    assert linear({units: 0}) == linear({module: 0})


def test_parts_built_alike_take_the_mean_of_their_times(
    model: PreTrainedModel, groups: Groups, linear: Latency, tmp_path: Path
) -> None:
    first, second = [name for name in groups.branches if "feed_forward" in name][:2]

    class Uneven(Clock):
        def read(self, model: PreTrainedModel, parts: Mapping[str, str]) -> PartTimes:
            times = super().read(model, parts)
            return times | {first: 0.5 * times[first], second: 1.5 * times[second]}

    uneven = latency_cost(groups, model, SECONDS, folder=tmp_path, measure=Uneven())
    for name in (first, second):
        assert uneven({f"{name}.units": 10}) == pytest.approx(linear({f"{name}.units": 10}))


def test_keeping_more_never_takes_less_however_noisy_the_clock(
    model: PreTrainedModel, groups: Groups, tmp_path: Path
) -> None:
    latency = latency_cost(groups, model, SECONDS, folder=tmp_path, measure=Noise())
    for seed in range(20):
        chance = random.Random(seed)
        counts = {name: chance.choice(group.counts()) for name, group in groups.items()}
        before = latency(counts)
        assert before >= 0
        for name, group in groups.items():
            more = [count for count in group.counts() if count > counts[name]]
            if more:
                assert latency(counts | {name: chance.choice(more)}) >= before - 1e-12


def test_certain_probabilities_take_what_the_plan_takes(groups: Groups, curved: Latency) -> None:
    for seed in range(10):
        plan = random_plan(groups, seed)
        assert expected(curved, groups, plan.masks(torch.double)).item() == curved(plan.counts())


def test_the_gradient_is_what_one_unit_less_saves(groups: Groups, curved: Latency) -> None:
    keep = {
        name: torch.ones(group.size, dtype=torch.double, requires_grad=True) for name, group in groups.items()
    }
    expected(curved, groups, keep).backward()
    for name, group in groups.items():
        gradient = keep[name].grad
        assert gradient is not None
        assert (gradient > 0).all()
        if group.size == 24:
            saved = curved.dense - curved({name: group.size - 1})
            assert torch.allclose(gradient, torch.full_like(gradient, saved), rtol=1e-9)


def test_probabilities_between_have_a_finite_gradient_that_never_asks_for_more(
    groups: Groups, curved: Latency
) -> None:
    generator = torch.Generator().manual_seed(0)
    for sharpness in (1.0, 20.0):
        keep = {
            name: (sharpness * torch.randn(group.size, generator=generator)).sigmoid().requires_grad_()
            for name, group in groups.items()
        }
        seconds = expected(curved, groups, keep)
        assert seconds.dtype is torch.double
        assert 0 < seconds < curved.dense
        seconds.backward()
        for probabilities in keep.values():
            assert probabilities.grad is not None
            assert probabilities.grad.isfinite().all()
            assert (probabilities.grad >= 0).all()


def test_the_residual_width_has_its_price_where_it_is_a_group(tiny: PreTrainedModel, tmp_path: Path) -> None:
    groups = find_groups(tiny, width=True)
    latency = latency_cost(groups, tiny, SECONDS, folder=tmp_path, measure=LINEAR)
    for count in (11, 2):
        sliced = slice_model(tiny, PruningPlan.keep(groups, {"width": range(count)}))
        measured = LINEAR.whole(sliced, parts_by_module(groups, tiny))
        assert latency({"width": count}) == pytest.approx(measured, rel=1e-12)


def test_what_was_measured_is_not_measured_again(tiny: PreTrainedModel, tmp_path: Path) -> None:
    clock, groups = Noise(), find_groups(tiny)
    first, second = (latency_cost(groups, tiny, SECONDS, folder=tmp_path, measure=clock) for _ in range(2))
    assert clock.readings == 1
    counts = random_plan(groups, 1).counts()
    assert (second.dense, second(counts)) == (first.dense, first(counts))
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


CONDITIONS: dict[str, Callable[[PreTrainedModel], object]] = {
    "length": lambda model: {"seconds": 0.5},
    "batch": lambda model: {"batch": 2},
    "threads": lambda model: {"thread_count": torch.get_num_threads() + 1},
    "precision": lambda model: {"model": model.float()},
    "attention": lambda model: model.set_attn_implementation("eager"),
    "width as a group": lambda model: {"groups": find_groups(model, width=True)},
    "multiples": lambda model: {"groups": find_groups(model, multiple_of=4)},
}


@pytest.mark.parametrize("change", CONDITIONS.values(), ids=CONDITIONS.keys())
def test_under_other_conditions_it_is_measured_anew(
    tiny: PreTrainedModel, tmp_path: Path, change: Callable[[PreTrainedModel], Any]
) -> None:
    clock = Noise()
    settings: dict[str, Any] = {"groups": find_groups(tiny), "model": tiny, "seconds": SECONDS}
    latency_cost(**settings, folder=tmp_path, measure=clock)
    latency_cost(**settings | (change(tiny) or {}), folder=tmp_path, measure=clock)
    assert clock.readings == len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("what", ["device", "torch", "model"])
def test_another_device_torch_or_model_has_times_of_its_own(
    tiny: PreTrainedModel, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    clock = Noise()
    latency_cost(find_groups(tiny), tiny, SECONDS, folder=tmp_path, measure=clock)
    if what == "device":
        monkeypatch.setattr(latency_module, "device_name", lambda device: "Cray-1")
    elif what == "torch":
        monkeypatch.setattr(torch, "__version__", "99.0")
    else:
        tiny = make_model("conformer", layers=1, channels=7)
    latency_cost(find_groups(tiny), tiny, SECONDS, folder=tmp_path, measure=clock)
    assert clock.readings == len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("cpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n\ncpu family\t: 6\n", "AMD EPYC (family 25, model 1)"),
        ("processor\t: 0\nCPU part\t: 0xd0c\n\nCPU part\t: 0xd0d\n", "(part 0xd0c)"),
    ],
)  # fmt: skip
def test_processors_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch, told: str, name: str) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: told)
    assert part_times.device_name(torch.device("cpu")).endswith(name)


DAMAGES: dict[str, Callable[[dict[str, Any]], str]] = {
    "empty": lambda content: "",
    "cut short": lambda content: json.dumps(content)[:40],
    "a list": lambda content: "[]",
    "another version": lambda content: json.dumps(content | {"version": 99}),
    "other conditions": lambda content: json.dumps(content | {"conditions": {}}),
    "a width missing": lambda content: json.dumps(content | {"seconds": content["seconds"][1:]}),
    "a part missing": lambda content: json.dumps(content | {"seconds": [{"a": 1.0}] * 2}),
    "no times": lambda content: json.dumps(content | {"seconds": None}),
    "infinite times": lambda content: json.dumps(content | {"seconds": [{"a": math.inf, "b": 1.0}] * 2}),
    "negative times": lambda content: json.dumps(content | {"seconds": [{"a": -1.0, "b": 1.0}] * 2}),
    "words for times": lambda content: json.dumps(content | {"seconds": [{"a": "long", "b": 1.0}] * 2}),
    "no text": lambda content: "\udcff",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_counts_for_none(tmp_path: Path, damage: Callable[[dict[str, Any]], str]) -> None:
    kept, times = (
        KeptTimes(tmp_path / "cache", {"seconds": 1.0}),
        [{"a": 0.5, "b": 0.25}, {"a": 0.1, "b": 0.0}],
    )
    assert kept.read(["a", "b"], 2) is None
    kept.write(times)
    assert kept.read(["a", "b"], 2) == times
    text = damage(json.loads(kept.path.read_text()))
    kept.path.write_bytes(text.encode(errors="surrogateescape"))
    assert kept.read(["a", "b"], 2) is None


def test_after_damage_it_is_measured_anew_and_mended(tiny: PreTrainedModel, tmp_path: Path) -> None:
    clock, groups = Noise(), find_groups(tiny)
    latency_cost(groups, tiny, SECONDS, folder=tmp_path, measure=clock)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text()[:-20])
    mended, again = (latency_cost(groups, tiny, SECONDS, folder=tmp_path, measure=clock) for _ in range(2))
    assert clock.readings == 2
    assert again.dense == mended.dense


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    KeptTimes(tmp_path / "file" / "cache", {}).write([{"a": 1.0}])
    (tmp_path / KeptTimes(tmp_path, {}).path.name).mkdir()
    KeptTimes(tmp_path, {}).write([{"a": 1.0}])
    assert len(list(tmp_path.iterdir())) == 2


def test_the_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("latency") == tmp_path / "secateur" / "latency"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("latency") == tmp_path / ".cache" / "secateur" / "latency"


def test_nothing_to_measure_is_an_error(tiny: PreTrainedModel) -> None:
    for settings in ({"batch": 0}, {"rounds": 0}, {"thread_count": 0}):
        with pytest.raises(ValueError):
            latency_cost(find_groups(tiny), tiny, SECONDS, **settings)


def test_the_parts_share_out_the_forward_pass(model: PreTrainedModel, groups: Groups) -> None:
    parts, models = parts_by_module(groups, model), [model, slice_model(model, random_plan(groups, 3))]
    with threads(1):
        measured = measure_parts(models, parts, noise_input(model, SECONDS), rounds=2)
    for each, times in zip(models, measured, strict=True):
        assert times.keys() == set(parts.values())
        assert min(times.values()) >= 0 < sum(times.values())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in each.modules())


def test_a_real_measurement_foretells_a_sliced_model(
    model: PreTrainedModel, groups: Groups, tmp_path: Path
) -> None:
    latency = latency_cost(groups, model, SECONDS, thread_count=1, rounds=2, folder=tmp_path)
    assert isinstance(latency, Latency)
    plan = random_plan(groups, 2)
    assert 0 <= latency(plan.counts()) <= latency.dense
