"""A change of basis inside attention heads that changes no output, after which dimensions of heads can go one by one.

Logits see queries and keys only through their products, and the output projection sees values only through its own
product with them. With any invertible A, the queries A q and the keys A^-T k give the same logits. The basis chosen here
makes both sides of a product uncorrelated and equal in energy over real speech, largest first, so that the last
dimensions carry the least of the product (balanced truncation; Moore 1981). A constant that is added to all keys moves no
softmax, hence covariances of keys are taken about their mean; that of values is carried by the output's bias.

    T frames   P relative positions   H heads   K query/key width   E value width of a head
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.models.conformer import RelativeAttention
from secateur.recognizer import Recognizer
from secateur.speech.audio import Waveform

# Directions with less of the largest variance than this are noise of rounding.
SMALLEST = 1e-9


@dataclass
class _Moments:
    """Sums of second moments of one attention module, in float64: [heads, width, width]."""

    queries: Tensor
    keys: Tensor
    values: Tensor

    @classmethod
    def of(cls, attention: RelativeAttention) -> _Moments:
        heads, key, value = attention.num_heads, attention.qk_dim, attention.v_dim
        zeros = (torch.zeros(heads, width, width, dtype=torch.double) for width in (key, key, value))
        return cls(*zeros)


@torch.no_grad()
def rotate_heads(
    recognizer: Recognizer, waveforms: Iterable[Waveform]
) -> tuple[Recognizer, dict[str, Tensor]]:
    """Rotate the heads of every attention module that can lose single dimensions.

    Args:
        recognizer: stays as it is.
        waveforms: a few minutes of speech.

    Returns:
        A recogniser that hears the same, the given one where there is nothing to rotate; and for each rotated module, by path, the
        share that each dimension has in the energy of the logits, [query/key width], falling.
    """
    if not any(isinstance(module, RelativeAttention) for module in recognizer.model.modules()):
        return recognizer, {}
    rotated = recognizer.copy()
    model = rotated.model
    modules = {
        path: module for path, module in model.named_modules() if isinstance(module, RelativeAttention)
    }
    moments = {path: _Moments.of(module) for path, module in modules.items()}
    with _watching(modules, moments):
        for waveform in waveforms:
            model(**rotated.prepare([waveform]))
    shares = {}
    for path, module in modules.items():
        shares[path] = _rotate_queries_and_keys(module, moments[path])
        # Of a residual stream that is narrower than a head there are no directions to order a head's by.
        if module.o_proj.out_features >= module.v_dim:
            _rotate_values(module, moments[path])
    return rotated, shares


@contextmanager
def _watching(modules: dict[str, RelativeAttention], moments: dict[str, _Moments]) -> Iterator[None]:
    handles = []
    for path, module in modules.items():
        handles.append(module.register_forward_pre_hook(_note_queries_and_keys(moments[path])))
        handles.append(module.o_proj.register_forward_pre_hook(_note_values(moments[path], module)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _note_queries_and_keys(sums: _Moments) -> Callable[..., None]:
    def note(attention: RelativeAttention, args: tuple[Tensor, Tensor, Tensor | None]) -> None:
        x_TD, positions_PD = args[0][0], args[1]
        frames, shape = len(x_TD), (-1, attention.num_heads, attention.qk_dim)
        q_THK = attention.q_proj(x_TD).view(shape)
        k_THK = attention.k_proj(x_TD).view(shape)
        p_PHK = attention.relative_k_proj(positions_PD).view(shape)
        # So many pairs of frames are at each distance.
        pairs_P = frames - torch.arange(1 - frames, frames, device=x_TD.device).abs()
        sums.queries += _second_moment(q_THK + attention.bias_u) + _second_moment(q_THK + attention.bias_v)
        sums.keys += _second_moment(k_THK, centred=True) + _second_moment(p_PHK, pairs_P, centred=True)

    return note


def _note_values(sums: _Moments, attention: RelativeAttention) -> Callable[..., None]:
    def note(_: nn.Module, args: tuple[Tensor]) -> None:
        out_THE = args[0][0].view(-1, attention.num_heads, attention.v_dim)
        sums.values += _second_moment(out_THE, centred=True)

    return note


def _second_moment(x_NHW: Tensor, weight_N: Tensor | None = None, *, centred: bool = False) -> Tensor:
    """Mean of x x' over rows, about the mean where ``centred``: [heads, width, width]."""
    x_NHW = x_NHW.double()
    share_N = x_NHW.new_ones(len(x_NHW)) if weight_N is None else weight_N.double()
    share_N = share_N / share_N.sum()
    if centred:
        x_NHW = x_NHW - torch.einsum("n,nhw->hw", share_N, x_NHW)
    return torch.einsum("n,nhv,nhw->hvw", share_N, x_NHW, x_NHW).cpu()


def _rotate_queries_and_keys(attention: RelativeAttention, moments: _Moments) -> Tensor:
    """Rotate, and tell each dimension's share in the energy of the logits."""
    energies = torch.zeros(attention.qk_dim, dtype=torch.double)
    for head in range(attention.num_heads):
        root_q, unroot_q = _roots(moments.queries[head])
        root_k, _ = _roots(moments.keys[head])
        left, singular, _ = torch.linalg.svd(root_q @ root_k)
        basis = singular.clamp(min=SMALLEST * singular[0]).sqrt()[:, None] * (left.T @ unroot_q)
        opposite = torch.linalg.inv(basis).T
        energies += singular.square()
        rows = slice(head * attention.qk_dim, (head + 1) * attention.qk_dim)
        _rotate_rows(attention.q_proj, rows, basis)
        _rotate_rows(attention.k_proj, rows, opposite)
        _rotate_rows(attention.relative_k_proj, rows, opposite)
        for bias in (attention.bias_u, attention.bias_v):
            bias[head] = _times(basis, bias[head])
    return energies / energies.sum()


def _rotate_values(attention: RelativeAttention, moments: _Moments) -> None:
    for head in range(attention.num_heads):
        rows = slice(head * attention.v_dim, (head + 1) * attention.v_dim)
        weight = attention.o_proj.weight[:, rows].double()
        root, unroot = _roots(moments.values[head].to(weight))
        left, singular, right = torch.linalg.svd(weight @ root, full_matrices=False)
        attention.o_proj.weight[:, rows] = (left * singular).to(attention.o_proj.weight.dtype)
        _rotate_rows(attention.v_proj, rows, right @ unroot)


def _roots(moment: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric square root of a second moment, and its inverse."""
    values, vectors = torch.linalg.eigh(moment)
    values = values.clamp(min=SMALLEST * max(float(values[-1]), torch.finfo(torch.float32).tiny))
    return (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T


def _rotate_rows(linear: nn.Linear, rows: slice, basis: Tensor) -> None:
    linear.weight[rows] = _times(basis, linear.weight[rows])
    if linear.bias is not None:
        linear.bias[rows] = _times(basis, linear.bias[rows])


def _times(basis: Tensor, value: Tensor) -> Tensor:
    return (basis.to(value.device) @ value.double()).to(value.dtype)
