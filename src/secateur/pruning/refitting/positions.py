"""Relative positions: what attention is told of them is known before anything is heard.

Their table holds sinusoids of the distance between two frames, of which each layer of our Conformer reads the columns that it keeps. A sum
of sinusoids that fits some distances goes anywhere beyond them, so what reads fewer columns is judged and refitted on all distances that
there are in speech heard in one piece, whatever the speech at hand. Beyond two seconds each doubling of the distance counts alike.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.models.conformer import relative_positions
from secateur.pruning.refitting.regression import Regression
from secateur.recognizer import WHOLE_SECONDS
from secateur.structure.counting import FRAMES_PER_SECOND
from secateur.structure.surgery import SelectingLinear

NEAR_SECONDS = 2.0
# Positions are known and not heard: there is nothing to learn by heart, and the pull keeps weights from cancelling each other.
RIDGES = (1e-5,)


def every_distance(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """The table that a Conformer's layers read, [distances, width], and what each distance counts, [distances], one in sum; in double precision."""
    second = FRAMES_PER_SECOND / model.config.subsampling_factor
    frames = round(WHOLE_SECONDS * second)
    table = relative_positions(frames, model.config.hidden_size).double()
    share = 1 / (torch.arange(1 - frames, frames).abs().double() + NEAR_SECONDS * second)
    return table, share / share.sum()


def moments(model: PreTrainedModel, projection: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean, [columns], and mean of the products, [columns, columns], of what a layer's projection of positions reads."""
    table, share = every_distance(model)
    x = read(projection, table)
    return share @ x, x.T @ (share[:, None] * x)


def refit_positions(model: PreTrainedModel, projection: nn.Module, before: nn.Module, weight: Tensor) -> None:
    """Bring a projection of positions that lost columns back to what it put out before.

    What is the same for all distances moves no softmax, so it is left out.

    Args:
        model: what the projection was part of before.
        projection: refitted in place.
        before: what it was then.
        weight: what that multiplied its columns by, of the outputs that stay: [outputs, columns before].
    """
    table, share = every_distance(model)
    x = read(projection, table)
    y = read(before, table) @ weight.double().cpu().T
    x, y = ((each - share @ each) * share.sqrt()[:, None] for each in (x, y))
    regression = Regression(projection, RIDGES)
    regression.add(x.to(weight.device), y.to(weight.device))
    regression.solve()


def read(projection: nn.Module, table: Tensor) -> Tensor:
    """The columns of the table that a projection reads."""
    return table[:, projection.columns] if isinstance(projection, SelectingLinear) else table
