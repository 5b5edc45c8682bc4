"""The one exception that callers and the command line need to catch, and the words for what others raise."""

from __future__ import annotations


class SecateurError(Exception):
    """Something the user can put right: one sentence naming the thing, the value and the way out."""


class NoResultError(SecateurError):
    """What was asked comes to nothing however often it is tried, where another method or other settings may."""


def reason(error: Exception) -> str:
    """The first line of an error, or what the system calls it."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip().split("\n", 1)[0].rstrip(".")
