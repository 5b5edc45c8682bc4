"""Between refitted weights and recovered ones: how far to go, by what hears best.

Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv 2109.01903).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

PARTS = (1.0, 0.85, 0.7, 0.0)
"""How far to go from the refitted weights to the recovered ones. Not at all is best where little was pruned and little trained."""


def mix(
    refitted: Mapping[str, Tensor], model: nn.Module, validate: Callable[[], float]
) -> dict[float, float]:
    """Take a recovered model back towards the refitted weights as far as it is better there.

    Args:
        refitted: the last state before anything was trained end to end: what recovery began with, or a search before it.
        model: as recovery left it; it ends where it is best, and of equals as far from ``refitted`` as it may.
        validate: measures the model; the lower the better.

    Returns:
        What was measured, by the part of the way.
    """
    recovered = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def go(part: float) -> None:
        model.load_state_dict(
            {
                name: torch.lerp(refitted[name], tensor, part) if tensor.is_floating_point() else tensor
                for name, tensor in recovered.items()
            }
        )

    heard = {}
    for part in PARTS:
        go(part)
        heard[part] = validate()
    go(min(PARTS, key=heard.__getitem__))
    return heard
