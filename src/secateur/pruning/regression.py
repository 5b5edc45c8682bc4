"""Ridge regression of a layer from sums over frames, so that no frame needs to be kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.structure.surgery import Constant

# Rows of the matrix of second moments that are summed at a time; of each only what is right of the diagonal.
STRIP = 128


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
        self._origin: tuple[Tensor, Tensor] | None = None
        self._sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add frames: inputs x, [frames, inputs], and what should come out, y, [frames, outputs]."""
        if len(x) == 0:
            return
        if isinstance(self.module, Constant):
            x = x[:, :0]
        # Sums of products need more digits than half precision has.
        x, y = (each if each.dtype == torch.double else each.float() for each in (x, y))
        if self._origin is None:
            self._origin = x[0], y[0]
        if isinstance(self.module.bias, Tensor):
            # Seen from one of the frames, so that no digits are lost where the mean is large beside the variance.
            x, y = x - self._origin[0], y - self._origin[1]
        inputs, outputs = x.shape[1], y.shape[1]
        if not self._sums:
            shapes = ((inputs, inputs), (inputs, outputs), (inputs,), (outputs,))
            self._sums = [torch.zeros(shape, dtype=torch.double, device=x.device) for shape in shapes]
        for start in range(0, inputs, STRIP):
            self._sums[0][start : start + STRIP, start:] += x[:, start : start + STRIP].T @ x[:, start:]
        for total, product in zip(self._sums[1:], (x.T @ y, x.sum(0), y.sum(0)), strict=True):
            total += product
        self.count += len(x)

    def solve(self) -> None:
        """Put the solution into the layer; it stays as it is where there was no frame."""
        if self._origin is None:
            return
        xx, xy, x, y = self._sums
        xx = xx.triu() + xx.triu(1).T
        mean_x, mean_y = x / self.count, y / self.count
        bias = self.module.bias
        solution = xy
        if not isinstance(self.module, Constant):
            weight = self.module.weight
            assert isinstance(weight, Tensor)
            if isinstance(bias, Tensor):
                xx = xx.addr(x, mean_x, alpha=-1)
                xy = xy.addr(x, mean_y, alpha=-1)
            # With inputs that never vary there is nothing to learn but the bias.
            pull = (self.ridge * xx.diagonal().mean()).clamp(min=torch.finfo(torch.float32).tiny)
            xx.diagonal().add_(pull)
            solution = torch.linalg.solve(xx, xy + pull * weight.flatten(1).T)
            weight.copy_(solution.T.reshape(weight.shape))
        if isinstance(bias, Tensor):
            bias.copy_(self._origin[1] + mean_y - (self._origin[0] + mean_x) @ solution)
