"""Distillation against sums written out by hand, utterance by utterance, where the batch has padding."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import combinations, groupby
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.errors import SecateurError
from secateur.models.vocabulary import tokenizer_from_pieces
from secateur.pruning.distillation import (
    Distillation,
    Distiller,
    check_teacher,
    distance,
    in_order,
    transcript_tokens,
)
from secateur.recognizer import Recognizer, Waveform
from secateur.structure.groups import find_groups
from secateur.structure.masking import masked
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model
from tiny_models import FAMILIES

MakeRecognizer = Callable[..., Recognizer]
ALL = Distillation(output=1.0, hidden=0.5, task=0.1)


def noise(seconds: float, seed: int) -> Waveform:
    return np.random.default_rng(seed).normal(scale=0.1, size=round(16000 * seconds)).astype(np.float32)


def speech(recognizer: Recognizer, seed: int = 0) -> list[Waveform]:
    """Two utterances, or one for a model that cannot hear two at once."""
    seconds = np.random.default_rng(seed).uniform(0.3, 1.0, 2 if recognizer.pads_cleanly else 1)
    return [noise(each, seed + i) for i, each in enumerate(seconds)]


@pytest.fixture(scope="session")
def make_teacher(make_recognizer: MakeRecognizer) -> MakeRecognizer:
    """Recognisers whose head is scaled and shifted such that every token is heard, the blank among them."""

    @cache
    def made(family: str, **settings: int) -> Recognizer:
        teacher = make_recognizer(family, **settings)
        head = teacher.model.get_submodule("lm_head" if family == "wav2vec2" else "ctc_head")
        with torch.no_grad():
            head.weight *= 4 / teacher.logits([noise(1.0, 9)])[0].std(1).mean()
            head.bias -= teacher.logits([noise(1.0, 9)])[0].mean((0, 1))
        return teacher

    def make(family: str, **settings: int) -> Recognizer:
        return copied(made(family, **settings))

    return make


def copied(recognizer: Recognizer, shake: float = 0.0, seed: int = 0) -> Recognizer:
    """A copy with so much noise on its weights."""
    model, generator = copy.deepcopy(recognizer.model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += shake * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return Recognizer(model, recognizer.features, recognizer.tokenizer)


def sliced(recognizer: Recognizer, plan: PruningPlan) -> Recognizer:
    model = slice_model(recognizer.model, plan)
    return Recognizer(model, recognizer.features, recognizer.tokenizer)


def distiller(
    teacher: Recognizer, student: Recognizer, settings: Distillation = ALL, plan: PruningPlan | None = None
) -> Distiller:
    return Distiller(teacher, student, settings, None if plan is None else plan.kept.get("width"))


@torch.no_grad()
def alone(recognizer: Recognizer, wave: Waveform) -> tuple[Tensor, list[Tensor]]:
    """Log probabilities [frames, vocabulary] and the streams after each layer [frames, width] of one utterance."""
    streams: list[Tensor] = []
    layers = recognizer.model.get_submodule(find_groups(recognizer.model).family.layers)
    handles = [
        layer.register_forward_hook(lambda _, __, y: streams.append((y[0] if isinstance(y, tuple) else y)[0]))
        for layer in layers
    ]
    log = recognizer.model(**recognizer.prepare([wave])).logits[0].log_softmax(-1)
    for handle in handles:
        handle.remove()
    return log, streams


def frame_weights(teacher: Recognizer, waves: Sequence[Waveform], speech_weight: float) -> Tensor:
    """Of all frames, one utterance after the other, [frames]."""
    blanks = torch.cat([alone(teacher, wave)[0][:, teacher.blank].exp() for wave in waves])
    weights = torch.tensor([1 + speech_weight * (1 - float(p)) for p in blanks], dtype=torch.double)
    return weights / weights.sum()


def joined_streams(recognizer: Recognizer, waves: Sequence[Waveform]) -> list[Tensor]:
    """Of all frames, by layer, [frames, width]."""
    return [torch.cat(parts) for parts in zip(*(alone(recognizer, wave)[1] for wave in waves), strict=True)]


def apart(h: Tensor, k: Tensor, weights: Tensor) -> float:
    away, spread = (h - k).square().sum(-1), (k - weights @ k).square().sum(-1)
    return float(weights @ away) / float(weights @ spread)


def greedy(log: Tensor, blank: int) -> list[int]:
    return [token for token, _ in groupby(log.argmax(-1).tolist()) if token != blank]


def ctc(recognizer: Recognizer, waves: Sequence[Waveform], labels: Sequence[Sequence[int]]) -> float:
    losses = [
        F.ctc_loss(
            (log := alone(recognizer, wave)[0])[:, None],
            torch.tensor([list(label)], dtype=torch.long),
            [len(log)],
            [len(label)],
            blank=recognizer.blank,
            reduction="sum",
            zero_infinity=True,
        )
        for wave, label in zip(waves, labels, strict=True)
    ]
    return float(sum(losses)) / sum(map(len, labels))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_that_is_its_teacher_loses_nothing(make_teacher: MakeRecognizer, family: str) -> None:
    teacher = make_teacher(family)
    distil = distiller(teacher, copied(teacher), replace(ALL, task=0.0))
    loss, terms = distil(teacher.prepare(speech(teacher)))
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert terms == {"output": pytest.approx(0.0, abs=1e-6), "hidden": pytest.approx(0.0, abs=1e-9)}


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=st.integers(0, 10**6), speech_weight=st.sampled_from([0.0, 1.0, 5.0]))
@settings(max_examples=5)
def test_each_term_is_the_sum_over_real_frames_written_out(
    make_teacher: MakeRecognizer, family: str, seed: int, speech_weight: float
) -> None:
    teacher = make_teacher(family, seed=seed % 3)
    student, waves = copied(teacher, 0.05, seed), speech(teacher, seed)
    chosen = replace(ALL, speech_weight=speech_weight)
    loss, terms = distiller(teacher, student, chosen)(teacher.prepare(waves))

    weights = frame_weights(teacher, waves, speech_weight)
    taught, said = (torch.cat([alone(each, wave)[0] for wave in waves]) for each in (teacher, student))
    divergences = [float((p.exp() * (p - q)).sum()) for p, q in zip(taught, said, strict=True)]
    output = sum(float(w) * each for w, each in zip(weights, divergences, strict=True))
    streams = zip(joined_streams(student, waves), joined_streams(teacher, waves), strict=True)
    hidden = [apart(h, k, weights) for h, k in streams]
    task = ctc(student, waves, [greedy(alone(teacher, wave)[0], teacher.blank) for wave in waves])
    expected = {"output": output, "hidden": sum(hidden) / len(hidden), "task": task}
    assert terms == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert loss.item() == pytest.approx(output + 0.5 * expected["hidden"] + 0.1 * task, rel=1e-4)


def test_the_divergence_is_from_the_teacher_to_the_student(make_teacher: MakeRecognizer) -> None:
    teacher, student = (make_teacher("conformer") for _ in range(2))
    some = [0.1] * 4
    p = [[*some, 0.3, 0.2, 0.1], [*some, 0.05, 0.05, 0.5], [*some, 0.2, 0.2, 0.2], [*some, 0.2, 0.2, 0.2]]
    q = [[*some, 0.1, 0.4, 0.1], [*some, 0.1, 0.2, 0.3], [*some, 0.2, 0.2, 0.2], [*some, 0.2, 0.2, 0.2]]

    def say(said: Tensor, _: object, __: object, output: Any) -> Any:
        output.logits = said.log() + 3.0
        return output

    teacher.model.register_forward_hook(partial(say, torch.tensor([p])))
    student.model.register_forward_hook(partial(say, torch.tensor([q])))
    inputs = teacher.prepare([noise(0.15, 0)])
    loss, _ = distiller(teacher, student, Distillation(hidden=0.0, speech_weight=4.0))(inputs)
    first = 0.3 * math.log(0.3 / 0.1) + 0.2 * math.log(0.2 / 0.4)
    second = 0.05 * math.log(0.05 / 0.1) + 0.05 * math.log(0.05 / 0.2) + 0.5 * math.log(0.5 / 0.3)
    weights = [1 + 4 * 0.9, 1 + 4 * 0.5, 1 + 4 * 0.8, 1 + 4 * 0.8]
    assert loss.item() == pytest.approx((weights[0] * first + weights[1] * second) / sum(weights), rel=1e-5)


@given(lengths=st.lists(st.floats(0.2, 1.2), min_size=2, max_size=4), seed=st.integers(0, 1000))
@settings(max_examples=5)
def test_more_padding_changes_nothing(make_teacher: MakeRecognizer, lengths: list[float], seed: int) -> None:
    teacher = make_teacher("conformer")
    distil = distiller(teacher, copied(teacher, 0.05), replace(ALL, task=1.0))
    inputs = teacher.prepare([noise(each, seed + i) for i, each in enumerate(lengths)])
    longer = {
        "input_features": F.pad(inputs["input_features"], (0, 0, 0, 40)),
        "attention_mask": F.pad(inputs["attention_mask"], (0, 40)),
    }
    assert distil(longer)[1] == pytest.approx(distil(inputs)[1], rel=1e-5)


def test_the_distance_of_streams_is_a_share_of_the_teachers_variance() -> None:
    k = torch.tensor([[[0.0, 0.0], [4.0, 0.0], [9.0, 9.0]]])
    h = torch.tensor([[[1.0, 0.0], [4.0, 2.0], [0.0, 0.0]]])
    weights = torch.tensor([[0.25, 0.75, 0.0]])
    # mean (3, 0); variance .25 9 + .75 1 = 3; apart .25 1 + .75 4 = 3.25
    assert distance(h, k, weights).item() == pytest.approx(3.25 / 3)
    assert distance(k, k, weights).item() == 0


@given(data=st.data(), rows=st.integers(1, 5), more=st.integers(0, 4))
def test_layers_are_matched_as_the_best_of_all_ways_in_order(
    data: st.DataObject, rows: int, more: int
) -> None:
    columns = rows + more
    values = data.draw(st.lists(st.integers(0, 20), min_size=rows * columns, max_size=rows * columns))
    distances = torch.tensor(values, dtype=torch.float32).view(rows, columns)
    matches = in_order(distances)
    assert matches == sorted(set(matches))
    assert len(matches) == rows

    def total(columns: Sequence[int]) -> float:
        return sum(float(distances[i, j]) for i, j in enumerate(columns))

    assert total(matches) == min(map(total, combinations(range(columns), rows)))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_left_of_fewer_layers_is_matched_to_those_it_resembles(
    make_teacher: MakeRecognizer, family: str
) -> None:
    teacher = make_teacher(family, layers=4)
    plan = PruningPlan.keep(find_groups(teacher.model), {"layers.1": [], "layers.2": []})
    student, waves = copied(sliced(teacher, plan), 0.05), speech(teacher)
    weights = frame_weights(teacher, waves, ALL.speech_weight)
    h, k = joined_streams(student, waves), joined_streams(teacher, waves)
    # The head reads what the last one puts out.
    best = min(apart(h[0], k[i], weights) for i in range(3)) / 2 + apart(h[1], k[3], weights) / 2
    _, terms = distiller(teacher, student, plan=plan)(teacher.prepare(waves))
    assert terms["hidden"] == pytest.approx(best, rel=1e-4)


def test_matches_are_remembered_from_batch_to_batch_and_can_be_handed_on(
    make_teacher: MakeRecognizer,
) -> None:
    teacher = make_teacher("conformer", layers=4)
    plan = PruningPlan.keep(find_groups(teacher.model), {"layers.1": []})
    student = copied(sliced(teacher, plan), 0.05)
    first, second = (teacher.prepare(speech(teacher, seed)) for seed in (1, 2))
    distil, fresh = (distiller(teacher, student, plan=plan) for _ in range(2))
    distil(first)
    before = distil.state_dict()["distances"]
    assert before is not None
    later = distiller(teacher, student, plan=plan)
    later.load_state_dict({"distances": before.clone()})
    fresh(second)
    distil(second)
    later(second)
    now, alone = distil.state_dict()["distances"], fresh.state_dict()["distances"]
    assert now is not None
    assert alone is not None
    torch.testing.assert_close(now, 0.9 * before + 0.1 * alone)
    assert torch.equal(now, later.state_dict()["distances"])  # type: ignore[arg-type]


def test_a_step_that_comes_to_nothing_is_not_remembered(make_teacher: MakeRecognizer) -> None:
    teacher = make_teacher("conformer", layers=3)
    plan = PruningPlan.keep(find_groups(teacher.model), {"layers.1": []})
    student = sliced(teacher, plan)
    broken = copied(student)
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    inputs = teacher.prepare(speech(teacher))
    for before in (False, True):
        distil = distiller(teacher, student, plan=plan)
        if before:
            distil(inputs)
        known = distil.state_dict()["distances"]
        sound, distil.student, distil._learning = distil._learning, broken, list(broken.model.encoder.layers)
        assert distil(inputs)[0].isnan()
        assert distil.state_dict()["distances"] is known
        distil.student, distil._learning = student, sound
        assert distil(inputs)[0].isfinite()


def test_a_narrower_stream_is_held_against_the_channels_that_stayed(make_teacher: MakeRecognizer) -> None:
    teacher = make_teacher("conformer", layers=2)
    kept = [0, 2, 3, 7, 8, 9, 14]
    plan = PruningPlan.keep(find_groups(teacher.model, width=True), {"width": kept})
    student, waves = sliced(teacher, plan), speech(teacher)
    weights = frame_weights(teacher, waves, ALL.speech_weight)
    streams = zip(joined_streams(student, waves), joined_streams(teacher, waves), strict=True)
    expected = [apart(h, k[:, kept], weights) for h, k in streams]
    _, terms = distiller(teacher, student, plan=plan)(teacher.prepare(waves))
    assert terms["hidden"] == pytest.approx(sum(expected) / 2, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_fits_what_an_earlier_pruning_left_of_it(make_teacher: MakeRecognizer, family: str) -> None:
    teacher = make_teacher(family, layers=3)
    units = next(name for name in find_groups(teacher.model) if re.match(r"layers\.0\..*units", name))
    kept: dict[str, list[int]] = {"layers.1": [], units: [1, 2, 5]}
    check_teacher(teacher, sliced(teacher, PruningPlan.keep(find_groups(teacher.model), kept)))


@pytest.mark.parametrize(
    ("family", "settings", "sentence"),
    [
        ("wav2vec2", {}, "is of another family"),
        ("conformer", {"width": 24}, "has another residual width"),
        ("parakeet", {"width": 24}, "has another residual width"),
        ("conformer", {"layers": 2}, "has fewer layers"),
    ],
)
def test_a_teacher_that_is_another_model_is_refused(
    make_teacher: MakeRecognizer, family: str, settings: dict[str, int], sentence: str
) -> None:
    with pytest.raises(SecateurError, match=f"the teacher {sentence} than the model that is pruned: give"):
        check_teacher(
            make_teacher(family, **settings),
            make_teacher("conformer" if family == "wav2vec2" else family, layers=3),
        )


def test_a_teacher_that_hears_or_writes_otherwise_is_refused(make_teacher: MakeRecognizer) -> None:
    teacher, model = make_teacher("conformer"), make_teacher("conformer")
    teacher.features = copy.deepcopy(model.features)
    teacher.features.hop_length += 1
    with pytest.raises(SecateurError, match="hears other features"):
        check_teacher(teacher, model)
    teacher.features = model.features
    teacher.tokenizer = tokenizer_from_pieces(["x", "y", "z", "u", "v", "w"])
    with pytest.raises(SecateurError, match="writes with another vocabulary"):
        check_teacher(teacher, model)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_masked_student_loses_what_the_sliced_one_does(make_teacher: MakeRecognizer, family: str) -> None:
    teacher = make_teacher(family)
    groups = find_groups(teacher.model)
    ways = {"layers.0.{}.units": range(9), "layers.1.{}.heads": [1, 2], "layers.1.{}": []}
    modules = ["feed_forward", "attention", "feed_forward"]
    if family != "wav2vec2":
        modules = ["feed_forward1", "self_attn", "conv"]
    kept = {way.format(module): units for (way, units), module in zip(ways.items(), modules, strict=True)}
    plan = PruningPlan.keep(groups, kept)
    inputs, whole = teacher.prepare(speech(teacher)), copied(teacher)
    _, expected = distiller(teacher, sliced(teacher, plan), plan=plan)(inputs)
    masks = {name: mask.requires_grad_() for name, mask in plan.masks(torch.double).items()}
    with masked(whole.model, groups, masks):
        loss, terms = distiller(teacher, whole)(inputs)
    assert terms == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(mask.grad is not None and mask.grad.abs().sum() > 0 for mask in masks.values())


def test_transcripts_are_taken_where_there_are_any_and_what_the_teacher_heard_elsewhere(
    make_teacher: MakeRecognizer,
) -> None:
    teacher = make_teacher("conformer")
    student, waves = copied(teacher, 0.1), speech(teacher, 5)
    distil = distiller(teacher, student, Distillation(hidden=0.0, task=1.0))
    inputs = teacher.prepare(waves)
    heard = [greedy(alone(teacher, wave)[0], teacher.blank) for wave in waves]
    assert all(heard)
    given_tokens = torch.tensor([1, 2, 2, 3])
    for labels in (None, [None, None], [torch.tensor(each) for each in heard]):
        assert distil(inputs, labels)[1]["task"] == pytest.approx(ctc(student, waves, heard), rel=1e-5)
    for labels, targets in (
        ([None, given_tokens], [heard[0], [1, 2, 2, 3]]),
        ([given_tokens, None], [[1, 2, 2, 3], heard[1]]),
    ):
        assert distil(inputs, labels)[1]["task"] == pytest.approx(ctc(student, waves, targets), rel=1e-5)


def test_silence_and_words_that_do_not_fit_the_frames_leave_the_loss_finite(
    make_teacher: MakeRecognizer,
) -> None:
    teacher = make_teacher("conformer")
    with torch.no_grad():
        teacher.model.ctc_head.bias[teacher.blank] = 1e3
    student, inputs = copied(teacher, 0.01), teacher.prepare(speech(teacher))
    distil = distiller(teacher, student, Distillation(task=1.0))
    silent, _ = distil(inputs)
    crowded, _ = distil(inputs, [torch.ones(500, dtype=torch.long)] * 2)
    assert silent.isfinite()
    assert crowded.isfinite()


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_all_of_the_student_and_nothing_of_the_teacher(
    make_teacher: MakeRecognizer, family: str
) -> None:
    teacher = make_teacher(family)
    student = copied(teacher, 0.05)
    loss, _ = distiller(teacher, student)(teacher.prepare(speech(teacher)))
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.model.parameters())
    missed = {
        name
        for name, parameter in student.model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    }
    # What masks spectra in training by transformers' own way is not used.
    assert missed <= {"wav2vec2.masked_spec_embed"}
    assert not any(module._forward_hooks for each in (teacher, student) for module in each.model.modules())


def test_terms_without_a_factor_are_left_out(make_teacher: MakeRecognizer) -> None:
    teacher = make_teacher("conformer")
    inputs = teacher.prepare(speech(teacher))
    _, terms = distiller(teacher, copied(teacher), Distillation(hidden=0.0))(inputs)
    assert terms.keys() == {"output"}


def test_transcripts_are_written_in_the_case_of_the_vocabulary_or_not_at_all() -> None:
    lower = tokenizer_from_pieces(["<unk>", *"▁abc"])
    upper = tokenizer_from_pieces([*"ABC", " "])
    mixed = tokenizer_from_pieces(["<unk>", *"▁abcABC"])

    def tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int] | None:
        found = transcript_tokens(tokenizer, text)
        return None if found is None else found.tolist()

    assert tokens(lower, "ab c") == tokens(lower, "AB C") == tokens(lower, "Ab c") == [1, 2, 3, 1, 4]
    assert tokens(upper, "ab c") == tokens(upper, "AB C") == [0, 1, 3, 2]
    assert tokens(mixed, "Ab") == [1, 5, 3]
    assert tokens(mixed, "AB") == tokens(mixed, "ab") == [1, 2, 3]
    assert tokens(lower, "a 7") is tokens(upper, "a 7") is None
