"""The CTC loss (Graves et al. 2006), per token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def frames_needed(target: Tensor) -> int:
    """Frames that CTC writes a token sequence in at least: one a token, and a blank between two that are the same."""
    return len(target) + int((target[1:] == target[:-1]).sum())


def ctc_per_token(log_BTV: Tensor, targets: Sequence[Tensor | None], frames_B: Tensor, blank: int) -> Tensor:
    """The loss of all utterances of a batch over all their tokens, a scalar.

    Args:
        log_BTV: logarithms of the probabilities, float32.
        targets: token ids of each utterance, [tokens]. None, and what the frames cannot hold, counts for nothing.
        frames_B: of each utterance, without padding.
        blank: the token that writes nothing.
    """
    given = [torch.empty(0, dtype=torch.long) if target is None else target.cpu() for target in targets]
    lengths_B = torch.tensor([len(target) for target in given])
    losses_B = F.ctc_loss(
        log_BTV.transpose(0, 1),
        torch.cat(given).to(log_BTV.device),
        frames_B,
        lengths_B,
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )
    # Text that its frames cannot hold has an infinite loss, which is none here.
    counts_B = torch.tensor([frames_needed(target) for target in given]) <= frames_B.cpu()
    counts_B &= torch.tensor([target is not None for target in targets])
    return (losses_B * counts_B.to(losses_B.device)).sum() / int(lengths_B[counts_B].sum().clamp(min=1))
