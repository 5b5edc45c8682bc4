"""Settling: a block of a pruned model is trained for a few steps to put out what the unpruned model's stream is behind it.

Closed form finds the best weights of one layer at a time, and of those alone that read what was pruned. From there all weights of a
block learn together: what makes the units that are left, norms, and what reads them. Neither the teacher nor another block is run, so that
a step costs a small part of one of distillation.

Li et al. 2021, "BRECQ" (arXiv 2102.05426) settle blocks so whose weights were rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from secateur.training.trainer import falling, rising

RATE = 1e-3
"""Peak learning rate; it rises for the first tenth of the steps and falls along half a cosine."""

LONGEST = 1.0
"""Length at which gradients are clipped."""


def settle(
    parameters: Sequence[nn.Parameter],
    run: Callable[[int], Tensor],
    targets: Sequence[Tensor],
    frames: Sequence[Tensor],
    steps: int,
    generator: torch.Generator,
) -> None:
    """Train a block in place.

    Args:
        parameters: of the block, or of more than it: those that it does not depend on stay.
        run: the block on the batch of that number: [batch, frames, width].
        targets: what it is to put out, for each batch.
        frames: which positions of each batch to learn from, of [batch x frames].
        steps: a batch each, all in random order before one comes again.
        generator: draws the order.
    """
    number = [index for index, positions in enumerate(frames) if len(positions)]
    before = [parameter.requires_grad for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rising(step, max(1.0, steps / 10)) * falling(step / max(1, steps))
    )
    order: list[int] = []
    with torch.enable_grad():
        for parameter in parameters:
            parameter.requires_grad_()
        for _ in range(steps):
            order = order or [number[i] for i in torch.randperm(len(number), generator=generator).tolist()]
            index = order.pop()
            x, y = (each.flatten(0, 1)[frames[index]] for each in (run(index), targets[index]))
            spread = (y - y.mean(0)).square().sum()
            loss = (x - y).square().sum() / spread.clamp(min=torch.finfo(spread.dtype).tiny)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, LONGEST)
            optimizer.step()
            schedule.step()
        optimizer.zero_grad()
    for parameter, required in zip(parameters, before, strict=True):
        parameter.requires_grad_(required)
