"""Steps in which a model is narrower: which they are, what it computes in them, and what comes of that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from secateur.recognizer import Recognizer
from secateur.speech.audio import read_audio
from secateur.structure.masking import masked
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model
from secateur.supervised.nested import FEWEST, SHARES, SPREAD, Nesting
from secateur.supervised.objective import Transcription
from secateur.supervised.settings import TrainSettings
from secateur.supervised.train import train
from secateur.training.feed import Batch
from secateur.training.precision import Working

pytestmark = pytest.mark.xdist_group("train")

STEPS = range(40)


@pytest.fixture(scope="module")
def recognizer(speech: Path) -> Recognizer:
    asked = TrainSettings(speech, size="toy", vocabulary=12, steps=1, batch_seconds=12.0, augment="none")
    return train(asked).recognizer


def noise(recognizer: Recognizer) -> dict[str, torch.Tensor]:
    wave = torch.randn(16000, generator=torch.Generator().manual_seed(0)).numpy()
    return dict(recognizer.prepare([0.1 * wave]))


def test_the_first_units_of_all_groups_stay_about_as_many_of_each(recognizer: Recognizer) -> None:
    narrow = [masks for masks in map(Nesting(recognizer.model, 0.5, 0).masks, STEPS) if masks is not None]
    assert 10 <= len(narrow) <= 30
    widths = []
    for masks in narrow:
        assert set(masks) >= {"layers.0.feed_forward1.units", "layers.0.conv.channels"}
        # Heads stay, and what lies in them where it is so narrow, and positions, which have an order of their own.
        attention = {f"layers.0.self_attn.{each}" for each in ("heads", "positions")}
        assert not {"layers.0", "layers.0.conv", *attention} & set(masks)
        assert all(len(mask) > FEWEST for mask in masks.values())
        for mask in masks.values():
            kept = int(mask.sum())
            assert torch.equal(mask, torch.tensor([1.0] * kept + [0.0] * (len(mask) - kept)))
        shares = [float(mask.mean()) for mask in masks.values()]
        assert max(shares) - min(shares) <= 2 * SPREAD + 0.05
        widths.append(sum(shares) / len(shares))
    assert SHARES[0] - SPREAD <= min(widths) < 0.5 < max(widths) <= 1


def test_which_steps_are_narrow_depends_on_the_step_and_the_seed_alone(recognizer: Recognizer) -> None:
    def widths(seed: int, steps: list[int]) -> dict[int, dict[str, int] | None]:
        nesting = Nesting(recognizer.model, 0.5, seed)
        drawn = {step: nesting.masks(step) for step in steps}
        return {
            step: masks and {name: int(mask.sum()) for name, mask in masks.items()}
            for step, masks in drawn.items()
        }

    assert widths(1, list(STEPS)) == widths(1, list(reversed(STEPS)))
    assert widths(1, list(STEPS)) != widths(2, list(STEPS))


def test_a_model_that_is_not_to_be_narrow_never_is(recognizer: Recognizer) -> None:
    assert not any(Nesting(recognizer.model, 0.0, 0).masks(step) for step in STEPS)


@torch.no_grad()
def test_a_narrow_model_hears_what_it_hears_when_it_is_sliced_so(recognizer: Recognizer) -> None:
    model, inputs = recognizer.model.double(), noise(recognizer)
    inputs["input_features"] = inputs["input_features"].double()
    nesting = Nesting(model, 0.99, 0)
    step, masks = next((step, masks) for step in STEPS if (masks := nesting.masks(step)) is not None)
    kept = {name: mask.nonzero()[:, 0].tolist() for name, mask in masks.items()}
    sliced = slice_model(model, PruningPlan.keep(nesting.groups, kept)).eval()
    whole = model.eval()(**inputs).logits
    with nesting.narrow(step):
        narrow = model(**inputs).logits
    torch.testing.assert_close(narrow, sliced(**inputs).logits, rtol=0, atol=1e-9)
    assert not torch.allclose(narrow, whole)
    assert torch.equal(model(**inputs).logits, whole)
    model.float()


def test_norms_learn_what_the_whole_model_gives_them(recognizer: Recognizer) -> None:
    objective = Transcription(recognizer, Working(recognizer.model, None), seed=0, nested=0.5)
    norm = recognizer.model.encoder.layers[0].conv.norm
    seen = set()
    for step in STEPS:
        narrow = objective.nesting.masks(step) is not None
        before = norm.running_mean.clone()
        _, figures = objective.loss(Batch(step, noise(recognizer), ["low"], 1.0, None), 0.0)
        assert list(figures) == ["narrow" if narrow else "loss"]
        assert torch.equal(norm.running_mean, before) == narrow
        seen.add(narrow)
    assert seen == {True, False}


def test_what_was_trained_to_be_narrow_is_near_to_what_it_is_whole(speech: Path) -> None:
    def divergence(nested: float) -> float:
        """Of three tenths of the units from all of them."""
        asked = TrainSettings(
            speech, size="toy", vocabulary=12, steps=70, rate=5e-3, batch_seconds=12.0, augment="none",
            precision="float32", nested=nested,
        )  # fmt: skip
        trained = train(asked).recognizer
        files = sorted(speech.glob("*.wav"))
        heard = trained.transcribe_batch(waves := [read_audio(file, trained.sample_rate) for file in files])
        assert sum(
            each.text == file.with_suffix(".txt").read_text(encoding="utf-8")
            for each, file in zip(heard, files, strict=True)
        ) > 0.7 * len(files)
        nesting, inputs = Nesting(trained.model, 0.0, 0), trained.prepare(waves)
        masks = {name: (torch.arange(size) < 0.3 * size).float() for name, size in nesting.sizes.items()}
        with torch.no_grad():
            whole = trained.model(**inputs).logits.log_softmax(-1)
            with masked(trained.model, nesting.groups, masks):
                narrow = trained.model(**inputs).logits.log_softmax(-1)
        return float((whole.exp() * (whole - narrow)).sum(-1).mean())

    assert divergence(0.5) < 0.5 * divergence(0.0)
