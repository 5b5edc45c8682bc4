"""The optimal brain surgeon: inputs of one layer removed block after block, the rest refitted at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.errors import SecateurError
from secateur.pruning.planning.elimination import Elimination
from secateur.pruning.scoring.statistics import LayerStatistics

_ROUNDING = 1e-12
_LEAST = 1e-23
"""Added where inputs are nothing at all."""


def surgeon_order(
    weight: Tensor,
    statistics: LayerStatistics,
    blocks: Tensor,
    *,
    has_bias: bool,
    ridge: float = 1e-3,
    share: int = 24,
) -> Elimination:
    """Backward elimination of input blocks of a linear layer, the rest of its weights refitted in closed form.

    With the Fisher information of the weights as the Kronecker product of the inputs' second moments H and the output
    metric M, and V = M^(1/2) W, removing the inputs B does the harm

        1/2 tr(V_B [(H^-1)_BB]^-1 V_B'),

    after which V -= V_B [(H^-1)_BB]^-1 (H^-1)_B: and H^-1 -= (H^-1)_:B [(H^-1)_BB]^-1 (H^-1)_B:. From LeCun et al. 1990
    and Hassibi et al. 1993, by blocks as in Frantar & Alistarh 2023 (arXiv 2301.00774) and Kurtic et al. 2023 (arXiv
    2302.04089). A bias is one more input, which stays: then H is the covariance.

    Args:
        weight: [O, F].
        statistics: of the layer, with gram and metric.
        blocks: inputs of each unit, [units, inputs of a unit].
        has_bias: whether the layer has a bias to refit.
        ridge: added to H, as a fraction of its mean diagonal.
        share: of the units left, one in ``share`` goes at each step, at least one.
    """
    assert statistics.gram is not None
    assert statistics.metric is not None
    hessian = statistics.gram
    if has_bias:
        hessian = hessian - torch.outer(statistics.mean, statistics.mean)
    # Inputs that hardly change have a covariance of rounding errors, of the moments that they are the difference of.
    least = _ROUNDING * statistics.gram.diagonal().mean() + _LEAST
    inverse = _inverse(hessian, (ridge * hessian.diagonal().mean()).clamp(min=least)).float()
    strength, directions = torch.linalg.eigh(statistics.metric)
    root = strength.clamp(min=0).sqrt()[:, None] * directions.T
    values = (root @ weight.double().cpu()).float()

    units, width = torch.arange(len(blocks)), blocks.shape[1]
    # From here on the inputs of a unit stand together, and what is gone is cut away.
    values, inverse = values[:, blocks.flatten()], inverse[blocks.flatten()][:, blocks.flatten()]
    order: list[int] = []
    rise: list[Tensor] = []
    while len(units):
        each = torch.arange(len(units))
        own = inverse.view(len(units), width, len(units), width)[each, :, each]
        read = values.view(-1, len(units), width).permute(1, 2, 0)
        harm = (read * torch.linalg.solve(own, read)).sum((1, 2)).clamp(min=0).double()
        harm, chosen = harm.topk(max(1, len(units) // share), largest=False)
        going = torch.zeros(len(units), dtype=torch.bool)
        going[chosen] = True
        gone, stay = (mask.repeat_interleave(width).nonzero()[:, 0] for mask in (going, ~going))

        across = inverse[gone]
        solved = torch.linalg.solve(across[:, gone], torch.cat([values[:, gone].T, across[:, stay]], dim=1))
        refit, spread = solved[:, : len(values)], solved[:, len(values) :]
        # Together they do more harm than each alone; the sum over the step is exact.
        together = (values[:, gone].T * refit).sum().double()
        order += units[chosen].tolist()
        rise.append(statistics.positions / 2 * harm * (together / harm.sum().clamp(min=1e-300)).clamp(min=0))
        values = values[:, stay] - refit.T @ across[:, stay]
        inverse = inverse[stay][:, stay] - across[:, stay].T @ spread
        units = units[~going]
    return Elimination(tuple(order), torch.cat(rise))


def _inverse(moments: Tensor, level: Tensor) -> Tensor:
    """The inverse of second moments with ``level`` added to their diagonal, or ten times that, until they have one."""
    identity = torch.eye(len(moments), dtype=moments.dtype)
    while True:
        factor, failed = torch.linalg.cholesky_ex(moments + level * identity)
        if not failed:
            return torch.cholesky_inverse(factor)
        if not moments.isfinite().all():
            raise SecateurError(
                "what a layer reads is not finite: the model does not hear this speech, at least not in its precision"
            )
        level = 10 * level
