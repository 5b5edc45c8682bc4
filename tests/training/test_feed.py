from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import SecateurError
from secateur.recognizer import load
from secateur.speech.audio import Waveform
from secateur.speech.augmentation import Augmentation
from secateur.speech.corpus import open_corpus
from secateur.speech.pool import SpeechPool
from secateur.speech.skips import SkipLog
from secateur.training.feed import Batch, Feed, Stretch, epoch_batches

RATE = 1000
HOP = 10


def feature_frames(waves: Sequence[Waveform]) -> dict[str, Tensor]:
    """What `Recognizer.prepare` gives, of another kind of features: frames of HOP samples."""
    rows = [torch.from_numpy(wave[: len(wave) // HOP * HOP]).view(-1, HOP) for wave in waves]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    real = torch.arange(padded.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    return {"input_features": padded, "attention_mask": real}


def ears(
    prepare: Callable[[Sequence[Waveform]], dict[str, Tensor]] = feature_frames,
    *,
    alone: bool = False,
    inputs_per_second: float = 0.0,
    device: str = "cpu",
) -> Any:
    """What a feed asks of a recogniser."""
    model = SimpleNamespace(device=torch.device(device))
    return SimpleNamespace(
        model=model, prepare=prepare, pads_cleanly=not alone, inputs_per_second=inputs_per_second
    )


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> SpeechPool:
    """Forty utterances of .5 to 4 s, `w0` to `w39`; utterance i is noise around the level i/100."""
    folder = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(0)
    for i in range(40):
        wave = i / 100 + 0.002 * rng.standard_normal(round(rng.uniform(0.5, 4) * RATE))
        soundfile.write(folder / f"{i:02}.wav", wave, RATE)
        (folder / f"{i:02}.txt").write_text(f"w{i}")
    return SpeechPool.read(open_corpus(folder), RATE, skips=SkipLog())


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "secateur-feed"]


def batches_of(
    pool: SpeechPool,
    number: int,
    *,
    prepare: Callable[[Sequence[Waveform]], dict[str, Tensor]] = feature_frames,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    start: int = 0,
    alone: bool = False,
    batch_seconds: float = 10.0,
    clean_epochs: int = 0,
) -> list[Batch]:
    with Feed(
        ears(prepare, alone=alone),
        pool,
        start,
        batch_seconds=batch_seconds,
        augmentation=augmentation or Augmentation(),
        clean_epochs=clean_epochs,
        seed=seed,
    ) as feed:
        return list(islice(feed, number))


def same(one: Batch, other: Batch) -> bool:
    return (
        one.step == other.step
        and one.texts == other.texts
        and one.seconds == other.seconds
        and one.inputs.keys() == other.inputs.keys()
        and all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)
    )


def test_batches_are_repeated_exactly_by_the_same_seed_and_not_by_another(pool: SpeechPool) -> None:
    first, again, other = (batches_of(pool, 30, seed=seed) for seed in (3, 3, 4))
    assert all(map(same, first, again))
    assert not any(map(same, first, other))


@pytest.mark.parametrize("start", [1, 7, 25])
def test_a_feed_that_starts_later_gives_what_it_would_have_given_then(pool: SpeechPool, start: int) -> None:
    later = batches_of(pool, 3, start=start)
    assert [batch.step for batch in later] == [start, start + 1, start + 2]
    assert all(map(same, later, batches_of(pool, start + 3)[start:]))


def test_every_epoch_hears_every_utterance_once_in_an_order_of_its_own(pool: SpeechPool) -> None:
    heard = [text for batch in batches_of(pool, 60, augmentation=Augmentation.none()) for text in batch.texts]
    epochs = [heard[:40], heard[40:80]]
    for epoch in epochs:
        assert sorted(map(str, epoch)) == sorted(f"w{i}" for i in range(40))
    assert epochs[0] != epochs[1]


def test_unaugmented_speech_is_heard_as_it_is(pool: SpeechPool) -> None:
    for batch in batches_of(pool, 10, augmentation=Augmentation.none()):
        indices = [int(str(text)[1:]) for text in batch.texts]
        expected = feature_frames([pool.waveform(i) for i in indices])
        assert torch.equal(batch.inputs["input_features"], expected["input_features"])
        assert torch.equal(batch.inputs["attention_mask"], expected["attention_mask"])
        assert batch.seconds == pytest.approx(pool.seconds[indices].sum())


def test_speech_may_be_heard_as_it_is_before_it_is_augmented(pool: SpeechPool) -> None:
    only_noise = Augmentation(splice=0, speed=0, room=0, noise=1, time_masks=0, frequency_masks=0)
    clean = batches_of(pool, 60, augmentation=Augmentation.none(), alone=True)
    heard = batches_of(pool, 60, augmentation=only_noise, alone=True, clean_epochs=1)
    assert [same(*pair) for pair in zip(clean, heard, strict=True)] == [True] * 40 + [False] * 20


def test_augmented_speech_sounds_different_every_epoch(pool: SpeechPool) -> None:
    only_noise = Augmentation(splice=0, speed=0, room=0, noise=1, time_masks=0, frequency_masks=0)
    spoken: dict[str, list[Tensor]] = {}
    for batch in batches_of(pool, 60, augmentation=only_noise, alone=True)[:60]:
        spoken.setdefault(str(batch.texts[0]), []).append(batch.inputs["input_features"])
    twice = [heard for heard in spoken.values() if len(heard) == 2]
    assert len(twice) == 20
    assert not any(torch.equal(*heard) for heard in twice)


def test_spliced_utterances_are_one_text_in_the_order_they_are_heard_in(pool: SpeechPool) -> None:
    only_splices = Augmentation(
        splice=1, speed=0, room=0, noise=0, gain_db=0, time_masks=0, frequency_masks=0
    )
    heard = batches_of(pool, 12, augmentation=only_splices, alone=True)
    joined = [batch for batch in heard if " " in str(batch.texts[0])]
    assert joined
    for batch in joined:
        first, second = (pool.waveform(int(word[1:])) for word in str(batch.texts[0]).split())
        samples = batch.inputs["input_features"].flatten().numpy()
        assert np.array_equal(samples, np.concatenate([first, second])[: len(samples)])


def test_a_splice_with_an_utterance_without_text_has_no_text(tmp_path: Path) -> None:
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", np.full(RATE * (1 + i), 0.1), RATE)
    (tmp_path / "0.txt").write_text("zero")
    (tmp_path / "2.txt").write_text("two")
    mixed = SpeechPool.read(open_corpus(tmp_path), RATE, skips=SkipLog())
    splices = Augmentation(splice=1, speed=0)
    texts = {
        (round(batch.seconds), batch.texts[0])
        for batch in batches_of(mixed, 40, augmentation=splices, alone=True)
    }
    # 0 and 1 together are as long as 2, the longest there is; nothing fits beside 2.
    assert texts <= {(3, None), (3, "two"), (1, "zero"), (2, None)}
    assert {(3, None), (3, "two")} <= texts


lengths_strategy = st.lists(st.floats(0.3, 30), min_size=1, max_size=80)


@given(
    lengths=lengths_strategy,
    batch_seconds=st.floats(1, 100),
    splice=st.floats(0, 1),
    speed=st.floats(0, 1),
    epoch=st.integers(0, 3),
    alone=st.booleans(),
)
def test_batches_of_an_epoch_keep_their_bound_and_hold_all_utterances_once(
    lengths: list[float], batch_seconds: float, splice: float, speed: float, epoch: int, alone: bool
) -> None:
    seconds = np.array(lengths)
    batches = epoch_batches(
        seconds,
        epoch,
        batch_seconds=batch_seconds,
        augmentation=Augmentation(splice=splice, speed=speed),
        seed=1,
        alone=alone,
    )
    heard = [index for batch in batches for stretch in batch for index, _ in stretch.parts]
    assert sorted(heard) == list(range(len(lengths)))
    for batch in batches:
        longest = max(stretch.seconds for stretch in batch)
        assert longest * len(batch) <= batch_seconds * (1 + 1e-9) or len(batch) == 1
        assert longest <= max(batch_seconds, max(lengths)) * (1 + 1e-9)
        assert len(batch) == 1 or not alone
        assert all(0.9 <= factor <= 1.1 for stretch in batch for _, factor in stretch.parts)


def test_the_padded_size_of_real_batches_is_what_was_planned(pool: SpeechPool) -> None:
    for batch in batches_of(pool, 60, augmentation=Augmentation(speed=1, splice=0.5)):
        rows, frames = batch.inputs["attention_mask"].shape
        # Resampling rounds to whole samples.
        assert rows * frames * HOP / RATE <= 10.0 + rows / RATE


def test_little_of_a_batch_is_padding() -> None:
    seconds = np.random.default_rng(0).uniform(1, 17, 2000)
    batches = epoch_batches(seconds, 0, batch_seconds=30.0, augmentation=Augmentation(), seed=0)

    def padded(batch: list[Stretch]) -> float:
        return len(batch) * max(stretch.seconds for stretch in batch)

    real = sum(stretch.seconds for batch in batches for stretch in batch)
    assert real / sum(map(padded, batches)) > 0.95
    assert real / len(batches) > 0.7 * 30


def test_short_and_long_batches_are_mixed() -> None:
    seconds = np.random.default_rng(0).uniform(1, 17, 500)
    batches = epoch_batches(seconds, 0, batch_seconds=30.0, augmentation=Augmentation(), seed=0)
    longest = [batch[0].seconds for batch in batches]
    ordered = sum(before >= after for before, after in pairwise(longest))
    assert 0.3 < ordered / len(longest) < 0.7


def test_masks_fall_on_features_and_leave_padding_alone(pool: SpeechPool) -> None:
    only_masks = Augmentation(splice=0, speed=0, room=0, noise=0, gain_db=0, time_masks=4, time_share=0.2)
    plain = batches_of(pool, 10, augmentation=Augmentation.none())
    masked = batches_of(pool, 10, augmentation=only_masks)
    changed = 0
    for before, after in zip(plain, masked, strict=True):
        different = before.inputs["input_features"] != after.inputs["input_features"]
        assert not different[~before.inputs["attention_mask"]].any()
        assert torch.equal(before.inputs["attention_mask"], after.inputs["attention_mask"])
        changed += int(different.any())
    assert changed == 10


def test_what_a_feed_gives_can_be_trained_on(pool: SpeechPool) -> None:
    with torch.inference_mode():
        batch = batches_of(pool, 1)[0]
    features = batch.inputs["input_features"]
    assert not features.is_inference()
    weight = torch.ones(HOP, requires_grad=True)
    (features @ weight).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None


def test_whoever_has_not_computed_yet_keeps_its_threads(tmp_path: Path) -> None:
    """PyTorch takes what another thread has set last, the first time that it computes."""
    program = f"""
import numpy, soundfile, torch
torch.set_num_threads(3)
from secateur.speech.augmentation import Augmentation
from secateur.speech.corpus import open_corpus
from secateur.speech.pool import SpeechPool
from secateur.speech.skips import SkipLog
from secateur.training.feed import Feed
soundfile.write("{tmp_path}/a.wav", numpy.zeros(16000), 16000)
pool = SpeechPool.read(open_corpus("{tmp_path}"), 16000, skips=SkipLog())
class Ears:
    pads_cleanly, inputs_per_second = True, 0.0
    model = torch.empty(0)
    def prepare(self, waves):
        return {{"attention_mask": torch.ones(len(waves), 5, dtype=torch.bool)}}
with Feed(Ears(), pool, augmentation=Augmentation.none(), seed=0, threads=1) as feed:
    next(feed)
    print(torch.get_num_threads())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "3\n"


def test_an_error_of_the_thread_is_raised_where_its_batch_would_have_come(pool: SpeechPool) -> None:
    calls = 0

    def third_fails(waves: Sequence[Waveform]) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ZeroDivisionError("the third")
        return feature_frames(waves)

    with Feed(ears(third_fails), pool, augmentation=Augmentation(), seed=0) as feed:
        assert [next(feed).step, next(feed).step] == [0, 1]
        for _ in range(2):
            with pytest.raises(ZeroDivisionError, match="the third"):
                next(feed)


def test_a_closed_feed_has_no_batches_and_closing_again_does_no_harm(pool: SpeechPool) -> None:
    feed = Feed(ears(), pool, augmentation=Augmentation(), seed=0)
    next(feed)
    feed.close()
    feed.close()
    assert list(feed) == []


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.1])
def test_closing_ends_the_thread_whatever_it_is_doing(pool: SpeechPool, pause: float) -> None:
    def slow(waves: Sequence[Waveform]) -> dict[str, Tensor]:
        time.sleep(pause)
        return feature_frames(waves)

    for wait in (0.0, 0.03):
        feed = Feed(ears(slow), pool, augmentation=Augmentation(), seed=0)
        time.sleep(wait)
        feed.close()


def test_a_teacher_hears_what_the_batch_holds_masks_and_padding_included(pool: SpeechPool) -> None:
    heard = []

    def teach(inputs: dict[str, Tensor]) -> Tensor:
        heard.append({name: tensor.clone() for name, tensor in inputs.items()})
        return inputs["input_features"].sum()

    augmentation = Augmentation.of("masks")
    with Feed(
        ears(inputs_per_second=100.0),
        pool,
        batch_seconds=60.0,
        augmentation=augmentation,
        seed=0,
        teach=teach,
    ) as feed:
        batches = list(islice(feed, 5))
    for batch, inputs in zip(batches, heard, strict=False):
        assert batch.inputs.keys() == inputs.keys()
        assert all(torch.equal(batch.inputs[name], tensor) for name, tensor in inputs.items())
        assert torch.equal(batch.taught, inputs["input_features"].sum())


def test_only_a_few_batches_are_prepared_ahead(pool: SpeechPool) -> None:
    prepared = 0

    def counted(waves: Sequence[Waveform]) -> dict[str, Tensor]:
        nonlocal prepared
        prepared += 1
        return feature_frames(waves)

    with Feed(ears(counted), pool, augmentation=Augmentation.none(), seed=0) as feed:
        next(feed)
        time.sleep(0.2)
        assert prepared == 4


def test_waiting_for_batches_is_measured(pool: SpeechPool) -> None:
    def slow(waves: Sequence[Waveform]) -> dict[str, Tensor]:
        time.sleep(0.05)
        return feature_frames(waves)

    with Feed(ears(slow), pool, augmentation=Augmentation.none(), seed=0) as feed:
        list(islice(feed, 4))
        assert 0.1 < feed.waited < 2.0
        time.sleep(0.3)
        before = feed.waited
        next(feed)
        assert feed.waited - before < 0.03


@pytest.mark.parametrize("wrong", [{"batch_seconds": 0.0}, {"seed": -1}, {"start": -1}])
def test_settings_that_make_no_feed_are_refused(pool: SpeechPool, wrong: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"seed": 0, **wrong}
    with pytest.raises(SecateurError, match="cannot be made: give"):
        Feed(ears(), pool, augmentation=Augmentation(), **settings)


def test_a_night_is_planned_in_no_time() -> None:
    seconds = np.random.default_rng(0).uniform(1, 17, 2000)
    # On a busy machine the clock on the wall measures the others.
    started = time.thread_time()
    for epoch in range(5):
        epoch_batches(seconds, epoch, batch_seconds=30.0, augmentation=Augmentation(), seed=0)
    assert time.thread_time() - started < 1.0


def test_real_opus_speech_is_prepared_for_the_real_conformer(shared: Path) -> None:
    recognizer = load(shared / "models" / "conformer-ctc-small.nemo")
    corpus = open_corpus(shared / "data" / "unlabelled", limit=6)
    speech = SpeechPool.read(corpus, recognizer.sample_rate, skips=SkipLog())
    with Feed(
        recognizer,
        speech,
        augmentation=Augmentation(speed=1, room=1, noise=1),
        seed=0,
    ) as feed:
        batch = next(feed)
    features, real = batch.inputs["input_features"], batch.inputs["attention_mask"]
    assert features.shape[2] == 80
    assert real.dtype == torch.bool
    assert torch.isfinite(features).all()
    assert batch.seconds == pytest.approx(float(real.sum()) / 100, rel=0.01)
    assert batch.seconds <= 30.1
    assert batch.texts == [None] * len(features)


def test_batches_of_a_known_frame_rate_have_few_shapes_and_one_area(pool: SpeechPool) -> None:
    def feed(rate: float) -> list[Batch]:
        with Feed(
            ears(inputs_per_second=rate),
            pool,
            batch_seconds=30.0,
            augmentation=Augmentation(),
            seed=0,
        ) as batches:
            return list(islice(batches, 60))

    shaped, free = feed(RATE / HOP), feed(0.0)
    shapes = {tuple(batch.inputs["attention_mask"].shape) for batch in shaped}
    with Feed(
        ears(inputs_per_second=RATE / HOP, device="meta"),
        pool,
        batch_seconds=30.0,
        augmentation=Augmentation(),
        seed=0,
    ) as elsewhere:
        # Only a processor compiles for every shape.
        assert all(map(same, islice(elsewhere, 60), free))
    assert len(shapes) < len({tuple(batch.inputs["attention_mask"].shape) for batch in free}) / 3
    for batch in shaped:
        features, real = batch.inputs["input_features"], batch.inputs["attention_mask"]
        assert features.shape[:2] == real.shape
        assert features.shape[1] % 8 == 0
        assert real.numel() <= 2880
        assert not features[~real].any()
        assert int(real.sum()) == pytest.approx(batch.seconds * RATE / HOP, abs=len(batch.texts))
