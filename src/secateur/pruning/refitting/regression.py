"""Ridge regression of a layer from sums over frames, so that no frame needs to be kept; what such frames are of a convolution, and which are held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.structure.surgery import Constant

# Rows of the matrix of second moments that are summed at a time; of each only what is right of the diagonal.
STRIP = 128


class Regression:
    """Least squares for the weight and the bias of a layer, pulled towards the weight it has.

        minimise over W, b   sum_t |y_t - W x_t - b|^2 + r |W - W_before|^2

    The bias is free. A `Constant` has nothing but a bias, which becomes the mean of y.

    How strong the pull should be is told by frames that are held out: from the weakest on, r rises for as long as the
    solution without them errs less on them, which sums alone can say. The layer is then solved for on all frames.

    Args:
        module: linear, or a convolution whose windows are flattened as ``weight.flatten(1)`` is.
        ridges: choices for r in rising order, in units of the mean variance of an input summed over frames. The last is
            taken if no frame is held out: nothing then speaks for trusting the frames more.
    """

    def __init__(self, module: nn.Module, ridges: Sequence[float]) -> None:
        self.module = module
        self.ridges = ridges
        self.has_bias = isinstance(module.bias, Tensor)
        self._origin: tuple[Tensor, Tensor] | None = None
        self._fitted, self._held_out = _Sums(), _Sums()

    def add(self, x: Tensor, y: Tensor, *, held_out: bool = False) -> None:
        """Add frames: inputs x, [frames, inputs], and what should come out, y, [frames, outputs].

        Neighbouring frames are alike, so whole utterances should be held out.
        """
        if len(x) == 0:
            return
        if isinstance(self.module, Constant):
            x = x[:, :0]
        # Sums of products need more digits than half precision has.
        x, y = (each if each.dtype == torch.double else each.float() for each in (x, y))
        if self._origin is None:
            self._origin = x[0], y[0]
        if self.has_bias:
            # Seen from one of the frames, so that no digits are lost where the mean is large beside the variance.
            x, y = x - self._origin[0], y - self._origin[1]
        (self._held_out if held_out else self._fitted).add(x, y)

    def solve(self) -> float | None:
        """Put the solution into the layer; it stays as it is where there was no frame.

        Returns:
            The ridge that was taken, if there were frames.
        """
        if self._origin is None:
            return None
        ridge = self._choose()
        solution, offset = self._fit((self._fitted + self._held_out).moments(centred=self.has_bias), ridge)
        if isinstance(self.module.bias, Tensor):
            self.module.bias.copy_(self._origin[1] + offset - self._origin[0].double() @ solution)
        if not isinstance(self.module, Constant):
            self._weight().copy_(solution.T.reshape(self._weight().shape))
        return ridge

    def _choose(self) -> float:
        ridge, least = self.ridges[-1], math.inf
        if len(self.ridges) > 1 and self._fitted.count and self._held_out.count:
            fitted, held_out = (
                sums.moments(centred=self.has_bias) for sums in (self._fitted, self._held_out)
            )
            for choice in self.ridges:
                error = held_out.error(*self._fit(fitted, choice))
                # Of an error that is no number nothing is to be expected either.
                if not error < least:
                    break
                ridge, least = choice, error
        return ridge

    def _fit(self, moments: _Moments, ridge: float) -> tuple[Tensor, Tensor]:
        """The weight, [inputs, outputs], and the bias."""
        solution = moments.xy
        if not isinstance(self.module, Constant):
            # With inputs that never vary there is nothing to learn but the bias.
            pull = (ridge * moments.xx.diagonal().mean()).clamp(min=torch.finfo(torch.float32).tiny)
            system = moments.xx.clone()
            system.diagonal().add_(pull)
            solution = torch.linalg.solve(system, moments.xy + pull * self._weight().double().flatten(1).T)
        return solution, moments.y - moments.x @ solution

    def _weight(self) -> Tensor:
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight


@dataclass(frozen=True, eq=False)
class _Moments:
    """Of ``count`` frames the sums of x x' and x y', and the means x and y, which are zero if they are not to count."""

    count: int
    xx: Tensor
    xy: Tensor
    x: Tensor
    y: Tensor

    def error(self, solution: Tensor, offset: Tensor) -> float:
        """The sum of |y - solution' x - offset|^2, less what does not depend on the solution."""
        shift = self.y - self.x @ solution - offset
        spread = (solution * (self.xx @ solution - 2 * self.xy)).sum()
        return float(spread + self.count * shift.square().sum())


class _Sums:
    """Sums over frames in double precision: x x' right of its diagonal, x y', x and y."""

    def __init__(self, count: int = 0, sums: Sequence[Tensor] = ()) -> None:
        self.count = count
        self.sums = sums

    def add(self, x: Tensor, y: Tensor) -> None:
        inputs, outputs = x.shape[1], y.shape[1]
        if not self.sums:
            shapes = ((inputs, inputs), (inputs, outputs), (inputs,), (outputs,))
            self.sums = [torch.zeros(shape, dtype=torch.double, device=x.device) for shape in shapes]
        for start in range(0, inputs, STRIP):
            self.sums[0][start : start + STRIP, start:] += x[:, start : start + STRIP].T @ x[:, start:]
        for total, product in zip(self.sums[1:], (x.T @ y, x.sum(0), y.sum(0)), strict=True):
            total += product
        self.count += len(x)

    def __add__(self, other: _Sums) -> _Sums:
        if not (self.count and other.count):
            return self if self.count else other
        return _Sums(self.count + other.count, [a + b for a, b in zip(self.sums, other.sums, strict=True)])

    def moments(self, *, centred: bool) -> _Moments:
        """Around the mean, or else around zero."""
        xx, xy, x, y = self.sums
        xx = xx.triu() + xx.triu(1).T
        if not centred:
            return _Moments(self.count, xx, xy, torch.zeros_like(x), torch.zeros_like(y))
        mean_x, mean_y = x / self.count, y / self.count
        return _Moments(
            self.count, xx.addr(x, mean_x, alpha=-1), xy.addr(x, mean_y, alpha=-1), mean_x, mean_y
        )


def windows(module: nn.Module, x: Tensor) -> Tensor:
    """What a module sees at each position of its output: [batch, frames, (frequencies), inputs and taps...], a view."""
    if not isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return x
    assert not isinstance(module.padding, str)
    x = F.pad(x, [edge for padding in reversed(module.padding) for edge in (padding, padding)])
    for dim, (taps, stride) in enumerate(zip(module.kernel_size, module.stride, strict=True), start=2):
        x = x.unfold(dim, taps, stride)
    return x.movedim(1, len(module.kernel_size) + 1)


def outputs(module: nn.Module, y: Tensor) -> Tensor:
    """What a module puts out at each position: [batch, frames, (frequencies), outputs], a view."""
    return y.movedim(1, -1) if isinstance(module, (nn.Conv1d, nn.Conv2d)) else y


def parts(rows: Tensor, held_out_B: Tensor) -> tuple[Tensor, Tensor]:
    """Of positions in a batch, [batch, frames, ...], those to fit on and those of utterances that are held out."""
    held_out = held_out_B.to(rows.device).reshape(-1, *[1] * (rows.dim() - 1))
    return rows & ~held_out, rows & held_out
