"""Interleaved timing and the thread count."""

from __future__ import annotations

import gc
import time
from itertools import count

import pytest
import torch
from torch import nn

from secateur.timing import Spread, clocked, interleave, threads


def test_every_round_runs_every_candidate_once_and_the_order_alternates():
    calls: list[str] = []
    timings = interleave(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warm_up=1
    )
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(seconds) for name, seconds in timings.seconds.items()} == {"a": 3, "b": 3}


def test_the_ratio_is_that_of_the_times_taken():
    timings = interleave(
        {"long": lambda: time.sleep(0.02), "short": lambda: time.sleep(0.01)}, rounds=5, warm_up=0
    )
    ratio = timings.ratio("long", "short")
    assert ratio.low <= ratio.median <= ratio.high
    assert ratio.median == pytest.approx(2, abs=0.5)
    assert timings.of("long").median >= 0.02


def test_a_spread_is_median_and_quartiles():
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(median=3.0, low=2.0, high=4.0)


def test_garbage_collection_is_on_again_after_a_candidate_fails():
    def fail():
        assert not gc.isenabled()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        interleave({"fails": fail}, warm_up=0)
    assert gc.isenabled()


def test_nothing_to_time_is_an_error():
    with pytest.raises(ValueError):
        interleave({})


def test_the_thread_count_holds_inside_the_block_only():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before
    with threads(None):
        assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="at least one"), threads(0):
        pass


def test_on_a_gpu_nobody_waits_for_it_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str] = []
    passed = count(1)

    class Event:
        """One that the device passes a millisecond after the one before."""

        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, _stream: object) -> None:
            self.at = next(passed)

        def elapsed_time(self, later: Event) -> float:
            assert waits
            return later.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with clocked({"all": net, "first": net[0]}, "cuda") as spent:
        net(torch.zeros(1, 2))
        net(torch.zeros(1, 2))
    assert waits == ["cuda"]
    # Both marks of the first layer lie between the two of all.
    assert spent == pytest.approx({"all": 6e-3, "first": 2e-3})
