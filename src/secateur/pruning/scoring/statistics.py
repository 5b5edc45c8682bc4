"""Statistics: what scores need to know of a model at work, gathered from audio without transcripts.

The gradients are those of the model's own likelihood: labels are drawn, frame by frame, from its output distribution,
so that the mean of their squares is the true Fisher information, which says how far the output moves (Kunstner et al.
2019, arXiv 1905.12558). Harms that follow from it are nats of Kullback-Leibler divergence per output frame.

    N positions of a module   F features that it reads at each   O features that it gives
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from secateur.errors import SecateurError
from secateur.pruning.refitting.positions import moments
from secateur.pruning.scoring.ablation import Ablation, Ablator, ablate, remove_layers
from secateur.recognizer import WINDOW_SECONDS, Recognizer
from secateur.speech.audio import Waveform
from secateur.structure.groups import Groups
from secateur.structure.masking import masked

CLIP = 0.5
"""Quantile at which the lengths of gradients are clipped for the metric of an output.

They have a heavy tail: in a Conformer-CTC of 13 M parameters the largest percent holds 95 to 99 % of their squares, so
that the plain mean tells of a dozen frames. What a frame can lose is bounded, which the second order does not know.
"""

MOST_PATCHES = 4000
"""Positions of a convolution that are looked at in an utterance: in wav2vec 2.0 the first one has 3,200 a second."""

RECENT = 4096
"""Gradients whose lengths tell the quantile."""

Kind = Literal["activations", "gram", "metric", "gates", "slopes", "weights", "ablations", "depth"]
"""What can be gathered. ``activations`` are the means and squares of `LayerStatistics`, which come with every kind but the ablations."""

_FISHER: frozenset[Kind] = frozenset({"metric", "gates", "weights"})
_BACKWARD: frozenset[Kind] = _FISHER | {"slopes"}
_ABLATED: frozenset[Kind] = frozenset({"ablations", "depth"})


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """What a module that consumes units was given, and what its output matters.

    Inputs of convolutions are patches, [F] = channels x taps as in ``weight.flatten(1)``. Moments of relative positions are those of `positions`,
    known without any audio.

    Attributes:
        positions: how often the module was applied for every output frame of the model.
        mean: of the inputs, [F].
        square: mean of their squares, [F].
        gram: mean of x x', [F, F].
        metric: mean of g g', [O, O], with g the gradient of the sampled negative log-likelihood at the output, its
            length clipped at the `CLIP` quantile.
    """

    positions: float
    mean: Tensor
    square: Tensor
    gram: Tensor | None = None
    metric: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Statistics:
    """What was gathered from ``frames`` output frames.

    Attributes:
        frames: output frames of the model.
        layers: by module, for every module at whose input a gate sits.
        gates: by group, the diagonal of the Fisher information in the gates of its units, per frame, [size].
        slopes: by group, the absolute gradient, in each gate, of the negative log-likelihood of an utterance's most likely labels, per frame,
            [size].
        weights: by parameter of two and more dimensions, the diagonal of its Fisher information, per frame, in its shape.
        ablations: by module, layer, and group that lies in no module, what is lost without it.
        depth: by layer, in the order in which they go one after the other, the divergence when it is gone too.
        seed: for what scores draw themselves.
    """

    frames: int = 0
    layers: Mapping[str, LayerStatistics] = field(default_factory=dict)
    gates: Mapping[str, Tensor] = field(default_factory=dict)
    slopes: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    ablations: Mapping[str, Ablation] = field(default_factory=dict)
    depth: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


def consumers(groups: Groups) -> dict[str, str]:
    """The one module that reads a group's units, by group, for the groups that have such a one."""
    inputs = {
        name: [site.module for site in group.sites if site.side == "input"] for name, group in groups.items()
    }
    return {name: modules[0] for name, modules in inputs.items() if len(modules) == 1}


def collect(
    recognizer: Recognizer,
    groups: Groups,
    waveforms: Iterable[Waveform],
    *,
    kinds: frozenset[Kind],
    temperature: float = 1.0,
    speech_weight: float = 0.0,
    seed: int = 0,
    progress: Callable[[float], object] | None = None,
) -> Statistics:
    """Hear audio and gather statistics; they are on the CPU and, but for those of single weights, in float64.

    Utterances are heard one by one: there is no padding that could be counted, and the gradients of a gate or a weight
    are squared per utterance. Grams take 8 F^2 bytes for each consumer: 0.3 GB for a Conformer of 13 M parameters, but
    10 GB for one of 600 M. Ablations hear the first `ablation.SECONDS` many times.

    Args:
        recognizer: the model at work; its weights get no gradients and stay as they are.
        groups: its groups.
        waveforms: mono, at the recogniser's sampling rate; longer ones are cut into windows.
        kinds: what to gather. With nothing to gather no audio is read.
        temperature: of the distribution that labels are drawn from and the likelihood that is differentiated.
        speech_weight: a frame counts 1 + speech_weight (1 - p(blank)): CTC models answer most frames with blanks, which
            are easily kept.
        seed: for labels, for which patches of convolutions are looked at, and for scores that draw.
        progress: called as the work goes with the seconds of audio that are done.

    Raises:
        SecateurError: there is no audio.
    """
    if not kinds:
        return Statistics(seed=seed)
    passes = len(kinds & _ABLATED) + bool(kinds - _ABLATED)

    def done(seconds: float) -> None:
        if progress is not None:
            progress(seconds / passes)

    found = Statistics(seed=seed)
    if kinds & _ABLATED:
        waveforms = list(waveforms)
        total = sum(map(len, waveforms)) / recognizer.sample_rate
        ablator = Ablator(recognizer, groups, waveforms, temperature=temperature, speech_weight=speech_weight)
        if ablator.frames:
            found = replace(
                found,
                frames=ablator.frames,
                ablations=ablate(ablator, lambda share: done(share * total)) if "ablations" in kinds else {},
                depth=remove_layers(ablator, lambda share: done(share * total)) if "depth" in kinds else {},
            )
    if kinds - _ABLATED:
        collector = _Collector(recognizer, groups, kinds, torch.Generator().manual_seed(seed))
        window = round(WINDOW_SECONDS * recognizer.sample_rate)
        with collector.attached():
            for waveform in waveforms:
                for start in range(0, len(waveform), window):
                    collector.hear(waveform[start : start + window], temperature, speech_weight)
                done(len(waveform) / recognizer.sample_rate)
        found = collector.added_to(found)
    if found.frames == 0:
        raise SecateurError("there is no audio to score units on: give at least a few minutes of speech")
    return found


@dataclass
class _Sums:
    """Running sums over positions, in float64; of inputs less the first one, ``origin``.

    Second moments of inputs that hardly vary would else be lost in the square of their mean.
    """

    origin: Tensor | None = None
    weight: float = 0.0
    positions: float = 0.0
    sampled: int = 0
    x: Tensor | float = 0.0
    xx: Tensor | float = 0.0
    gram: Tensor | float = 0.0
    metric: Tensor | float = 0.0
    lengths: Tensor = field(default_factory=lambda: torch.empty(0))


class _Collector:
    """Hooks on every consumer and gate, and the sums that they fill."""

    def __init__(
        self, recognizer: Recognizer, groups: Groups, kinds: frozenset[Kind], generator: torch.Generator
    ) -> None:
        self.recognizer, self.groups, self.kinds, self.generator = recognizer, groups, kinds, generator
        model = recognizer.model
        self.needs_gradients = bool(kinds & _BACKWARD)
        inputs = {site.module for group in groups.values() for site in group.sites if site.side == "input"}
        self.modules = {path: model.get_submodule(path) for path in sorted(inputs)}
        self.sums = {path: _Sums() for path in self.modules}
        # Second moments are asked for only where an estimate can be made of them.
        self.sole = set(consumers(groups).values())
        self.frames = 0
        self.gates = {
            name: torch.ones(group.size, device=model.device, dtype=model.dtype, requires_grad=True)
            for name, group in groups.items()
            if kinds & {"gates", "slopes"}
        }
        self.squares = {name: torch.zeros(len(gate), dtype=torch.double) for name, gate in self.gates.items()}
        self.slopes = {name: torch.zeros(len(gate), dtype=torch.double) for name, gate in self.gates.items()}
        self.weights = {
            name: model.get_parameter(name)
            for name, layout in groups.tensors.items()
            if "weights" in kinds and layout.is_parameter and len(layout.dims) > 1
        }
        self.curvatures = {name: _precise(torch.zeros_like(weight)) for name, weight in self.weights.items()}
        self._rows: dict[str, tuple[Tensor, Tensor, int]] = {}
        # Of outputs, which wait for the gradient of drawn labels.
        self._hooks: list[RemovableHandle] = []

    @contextmanager
    def attached(self) -> Iterator[None]:
        model = self.recognizer.model
        with ExitStack() as stack:
            for name, parameter in model.named_parameters():
                stack.callback(parameter.requires_grad_, parameter.requires_grad)
                stack.callback(setattr, parameter, "grad", parameter.grad)
                parameter.requires_grad_(name in self.weights)
                parameter.grad = None
            stack.enter_context(masked(model, self.groups, self.gates))
            for path, module in self.modules.items():
                stack.callback(module.register_forward_hook(partial(self._read, path)).remove)
            stack.enter_context(torch.set_grad_enabled(self.needs_gradients))
            yield

    def hear(self, waveform: Waveform, temperature: float, speech_weight: float) -> None:
        inputs = self.recognizer.prepare([waveform])
        if self.needs_gradients and not self.gates:
            inputs[self.recognizer.features.model_input_names[0]].requires_grad_()
        logits: Tensor = self.recognizer.model(**inputs).logits[0]
        blank = _precise(logits.detach()).softmax(-1)[:, self.recognizer.blank]
        weight = 1.0 + speech_weight * (1.0 - blank)
        self.frames += len(logits)
        for path, (rows, when, steps) in self._rows.items():
            self._add_rows(path, rows, weight[when * len(weight) // steps])
        self._rows.clear()
        if self.needs_gradients:
            logs = (_precise(logits) / temperature).log_softmax(-1)
            if self.kinds & _FISHER:
                labels = torch.multinomial(logs.detach().exp().cpu(), 1, generator=self.generator)
                # Squared in the Fisher information, hence the root.
                loss = -logs.gather(1, labels.to(logs.device))[:, 0] * weight.sqrt()
                torch.autograd.backward(loss.sum(), retain_graph="slopes" in self.kinds)
                self._add_squares()
            if "slopes" in self.kinds:
                torch.autograd.backward((-logs.amax(1) * weight).sum())
                self._add_slopes()

    def _add_squares(self) -> None:
        while self._hooks:
            self._hooks.pop().remove()
        for name, gate in self.gates.items():
            if gate.grad is not None:
                self.squares[name] += gate.grad.double().square().cpu()
                gate.grad = None
        for name, weight in self.weights.items():
            if weight.grad is not None:
                self.curvatures[name] += _precise(weight.grad).square()
                weight.grad = None

    def _add_slopes(self) -> None:
        for name, gate in self.gates.items():
            if gate.grad is not None:
                self.slopes[name] += gate.grad.double().abs().cpu()
                gate.grad = None
        for weight in self.weights.values():
            weight.grad = None

    def _read(self, path: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Keep what a module reads until the weights of the frames are known, and wait for its gradient."""
        rows, when, steps, chosen, total = self._positions(module, args[0].detach(), output)
        self.sums[path].positions += total
        if path not in self.groups.selects:
            self._rows[path] = rows, when, steps
        if "metric" not in self.kinds or path not in self.sole:
            return None
        if output.is_leaf:
            # What is made of positions alone leads back to nothing that has a gradient.
            output.requires_grad_()
        hook = output.register_hook(partial(self._add_metric, path, chosen))  # type: ignore[no-untyped-call]
        self._hooks.append(hook)
        # wav2vec 2.0 writes zeros into the output, and with them its hooks would be lost.
        return output.clone()

    def _positions(
        self, module: nn.Module, x: Tensor, output: Tensor
    ) -> tuple[Tensor, Tensor, int, Tensor | None, int]:
        """Inputs [N, F] at positions of the output, at which step of time each is and of how many, which were chosen, and how many there were.

        Of the many positions of a convolution with several taps, about one is chosen for each frame of time, and no more than `MOST_PATCHES`.
        """
        if not isinstance(module, (nn.Conv1d, nn.Conv2d)):
            rows = x.reshape(-1, x.shape[-1])
            return rows, torch.arange(len(rows), device=x.device), len(rows), None, len(rows)
        taps, stride, padding = module.kernel_size, module.stride, module.padding
        assert not isinstance(padding, str)
        if isinstance(module, nn.Conv1d):
            x, taps, stride, padding = x[:, :, None], (1, *taps), (1, *stride), (0, *padding)
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
        patches = x[0].unfold(1, taps[0], stride[0]).unfold(2, taps[1], stride[1])
        height, width = patches.shape[1:3]
        assert output[0, 0].numel() == height * width, "a convolution with dilation has no patches here"
        frames = output.shape[2]
        if height * width == frames and taps[0] * taps[1] == 1:
            chosen = torch.arange(frames)
        else:
            many = min(frames, MOST_PATCHES)
            chosen = torch.randperm(height * width, generator=self.generator)[:many].sort().values
        row, column = chosen // width, chosen % width
        rows = patches[:, row, column].transpose(0, 1).flatten(1)
        when, steps = (column, width) if isinstance(module, nn.Conv1d) else (row, height)
        return rows, when.to(x.device), steps, chosen.to(x.device), height * width

    def _add_rows(self, path: str, rows: Tensor, weight: Tensor) -> None:
        sums = self.sums[path]
        rows = _precise(rows)
        sums.origin = rows[0].clone() if sums.origin is None else sums.origin
        rows = rows - sums.origin
        weighted = rows * weight.to(rows.dtype)[:, None]
        sums.weight += float(weight.sum())
        sums.x = sums.x + weighted.sum(0).double()
        sums.xx = sums.xx + (weighted * rows).sum(0).double()
        if "gram" in self.kinds and path in self.sole:
            sums.gram = sums.gram + (weighted.T @ rows).double()

    def _add_metric(self, path: str, chosen: Tensor | None, gradient: Tensor) -> None:
        if chosen is None:
            rows = gradient.reshape(-1, gradient.shape[-1])
        else:
            rows = gradient[0].flatten(1)[:, chosen].T
        rows = _precise(rows)
        sums = self.sums[path]
        length = rows.norm(dim=1)
        sums.lengths = torch.cat([sums.lengths, length.cpu()])[-RECENT:]
        clip = float(sums.lengths.quantile(CLIP))
        rows = rows * (clip / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=1.0)[:, None]
        sums.metric = sums.metric + (rows.T @ rows).double()
        sums.sampled += len(rows)

    def added_to(self, found: Statistics) -> Statistics:
        """What was found before, and with it what was gathered here."""
        frames = max(self.frames, 1)
        layers = {}
        for path, sums in self.sums.items():
            positions, metric = sums.positions / frames, _mean(sums.metric, sums.sampled)
            if path in self.groups.selects:
                if positions:
                    mean, products = moments(self.recognizer.model, self.modules[path])
                    layers[path] = LayerStatistics(positions, mean, products.diagonal(), products, metric)
                continue
            if sums.origin is None:
                continue
            origin = sums.origin.double().cpu()
            offset = _mean(sums.x, sums.weight)
            gram = _mean(sums.gram, sums.weight)
            square = _mean(sums.xx, sums.weight)
            assert offset is not None
            assert square is not None
            if gram is not None:
                mixed = torch.outer(origin, offset)
                gram = gram + mixed + mixed.T + torch.outer(origin, origin)
            layers[path] = LayerStatistics(
                positions=positions,
                mean=origin + offset,
                square=square + 2 * origin * offset + origin.square(),
                gram=gram,
                metric=metric,
            )
        return replace(
            found,
            frames=self.frames,
            layers=layers,
            gates={name: square / frames for name, square in self.squares.items()},
            slopes={name: slope / frames for name, slope in self.slopes.items()},
            weights={name: curvature.cpu() / frames for name, curvature in self.curvatures.items()},
        )


def _mean(total: Tensor | float, weight: float) -> Tensor | None:
    """Nothing where nothing was summed."""
    return (total / weight).cpu() if isinstance(total, Tensor) else None


def _precise(tensor: Tensor) -> Tensor:
    """In single precision at least: sums of products need more digits than half has."""
    return tensor if tensor.dtype == torch.double else tensor.float()
