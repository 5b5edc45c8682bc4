"""Steps in which a model has the first units of each group alone, so that it learns to do with fewer than it has.

What is trained so can be pruned with less harm: what matters most comes to be in the units that are always there. Nested dropout (Rippel et al.
2014, arXiv 1402.0915) orders the units of one layer so; slimmable networks (Yu et al. 2018, arXiv 1812.08928) and MatFormer (Devvrit et
al. 2023, arXiv 2310.07707) are whole models that can be narrowed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from secateur.structure.groups import find_groups
from secateur.structure.masking import Masks, masked

SHARES = (0.3, 0.9)
"""What all groups are left, about: drawn for each narrow step."""

SPREAD = 0.2
"""How much more or less a single group may be left."""

FEWEST = 16
"""Groups of no more units stay whole, as heads do: it is their widths that are narrowed."""


class Nesting:
    """Makes a model narrow for some steps of its training.

    Args:
        model: what learns.
        part: of its steps that are narrow.
        seed: of which, and how narrow.
    """

    def __init__(self, model: PreTrainedModel, part: float, seed: int) -> None:
        self.model, self.part, self.seed = model, part, seed
        self.groups = find_groups(model)
        whole = self.groups.layers.keys() | self.groups.branches.keys()
        # Features of positions are what they are: none of them can come to stand before another.
        whole |= {
            name
            for name, group in self.groups.items()
            for site in group.sites
            if site.side == "input" and site.module in self.groups.selects
        }
        self.sizes = {
            name: group.size
            for name, group in self.groups.items()
            if name not in whole and group.size > FEWEST
        }

    def masks(self, step: int) -> Masks | None:
        """Ones for the units that are there in that step, by group; None: all are."""
        # Of the step alone, so that a run that is resumed draws what it would have drawn.
        draw = random.Random(self.seed * 1_000_003 + step)
        if draw.random() >= self.part or not self.sizes:
            return None
        share = draw.uniform(*SHARES)
        kept = {
            name: max(1, round(size * min(1.0, share + draw.uniform(-SPREAD, SPREAD))))
            for name, size in self.sizes.items()
        }
        device = self.model.device
        return {name: (torch.arange(self.sizes[name], device=device) < n).float() for name, n in kept.items()}

    @contextmanager
    def narrow(self, step: int) -> Iterator[bool]:
        """Within the context the model is as wide as it is to be in that step; says whether it is narrow.

        Where it is narrow, norms over batches take the statistics of the whole model, as they do when it has been pruned.
        """
        masks = self.masks(step)
        if masks is None:
            yield False
            return
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        with masked(self.model, self.groups, masks):
            yield True
