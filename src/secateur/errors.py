"""The one exception that callers and the command line need to catch."""

from __future__ import annotations


class SecateurError(Exception):
    """Something the user can put right: one sentence naming the thing, the value and the way out."""
