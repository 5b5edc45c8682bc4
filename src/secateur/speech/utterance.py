"""The unit of a corpus, and what a kind of data must offer to be one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from secateur.speech.skips import Skipped


@dataclass(frozen=True, slots=True)
class Utterance:
    """A stretch of speech in a file, and what was said in it.

    Attributes:
        id: unique in its corpus.
        path: the audio file.
        text: the transcript; None when there is none anywhere, "" when it says that nothing was said.
        offset: start in the file, in seconds.
        duration: length in seconds; None: to the end of the file.
        flaw: why a transcript that is there cannot be read, as a clause; whoever wants no text hears the audio all the same.
    """

    id: str
    path: Path
    text: str | None = None
    offset: float = 0.0
    duration: float | None = None
    flaw: str | None = None


class Source(Protocol):
    """The one thing that a kind of data has to offer: a call that reads it from its start, in a fixed order.

    What cannot be read is yielded too, as `Skipped`, so that whoever reads decides how much of it is too much.
    A generator function without arguments is a source, and so is a `functools.partial` of one with them.
    """

    def __call__(self) -> Iterator[Utterance | Skipped]:
        """Start again from the first entry."""
        ...
