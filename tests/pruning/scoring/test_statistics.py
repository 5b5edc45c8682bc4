"""Statistics against what can be worked out otherwise: captured activations, gradients, and distances of distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from secateur.errors import SecateurError
from secateur.pruning.refitting.positions import every_distance
from secateur.pruning.scoring import statistics as module
from secateur.pruning.scoring.statistics import Kind, Statistics, collect, consumers
from secateur.recognizer import Recognizer, Waveform
from secateur.speech.audio import read_audio
from secateur.speech.corpus import open_corpus
from secateur.structure.groups import find_groups
from secateur.structure.masking import masked
from tiny_models import FAMILIES

MakeRecognizer = Callable[..., Recognizer]
EVERYTHING = frozenset({"activations", "gram", "metric", "gates", "slopes", "weights"})


def noise(seconds: float, seed: int = 0) -> Waveform:
    return np.random.default_rng(seed).normal(scale=0.1, size=round(16000 * seconds)).astype(np.float32)


def captured(recognizer: Recognizer, path: str, waveform: Waveform) -> tuple[Tensor, Tensor, Tensor]:
    """What a module is given and gives, and the model's logits, [1, ...]."""
    seen: list[Tensor] = []
    hook = recognizer.model.get_submodule(path).register_forward_hook(
        lambda _, args, output: seen.extend([args[0], output])
    )
    with torch.no_grad():
        logits = recognizer.model(**recognizer.prepare([waveform])).logits
    hook.remove()
    return seen[0], seen[1], logits


def close(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    assert torch.allclose(found, expected.double(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_second_moments_are_those_of_what_each_consumer_is_given(
    make_recognizer: MakeRecognizer, family: str
) -> None:
    recognizer = make_recognizer(family)
    groups = find_groups(recognizer.model)
    waveforms = [noise(0.4, 1), noise(0.7, 2)]
    statistics = collect(recognizer, groups, waveforms, kinds=frozenset({"gram"}))
    name = next(name for name in groups if name.endswith(".units"))
    path = consumers(groups)[name]
    inputs = torch.cat([captured(recognizer, path, waveform)[0][0] for waveform in waveforms])
    assert statistics.frames == len(inputs)
    layer = statistics.layers[path]
    close(layer.mean, inputs.mean(0))
    close(layer.square, inputs.square().mean(0))
    close(layer.gram, inputs.T @ inputs / len(inputs))
    assert layer.positions == 1.0
    assert layer.metric is None


def test_channels_of_pointwise_convolutions_are_features_too(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer")
    groups = find_groups(recognizer.model)
    statistics = collect(recognizer, groups, [noise(0.5)], kinds=frozenset({"gram"}))
    path = "encoder.layers.1.conv.pointwise_conv2"
    inputs = captured(recognizer, path, noise(0.5))[0][0].T
    close(statistics.layers[path].gram, inputs.T @ inputs / len(inputs))


@pytest.mark.parametrize(
    ("family", "path"),
    [
        ("conformer", "encoder.subsampling.layers.2"),
        ("wav2vec2", "wav2vec2.feature_extractor.conv_layers.1.conv"),
    ],
)
def test_patches_of_convolutions_are_what_their_weights_multiply(
    make_recognizer: MakeRecognizer, family: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "randperm", lambda n, generator: torch.arange(n))
    recognizer = make_recognizer(family)
    statistics = collect(recognizer, find_groups(recognizer.model), [noise(0.5)], kinds=frozenset({"gram"}))
    given, output, logits = captured(recognizer, path, noise(0.5))
    conv = recognizer.model.get_submodule(path)
    assert isinstance(conv, (nn.Conv1d, nn.Conv2d))
    layer = statistics.layers[path]
    taps = {"kernel_size": conv.kernel_size, "padding": conv.padding, "stride": conv.stride}
    if isinstance(conv, nn.Conv1d):
        given = given[:, :, None]
        taps = {
            "kernel_size": (1, *conv.kernel_size),
            "padding": (0, *conv.padding),
            "stride": (1, *conv.stride),
        }
    patches = F.unfold(given, **taps)[0].T
    few = patches[: output.shape[2]]
    close(layer.gram, few.T @ few / len(few))
    assert layer.positions == len(patches) / logits.shape[1]
    bias = 0 if conv.bias is None else conv.bias
    expected = output[0].flatten(1)[:, : len(few)].mean(1)
    assert torch.allclose(conv.weight.flatten(1).detach() @ layer.mean + bias, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gate_has_the_slopes_of_the_likelihood_of_labels_that_the_model_draws_or_thinks_likeliest(
    make_recognizer: MakeRecognizer, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn_from: list[Tensor] = []

    def likeliest(p: Tensor, _: int, generator: torch.Generator) -> Tensor:
        drawn_from.append(p)
        return p.argmax(-1, keepdim=True)

    monkeypatch.setattr(torch, "multinomial", likeliest)
    recognizer = make_recognizer(family, layers=1, heads=2, width=8, units=3, channels=3)
    groups = find_groups(recognizer.model)
    statistics = collect(
        recognizer, groups, [noise(0.2)], kinds=frozenset({"gates", "slopes"}), temperature=2.0
    )
    inputs = recognizer.prepare([noise(0.2)])

    @torch.no_grad()
    def likelihoods(masks: dict[str, Tensor]) -> Tensor:
        with masked(recognizer.model, groups, masks):
            return (recognizer.model(**inputs).logits[0] / 2.0).log_softmax(-1)

    before, step = likelihoods({}), 1e-5
    assert torch.allclose(drawn_from[0], before.exp())
    for name, group in groups.items():
        slopes = []
        for unit in range(group.size):
            gate = torch.eye(group.size, dtype=torch.double)[unit] * step
            more, less = likelihoods({name: 1 + gate}), likelihoods({name: 1 - gate})
            slopes.append(float((more - less).gather(1, before.argmax(-1, keepdim=True)).sum() / (2 * step)))
        expected = [slope**2 / len(before) for slope in slopes]
        assert statistics.gates[name].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-12)
        expected = [abs(slope) / len(before) for slope in slopes]
        assert statistics.slopes[name].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_squared_gradients_of_weights_make_those_of_a_gate_that_scales_only_one(
    make_recognizer: MakeRecognizer,
) -> None:
    recognizer = make_recognizer("conformer", layers=1, width=4, heads=1, units=3)
    groups = find_groups(recognizer.model)
    consumer = recognizer.model.encoder.layers[0].feed_forward1.linear2
    with torch.no_grad():
        consumer.weight[1:] = 0.0
    found = collect(recognizer, groups, [noise(0.5)], kinds=frozenset({"gates", "weights"}), temperature=2.0)
    name = "layers.0.feed_forward1.units"
    curvature = found.weights["encoder.layers.0.feed_forward1.linear2.weight"]
    assert curvature.shape == consumer.weight.shape
    close(curvature[0] * consumer.weight[0].detach().square(), found.gates[name])


def test_slopes_are_absolute_in_each_utterance_and_those_of_likeliest_labels_whatever_else_is_asked(
    make_recognizer: MakeRecognizer,
) -> None:
    recognizer = make_recognizer("conformer")
    groups = find_groups(recognizer.model)

    def slopes(*seeds: int, kinds: frozenset[Kind] = frozenset({"slopes"})) -> Tensor:
        found = collect(
            recognizer, groups, [noise(0.5, seed) for seed in seeds], kinds=kinds, seed=sum(seeds)
        )
        return found.slopes["layers.0.feed_forward1.units"]

    close((slopes(1) + slopes(2)) / 2, slopes(1, 2))
    close(slopes(1, kinds=EVERYTHING), slopes(1))


def test_other_gradients_do_not_hear_of_likeliest_labels(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer")
    groups = find_groups(recognizer.model)
    alone, beside = (
        collect(recognizer, groups, [noise(0.5)], kinds=kinds)
        for kinds in (EVERYTHING - {"slopes"}, EVERYTHING)
    )
    for name, layer in alone.layers.items():
        if layer.metric is not None:
            close(beside.layers[name].metric, layer.metric)
    for name, gate in alone.gates.items():
        close(beside.gates[name], gate)


def test_ablations_and_gradients_are_gathered_together_and_all_audio_is_reported(
    make_recognizer: MakeRecognizer,
) -> None:
    recognizer = make_recognizer("conformer")
    groups = find_groups(recognizer.model)
    heard: list[float] = []
    kinds = frozenset({"gates", "ablations", "depth"})
    found = collect(recognizer, groups, iter([noise(0.5), noise(0.7)]), kinds=kinds, progress=heard.append)
    assert sum(heard) == pytest.approx(1.2)
    assert set(found.depth) == set(groups.layers)
    assert {*groups.layers, *groups.branches} <= set(found.ablations) <= set(groups)
    assert set(found.gates) == set(groups)
    alone = collect(recognizer, groups, [noise(0.5), noise(0.7)], kinds=frozenset({"depth"}))
    assert alone.depth == found.depth
    assert alone.frames == found.frames


def test_the_metric_is_the_mean_square_of_the_gradient_at_the_output(
    make_recognizer: MakeRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "multinomial", lambda p, _, generator: p.argmax(-1, keepdim=True))
    monkeypatch.setattr(module, "CLIP", 1.0)
    recognizer = make_recognizer("conformer")
    path = "encoder.layers.0.self_attn.o_proj"
    statistics = collect(
        recognizer, find_groups(recognizer.model), [noise(0.5)], kinds=frozenset({"metric"}), temperature=2.0
    )
    outputs: list[Tensor] = []
    hook = recognizer.model.get_submodule(path).register_forward_hook(lambda *seen: outputs.append(seen[-1]))
    logits = recognizer.model(**recognizer.prepare([noise(0.5)])).logits[0] / 2.0
    hook.remove()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(-1), reduction="sum"), outputs[0])
    # The likelihood is computed in single precision.
    expected = gradient[0].T @ gradient[0] / len(logits)
    assert torch.allclose(
        statistics.layers[path].metric, expected, rtol=1e-4, atol=1e-6 * float(expected.max())
    )


def test_a_few_huge_gradients_do_not_make_the_metric(
    make_recognizer: MakeRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = make_recognizer("conformer")
    groups = find_groups(recognizer.model)
    path = "encoder.layers.0.self_attn.o_proj"

    def trace() -> float:
        metric = collect(recognizer, groups, [noise(1.0)], kinds=frozenset({"metric"})).layers[path].metric
        assert metric is not None
        return float(metric.trace())

    clipped = trace()
    monkeypatch.setattr(module, "CLIP", 1.0)
    assert 0 < clipped < trace()


def test_frames_that_are_not_blank_count_more(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer")
    path = "encoder.layers.0.feed_forward2.linear2"
    statistics = collect(
        recognizer,
        find_groups(recognizer.model),
        [noise(0.6)],
        kinds=frozenset({"activations"}),
        speech_weight=5.0,
    )
    inputs, _, logits = captured(recognizer, path, noise(0.6))
    weight = 1 + 5 * (1 - logits[0].softmax(-1)[:, recognizer.blank])
    expected = (weight[:, None] * inputs[0]).sum(0) / weight.sum()
    assert torch.allclose(statistics.layers[path].mean, expected, rtol=1e-5)


def test_positions_are_known_whatever_is_heard_and_what_they_matter_is_not(
    make_recognizer: MakeRecognizer,
) -> None:
    recognizer = make_recognizer("conformer")
    path = "encoder.layers.0.self_attn.relative_k_proj"
    kinds: frozenset[Kind] = frozenset({"gram", "metric"})
    groups = find_groups(recognizer.model)
    one, other = (
        collect(recognizer, groups, [noise(seconds)], kinds=kinds).layers[path] for seconds in (0.6, 0.4)
    )
    table, share = every_distance(recognizer.model)
    close(one.mean, (share[:, None] * table).sum(0))
    close(one.gram, torch.einsum("p,pi,pj->ij", share, table, table))
    assert torch.equal(one.square, one.gram.diagonal())
    assert torch.equal(one.gram, other.gram)
    assert not torch.equal(one.metric, other.metric)
    assert float(one.metric.trace()) > 0


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("conformer", {"conv_norm": "layer_norm", "subsampling": "dw_striding", "subsampling_factor": 8}),
        ("conformer", {"use_bias": False}),
        ("parakeet", {}),
        ("wav2vec2", {"feat_extract_norm": "group"}),
        ("wav2vec2", {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}),
    ],
)
def test_everything_can_be_gathered_of_every_family_in_single_precision(
    make_recognizer: MakeRecognizer, family: str, settings: dict[str, object]
) -> None:
    recognizer = make_recognizer(family, **settings)
    recognizer.model.float()
    groups = find_groups(recognizer.model, width=True)
    statistics = collect(recognizer, groups, [noise(0.5), noise(0.05)], kinds=EVERYTHING)
    assert set(statistics.gates) == set(groups)
    for name, group in groups.items():
        assert statistics.gates[name].shape == (group.size,)
        assert statistics.gates[name].isfinite().all()
    for path in consumers(groups).values():
        layer, weight = statistics.layers[path], recognizer.model.get_parameter(f"{path}.weight").flatten(1)
        assert layer.gram is not None
        assert layer.metric is not None
        assert layer.gram.shape == (weight.shape[1], weight.shape[1])
        assert layer.metric.shape == (len(weight), len(weight))
        assert all(tensor.isfinite().all() for tensor in (layer.mean, layer.square, layer.gram, layer.metric))
    inputs = {site.module for group in groups.values() for site in group.sites if site.side == "input"}
    assert set(statistics.layers) == inputs


def test_the_same_seed_gives_the_same_statistics(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer")
    groups = find_groups(recognizer.model)

    def gather(seed: int) -> Statistics:
        torch.manual_seed(seed + 1)
        return collect(recognizer, groups, [noise(0.5)], kinds=EVERYTHING, seed=seed)

    first, again, other = gather(0), gather(0), gather(1)
    name = "layers.0.conv.channels"
    assert torch.equal(first.gates[name], again.gates[name])
    assert not torch.equal(first.gates[name], other.gates[name])


def test_the_model_is_left_as_it_was_even_when_the_audio_fails(make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer")
    model = recognizer.model
    model.ctc_head.requires_grad_(False)
    groups = find_groups(model)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}

    def broken() -> Iterator[Waveform]:
        yield noise(0.5)
        raise OSError("the disk is gone")

    with torch.no_grad(), pytest.raises(OSError, match="the disk is gone"):
        collect(recognizer, groups, broken(), kinds=EVERYTHING)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not name.startswith("ctc_head"))
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


def test_long_audio_is_heard_in_windows_and_all_of_it_is_reported(
    make_recognizer: MakeRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = make_recognizer("conformer")
    groups = find_groups(recognizer.model)
    monkeypatch.setattr(module, "WINDOW_SECONDS", 0.5)
    heard: list[float] = []
    kinds = frozenset({"activations"})
    whole = collect(recognizer, groups, [noise(1.2)], kinds=kinds, progress=heard.append)
    parts = [noise(1.2)[start : start + 8000] for start in (0, 8000, 16000)]
    pieces = collect(recognizer, groups, parts, kinds=kinds, progress=heard.append)
    assert whole.frames == pieces.frames
    path = "encoder.subsampling.linear"
    assert torch.equal(whole.layers[path].square, pieces.layers[path].square)
    assert heard == pytest.approx([1.2, 0.5, 0.5, 0.2])


def test_nothing_is_heard_where_nothing_is_asked_for_and_silence_is_refused(
    make_recognizer: MakeRecognizer,
) -> None:
    recognizer = make_recognizer("conformer")
    groups = find_groups(recognizer.model)

    def unread() -> Iterator[Waveform]:
        pytest.fail("audio was read")
        yield noise(1.0)

    assert collect(recognizer, groups, unread(), kinds=frozenset()).frames == 0
    with pytest.raises(SecateurError, match="no audio to score units on"):
        collect(recognizer, groups, [], kinds=frozenset({"activations"}))
    with pytest.raises(SecateurError, match="no audio to score units on"):
        collect(recognizer, groups, [], kinds=frozenset({"ablations"}))


def test_the_real_conformer_is_measured_on_real_speech(shared: Path) -> None:
    recognizer = secateur.load(shared / "models" / "conformer-ctc-small.nemo")
    groups = find_groups(recognizer.model)
    utterance = next(iter(open_corpus(shared / "data" / "librispeech" / "fit")))
    waveform = read_audio(utterance.path, recognizer.sample_rate)[: recognizer.sample_rate]
    statistics = collect(recognizer, groups, [waveform], kinds=EVERYTHING, temperature=2.0)
    assert statistics.frames == 25
    assert statistics.layers["encoder.subsampling.layers.2"].positions == 20.0
    assert all(gate.isfinite().all() and gate.sum() > 0 for gate in statistics.gates.values())
