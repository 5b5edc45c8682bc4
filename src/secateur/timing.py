"""Timing that holds on a busy machine: candidates take turns in one run, on a set number of threads."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from time import perf_counter

import numpy as np
import torch
from torch import nn

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's mallopt."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Summarise at least one value."""
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Timings:
    """Seconds of every run of every candidate; run i of each lies in the same round."""

    seconds: Mapping[str, list[float]]

    def of(self, name: str) -> Spread:
        """Seconds that one run of a candidate takes."""
        return Spread.of(self.seconds[name])

    def ratio(self, name: str, baseline: str) -> Spread:
        """How much time a candidate takes for each second of the baseline, round by round.

        Both runs of a round meet the same load of the machine, so this is steadier than the ratio of medians.
        """
        rounds = zip(self.seconds[name], self.seconds[baseline], strict=True)
        return Spread.of([own / other for own, other in rounds])


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 20,
    warm_up: int = 3,
    device: str | torch.device = "cpu",
) -> Timings:
    """Time callables in turns: each round runs every one once, every other round in reverse order.

    Args:
        candidates: what to run, by name.
        rounds: runs of each that are timed.
        warm_up: runs of each before those.
        device: where they compute; a clock is read when all work queued on it is done.

    Raises:
        ValueError: there is nothing to run, or no round to time.
    """
    if not candidates or rounds < 1:
        raise ValueError(f"{len(candidates)} candidates in {rounds} rounds leave nothing to time")
    hold_memory()
    for _ in range(warm_up):
        for run in candidates.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            for name in list(candidates)[:: -1 if turn % 2 else 1]:
                wait_for(device)
                start = perf_counter()
                candidates[name]()
                wait_for(device)
                seconds[name].append(perf_counter() - start)
    finally:
        if collecting:
            gc.enable()
    return Timings(seconds)


@cache
def hold_memory() -> None:
    """Let the C library keep memory that is freed, up to 1 GB, for what this process allocates next.

    By default glibc gives large blocks back to the system and gets them anew in every forward pass, until it has seen enough of them
    to stop; so the same model takes up to a quarter more time in a process that is young, and a large model more than a small one.
    Other C libraries are left alone.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_TRIM_THRESHOLD, 2**30)
            libc.mallopt(_MMAP_THRESHOLD, 2**25)  # The most that it takes.


def wait_for(device: str | torch.device) -> None:
    """Wait until a CUDA device has done what is queued on it; on the CPU nothing is ever queued."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


class Mark:
    """A point in time: now, or on a CUDA device when it has done what is queued on it, for which nobody need wait meanwhile."""

    def __init__(self, device: str | torch.device, clock: Callable[[], float] = perf_counter) -> None:
        """``clock`` is that of a CPU."""
        self._event: torch.cuda.Event | None = None
        self._now = 0.0
        if torch.device(device).type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(device))
        else:
            self._now = clock()

    def seconds_to(self, later: Mark) -> float:
        """How much later another is; the device must have passed both."""
        if self._event is None or later._event is None:
            return later._now - self._now
        return float(self._event.elapsed_time(later._event)) / 1e3


@contextmanager
def clocked(modules: Mapping[str, nn.Module], device: str | torch.device) -> Iterator[dict[str, float]]:
    """Seconds in the forward pass of every module, by its name here, added up over its calls; they are there when the context has ended.

    Args:
        modules: by any names; those that are never called get no seconds.
        device: where they compute.
    """
    started: dict[str, Mark] = {}
    calls: list[tuple[str, Mark, Mark]] = []
    spent: dict[str, float] = {}

    def enter(name: str, *_: object) -> None:
        started[name] = Mark(device)

    def leave(name: str, *_: object) -> None:
        calls.append((name, started[name], Mark(device)))

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(partial(enter, name)).remove)
            hooks.callback(module.register_forward_hook(partial(leave, name)).remove)
        yield spent
    wait_for(device)
    for name, start, end in calls:
        spent[name] = spent.get(name, 0.0) + start.seconds_to(end)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let PyTorch use that many threads inside the block (None: as many as it has), then as many as before.

    Raises:
        ValueError: the count is below one.
    """
    if count is not None and count < 1:
        raise ValueError(f"{count} threads cannot compute anything: ask for at least one")
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
