"""What could not be read: counted, named, and an error once it is too much."""

from __future__ import annotations

from dataclasses import dataclass, field

from secateur.errors import SecateurError


class BrokenEntryError(Exception):
    """Raised while reading one entry of a corpus that is no utterance; the message is the reason, as a clause."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """One entry of a corpus that was left out.

    Attributes:
        name: where it is: a path, an utterance's id, or a manifest's name and line.
        reason: why it was left out, as a clause: "is not JSON".
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass
class SkipLog:
    """Counts what was read and what was not, and stops a run that is losing too much of its data.

    A few bad files must not cost a night's run, and a corpus that is mostly unreadable must not quietly become a
    small one. So up to `limit` entries may go, whatever the size of the corpus, and in a large one up to `share` of
    what has been read so far. `SkipLog(limit=0, share=0)` forgives nothing.

    Attributes:
        limit: entries that may be skipped in any case.
        share: fraction of all entries so far that may be skipped.
        named: how many of the first skipped entries are remembered.
        read: entries read so far.
        skipped: entries skipped so far.
        first: the first skipped entries.
    """

    limit: int = 10
    share: float = 0.01
    named: int = 5
    read: int = 0
    skipped: int = 0
    first: list[Skipped] = field(default_factory=list)

    def count(self) -> None:
        """Note one entry that was read."""
        self.read += 1

    def skip(self, entry: Skipped) -> None:
        """Note one entry that was not.

        Raises:
            SecateurError: more have been skipped than `limit` and `share` allow.
        """
        self.skipped += 1
        if len(self.first) < self.named:
            self.first.append(entry)
        if self.skipped > max(self.limit, self.share * (self.read + self.skipped)):
            raise SecateurError(
                f"too much of the data has to be left out ({self.summary()}): fix it, or leave those files out"
            )

    def check_any_read(self) -> None:
        """Refuse data of which nothing was read.

        Raises:
            SecateurError: there was nothing, or all of it has been skipped.
        """
        if not self.read:
            raise SecateurError(
                f"there is nothing to hear ({self.summary()}): give data with audio that can be read"
            )

    def summary(self) -> str:
        """One line for the end of a run, such as `skipped 2 of 462: a.wav: is empty (0 bytes); ...`."""
        if not self.skipped:
            return f"nothing skipped of {self.read}"
        names = "; ".join(map(str, self.first))
        more = self.skipped - len(self.first)
        return f"skipped {self.skipped} of {self.read + self.skipped}: {names}" + (
            f"; and {more} more" if more else ""
        )
