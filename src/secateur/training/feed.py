"""Batches for training, without end: which speech when, augmented and prepared ahead by a thread."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from queue import Queue
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.errors import SecateurError
from secateur.speech.audio import Waveform
from secateur.speech.augmentation import Augmentation, change_speed
from secateur.speech.batching import BATCH_SECONDS, packed
from secateur.speech.pool import SpeechPool

if TYPE_CHECKING:
    from secateur.recognizer import Recognizer

# Batches whose utterances are sorted by length together: enough of them that little is padding, few enough that what
# is heard one after the other stays mixed.
_WINDOW_BATCHES = 20
# Batches that wait; one more is in the making. A slow file or a long utterance is absorbed, and memory is not.
_AHEAD = 2
# How many stretches there are in a batch: divisors of 360, so that batches of the same area have few shapes.
_SIZES = [size for size in range(1, 361) if 360 % size == 0]
# Frames that all of these divide, into lengths that subsampling by 8 divides.
_AREA = 8 * 360
# What random numbers of an epoch and of a step are drawn for, so that no epoch shares its numbers with a step.
_EPOCH, _STEP = 0, 1


@dataclass
class Batch:
    """What one step of training hears.

    Attributes:
        step: which batch it is, from 0.
        inputs: what ``Recognizer.prepare`` gives, with parts hidden: features [B, T, M] or samples [B, T], and
            attention_mask [B, T].
        texts: transcripts, None where there are none, [B].
        seconds: audio in it, as it is heard, in seconds; padding not counted.
        taught: what the feed's teacher makes of the inputs, if it has one.
    """

    step: int
    inputs: dict[str, Tensor]
    texts: list[str | None]
    seconds: float
    taught: Any = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is heard in one breath: an utterance, or two.

    Attributes:
        parts: which utterances of the pool, and how many times as fast each is spoken.
        seconds: its length at those speeds.
    """

    parts: tuple[tuple[int, float], ...]
    seconds: float


class Feed:
    """Endless batches of augmented speech, an iterator and a context manager.

    Batch k depends on the pool, the settings, the seed, the kind of device and k alone, so that a run that goes on at step k hears what it would
    have heard. Every epoch hears every utterance once, in an order of its own. A thread prepares batches ahead until
    the feed is closed; what goes wrong in it is raised where its batch was asked for.

    Args:
        recognizer: makes the inputs. A model that cannot hear several lengths at once gets one stretch a
            batch. Of another, batches are padded to a few shapes of nearly the same area: on a CPU, PyTorch compiles half-precision
            kernels for every shape that it meets, which takes longer than a step. That area is the multiple of 28.8 s (`_AREA` feature frames) below
            ``batch_seconds``; where it is less, batches are as they come.
        pool: the speech, at the recogniser's rate.
        start: the first step.
        batch_seconds: bound on a batch's padded size at the speeds it is heard at, its stretches times its longest,
            in seconds of audio. An utterance that is longer alone is a batch of its own.
        augmentation: what is done to the audio.
        clean_epochs: how often all of it is heard as it is before that.
        seed: of the order and of the augmentation, 0 or more.
        teach: what a teacher makes of inputs, to be found out ahead, in the thread that prepares batches.
        threads: how many threads that thread may compute in; None: as many as any other.

    Attributes:
        waited: how long batches have been waited for so far, in seconds.

    Raises:
        SecateurError: the bound, the seed or the start is out of its range.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        pool: SpeechPool,
        start: int = 0,
        *,
        batch_seconds: float = BATCH_SECONDS,
        augmentation: Augmentation,
        clean_epochs: int = 0,
        seed: int,
        teach: Callable[[dict[str, Tensor]], Any] | None = None,
        threads: int | None = None,
    ) -> None:
        if not (0 < batch_seconds < math.inf and seed >= 0 and start >= 0):
            raise SecateurError(
                f"batches of {batch_seconds:g} s from step {start} on with seed {seed} cannot be made: "
                "give a finite length above 0, and a step and a seed of 0 or more"
            )
        self.waited = 0.0
        # Where nothing is compiled for a shape, padding is only more to compute.
        compiles = recognizer.model.device.type == "cpu"
        self._area = int(batch_seconds * recognizer.inputs_per_second) // _AREA * _AREA * compiles
        if self._area:
            batch_seconds = self._area / recognizer.inputs_per_second
        self._recognizer = recognizer
        self._pool = pool
        self._alone = not recognizer.pads_cleanly
        self._batch_seconds = batch_seconds
        self._augmentation = augmentation
        self._clean_epochs = clean_epochs
        self._seed = seed
        self._start = start
        self._teach = teach
        self._threads = threads
        self._ready: Queue[Batch | BaseException] = Queue(_AHEAD)
        self._closed = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="secateur-feed", daemon=True)
        # Whoever has not computed yet would take the number of threads that was set last, in whichever thread.
        torch.get_num_threads()
        self._thread.start()

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> Batch:
        if self._closed.is_set():
            raise StopIteration
        if self._failure is None:
            asked = perf_counter()
            ready = self._ready.get()
            self.waited += perf_counter() - asked
            if isinstance(ready, Batch):
                return ready
            self._failure = ready
        raise self._failure

    def close(self) -> None:
        """End the thread, after the batch that it is preparing; there are no batches afterwards."""
        self._closed.set()
        # Whoever waits for room finds it, puts one batch and sees that the feed is closed.
        while not self._ready.empty():
            self._ready.get()
        self._thread.join()

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        try:
            if self._threads is not None:
                # Of this thread alone; others keep theirs.
                torch.set_num_threads(self._threads)
            for step, (stretches, augmentation) in enumerate(self._plan()):
                if step >= self._start and not self._closed.is_set():
                    self._ready.put(self._batch(step, stretches, augmentation))
                if self._closed.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised where the batch would have come
            self._ready.put(error)

    def _plan(self) -> Iterator[tuple[list[Stretch], Augmentation]]:
        """The stretches of each batch, and what is done to them."""
        for epoch in count():
            augmentation = Augmentation.none() if epoch < self._clean_epochs else self._augmentation
            batches = epoch_batches(
                self._pool.seconds,
                epoch,
                batch_seconds=self._batch_seconds,
                augmentation=augmentation,
                seed=self._seed,
                alone=self._alone,
            )
            for stretches in batches:
                yield stretches, augmentation

    def _batch(self, step: int, stretches: list[Stretch], augmentation: Augmentation) -> Batch:
        rng = np.random.default_rng([self._seed, _STEP, step])
        waves = [
            augmentation.disturb(self._spoken(stretch), self._pool.sample_rate, rng) for stretch in stretches
        ]
        inputs = self._recognizer.prepare(waves)
        real = inputs["attention_mask"]
        hidden = {
            name: tensor if tensor is real else augmentation.hide(tensor, real, rng)
            for name, tensor in inputs.items()
        }
        if self._area and not self._alone:
            frames = self._area // _size(max(stretch.seconds for stretch in stretches), self._batch_seconds)
            hidden = {name: _lengthened(tensor, frames) for name, tensor in hidden.items()}
        seconds = sum(map(len, waves)) / self._pool.sample_rate
        taught = None if self._teach is None else self._teach(hidden)
        return Batch(step, hidden, [self._text(stretch) for stretch in stretches], seconds, taught)

    def _spoken(self, stretch: Stretch) -> Waveform:
        waves = [change_speed(self._pool.waveform(index), factor) for index, factor in stretch.parts]
        return waves[0] if len(waves) == 1 else np.concatenate(waves)

    def _text(self, stretch: Stretch) -> str | None:
        texts = [text for index, _ in stretch.parts if (text := self._pool.text(index)) is not None]
        return " ".join(filter(None, texts)) if len(texts) == len(stretch.parts) else None


def epoch_batches(
    seconds: npt.NDArray[np.float64],
    epoch: int,
    *,
    batch_seconds: float,
    augmentation: Augmentation,
    seed: int,
    alone: bool = False,
) -> list[list[Stretch]]:
    """Which utterances of a pool are heard together in an epoch, and when.

    Speeds and splices are drawn here, before utterances are packed, so that batches keep their bound.

    Args:
        seconds: lengths of the utterances, [utterances].
        epoch: from 0.
        batch_seconds: bound on the padded size of a batch, see `Feed`.
        augmentation: draws speeds and splices.
        seed: of the order.
        alone: one stretch a batch.
    """
    rng = np.random.default_rng([seed, _EPOCH, epoch])
    batches: list[list[Stretch]] = []
    for window in _windows(_stretches(seconds, batch_seconds, augmentation, rng), batch_seconds):
        bound = 0.0 if alone else batch_seconds
        together = packed(window, lambda stretch: stretch.seconds, partial(_size, bound=bound))
        batches += [together[i] for i in rng.permutation(len(together))]
    return batches


def _stretches(
    seconds: npt.NDArray[np.float64],
    batch_seconds: float,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> list[Stretch]:
    """All utterances in random order, at their speeds; two are spliced if the result fits a batch and is no longer than the longest."""
    lengths = seconds.tolist()
    longest = min(batch_seconds, max(lengths))
    stretches: list[Stretch] = []
    open_end = False
    for index in rng.permutation(len(seconds)).tolist():
        factor = augmentation.draw_speed(rng)
        # Slower speech must not outgrow a batch that held it.
        if lengths[index] / factor > batch_seconds:
            factor = 1.0
        this = Stretch(((index, factor),), lengths[index] / factor)
        if open_end and stretches[-1].seconds + this.seconds <= longest:
            last = stretches[-1]
            stretches[-1] = Stretch(last.parts + this.parts, last.seconds + this.seconds)
            open_end = False
        else:
            stretches.append(this)
            open_end = augmentation.draw_splice(rng)
    return stretches


def _windows(stretches: list[Stretch], batch_seconds: float) -> Iterator[list[Stretch]]:
    window: list[Stretch] = []
    held = 0.0
    for stretch in stretches:
        window.append(stretch)
        held += stretch.seconds
        if held >= _WINDOW_BATCHES * batch_seconds:
            yield window
            window, held = [], 0.0
    if window:
        yield window


def _size(longest: float, bound: float) -> int:
    """How many stretches there may be in a batch whose longest is of so many seconds."""
    return max((size for size in _SIZES if size * longest <= bound), default=1)


def _lengthened(tensor: Tensor, frames: int) -> Tensor:
    """A batch of inputs, or their mask, with padding up to that many frames; [B, T, ...] -> [B, frames, ...]."""
    missing = max(frames, -(-tensor.shape[1] // 8) * 8) - tensor.shape[1]
    return F.pad(tensor, [0, 0] * (tensor.dim() - 2) + [0, missing])
