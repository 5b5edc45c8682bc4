"""Timing that holds on a busy machine: candidates take turns in one run, on a set number of threads."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
import torch
from torch import nn


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


def wait_for(device: str | torch.device) -> None:
    """Wait until a CUDA device has done what is queued on it; on the CPU nothing is ever queued."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


Mark = float | torch.cuda.Event
"""A point in time on a device; on a CUDA device one that its queue of work passes, so that nobody need wait for it meanwhile."""


def mark(device: str | torch.device, clock: Callable[[], float] = perf_counter) -> Mark:
    """This point in time; ``clock`` is that of a CPU."""
    if torch.device(device).type != "cuda":
        return clock()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(earlier: Mark, later: Mark) -> float:
    """How much later; the device must have passed both marks."""
    if isinstance(earlier, float) and isinstance(later, float):
        return later - earlier
    return earlier.elapsed_time(later) / 1e3  # type: ignore[union-attr]


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
        started[name] = mark(device)

    def leave(name: str, *_: object) -> None:
        calls.append((name, started[name], mark(device)))

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(partial(enter, name)).remove)
            hooks.callback(module.register_forward_hook(partial(leave, name)).remove)
        yield spent
    wait_for(device)
    for name, start, end in calls:
        spent[name] = spent.get(name, 0.0) + seconds_between(start, end)


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
