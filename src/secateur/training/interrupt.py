"""Ctrl-C in the middle of a step: it is done when the step is. SIGTERM and SIGHUP are the same, from those who do not type."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What a terminal, a job queue or a container sends to have a program end."""


class Stop:
    """What a signal does that asks the program to end: a `KeyboardInterrupt`, wherever it is at. ``asked``: whether one came."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, *_: object) -> None:
        self.asked = True
        raise KeyboardInterrupt


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within the context whoever stops the program does it as Ctrl-C would, unless the program was started not to heed that."""
    stop = Stop()
    taken = [] if threading.current_thread() is not threading.main_thread() else STOPS
    before = {each: signal.getsignal(each) for each in taken}
    heeded = [
        each for each, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)
    ]
    for each in heeded:
        signal.signal(each, stop)
    try:
        yield stop
    finally:
        for each in heeded:
            signal.signal(each, before[each])


@contextmanager
def patience() -> Iterator[Callable[[], bool]]:
    """Within the context whoever stops the program waits to be asked for, and ends the context; a second Ctrl-C does not wait.

    In the middle of a step weights, moments and multipliers are of different steps, and could not be gone on from.
    """
    pressed = False
    # Another thread gets no signals, and another handler knows what it does.
    alone = threading.current_thread() is not threading.main_thread()
    before = {} if alone else {each: signal.getsignal(each) for each in STOPS}
    waiting = {
        each: handler
        for each, handler in before.items()
        if isinstance(handler, Stop) or handler is signal.default_int_handler
    }

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True
        # A closed terminal and a job queue send several at once.
        if signal.SIGINT in waiting:
            signal.signal(signal.SIGINT, waiting[signal.SIGINT])

    for each in waiting:
        signal.signal(each, note)
    try:
        yield lambda: pressed
    finally:
        for each, handler in waiting.items():
            signal.signal(each, handler)
    if pressed:
        raise KeyboardInterrupt
