"""Secateur prunes trained speech recognisers: the public names, each imported when it is first used."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secateur.errors import SecateurError
    from secateur.evaluation.evaluate import evaluate
    from secateur.pruning.planning.budget import Budget
    from secateur.pruning.prune import prune
    from secateur.pruning.settings import PruneSettings
    from secateur.recognizer import Recognizer, load
    from secateur.structure.plan import PruningPlan
    from secateur.supervised.settings import TrainSettings
    from secateur.supervised.train import train

# oneDNN compiles a kernel for every layer and every shape of a batch, and by default keeps 1,024 of them, which is too few for
# a pruned model, whose layers all differ. It reads this when it computes first.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "PruneSettings",
    "PruningPlan",
    "Recognizer",
    "SecateurError",
    "TrainSettings",
    "__version__",
    "evaluate",
    "load",
    "prune",
    "train",
]

_HOMES = {
    "Budget": "secateur.pruning.planning.budget",
    "PruneSettings": "secateur.pruning.settings",
    "PruningPlan": "secateur.structure.plan",
    "Recognizer": "secateur.recognizer",
    "SecateurError": "secateur.errors",
    "TrainSettings": "secateur.supervised.settings",
    "evaluate": "secateur.evaluation.evaluate",
    "load": "secateur.recognizer",
    "prune": "secateur.pruning.prune",
    "train": "secateur.supervised.train",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
