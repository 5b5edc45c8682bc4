"""Ridge regression of a layer from sums over frames, so that no frame needs to be kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.structure.surgery import Constant


class Regression:
    """Least squares for the weight and the bias of a layer, pulled towards the weight it has.

        minimise over W, b   sum_t |y_t - W x_t - b|^2 + r |W - W_before|^2

    The bias is free. A `Constant` has nothing but a bias, which becomes the mean of y.

    Args:
        module: linear, or a convolution whose windows are flattened as ``weight.flatten(1)`` is.
        ridge: r, in units of the mean variance of an input summed over frames.
    """

    def __init__(self, module: nn.Module, ridge: float) -> None:
        self.module = module
        self.ridge = ridge
        self.count = 0
        self._sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add frames: inputs x, [frames, inputs], and what should come out, y, [frames, outputs]."""
        if isinstance(self.module, Constant):
            x = x[:, :0]
        products = [x.T @ x, x.T @ y, x.sum(0), y.sum(0)]
        before = self._sums or [torch.zeros((), dtype=torch.double, device=x.device)] * len(products)
        self._sums = [total + product.double() for total, product in zip(before, products, strict=True)]
        self.count += len(x)

    def solve(self) -> None:
        """Put the solution into the layer; it stays as it is where there was no frame."""
        if self.count == 0:
            return
        xx, xy, x, y = self._sums
        mean_x, mean_y = x / self.count, y / self.count
        if isinstance(self.module, Constant):
            if self.module.bias is not None:
                self.module.bias.copy_(mean_y)
            return
        weight, bias = self.module.weight, self.module.bias
        assert isinstance(weight, Tensor)
        if isinstance(bias, Tensor):
            xx = xx - self.count * torch.outer(mean_x, mean_x)
            xy = xy - self.count * torch.outer(mean_x, mean_y)
        # With inputs that never vary there is nothing to learn but the bias.
        pull = (self.ridge * xx.diagonal().mean()).clamp(min=torch.finfo(torch.float32).tiny)
        system = xx + pull * torch.eye(len(xx), dtype=xx.dtype, device=xx.device)
        solution = torch.linalg.solve(system, xy + pull * weight.flatten(1).T)
        weight.copy_(solution.T.reshape(weight.shape))
        if isinstance(bias, Tensor):
            bias.copy_(mean_y - mean_x @ solution)
