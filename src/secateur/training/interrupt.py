"""Ctrl-C in the middle of a step: it is done when the step is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def patience() -> Iterator[Callable[[], bool]]:
    """Within the context a first Ctrl-C waits to be asked for, and ends the context; a second one does not wait.

    In the middle of a step weights, moments and multipliers are of different steps, and could not be gone on from.
    """
    pressed = False
    before = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    # Another thread gets no signals, and another handler knows what it does.
    waits = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if waits:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        if waits:
            signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
