"""The exception that callers and the command line need to catch, and the words for what others raise."""

from __future__ import annotations


class SecateurError(Exception):
    """Something the user can put right: one sentence naming the thing, the value and the way out."""


class NoResultError(SecateurError):
    """What was asked comes to nothing however often it is tried, where another method or other settings may."""


def installed_by(extra: str) -> str:
    """How what an extra of the package brings is installed; there is no package on PyPI."""
    return f"pip install '.[{extra}]' in a clone of Secateur"


def reason(error: Exception) -> str:
    """The first line of an error, or what the system calls it."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip().split("\n", 1)[0].rstrip(".")
