"""Ctrl-C in the middle of a step: it is done when the step is. SIGTERM and SIGHUP are the same, from those who do not type."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What a terminal, a job queue or a container sends to have a program end."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the context whoever stops the program does it as Ctrl-C would, unless the program was started not to heed that."""
    taken = [] if threading.current_thread() is not threading.main_thread() else STOPS
    before = {each: signal.getsignal(each) for each in taken}
    heeded = [each for each, handler in before.items() if handler is signal.SIG_DFL]
    for each in heeded:
        signal.signal(each, signal.default_int_handler)
    try:
        yield
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
    waiting = (
        [] if alone else [each for each in STOPS if signal.getsignal(each) is signal.default_int_handler]
    )

    def heed(handler: Callable[..., object]) -> None:
        for each in waiting:
            signal.signal(each, handler)

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True
        # A closed terminal and a job queue send several at once.
        if signal.SIGINT in waiting:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    heed(note)
    try:
        yield lambda: pressed
    finally:
        heed(signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt
