"""Reconstruction: refit what is left to the unpruned model, layer by layer: in closed form, and then by a few steps of gradient.

After slicing, a layer y = W x + b that lost inputs is refitted by ridge regression over frames of audio,

    minimise over W, b   sum_t |target_t - W x_t - b|^2 + r |W - W_sliced|^2,

in which r, in units of the variance of x, is what brings each layer nearest to its targets on utterances held out: the less
audio, the more the sliced weights are trusted. Layers are taken in the order of computation and x comes from the pruned
model as refitted so far, so that each layer makes up for the errors of those before it. On a residual branch the target
is what brings the pruned model's stream back to the unpruned one's:

    target = y_teacher + (stream_teacher - stream_student) / scale.

Before that, a layer that reads fewer position features than it did is refitted to put out the same for every distance (`positions`).

A layer that stands before layers that are gone stands in for them: its last module aims at the stream as it is behind the last
module of the last of these, whose closing norm it takes over, where layers have one.

Where steps are asked for, the front-end and then each layer, when all of its modules have been refitted, learn with all of their weights to
bring the stream back (`settling`). What they learn stays if it brings the utterances held out nearer.

Beside the two streams only what all modules of one layer put out and what one of them is given are held. No transcripts are needed.
Reconstruction of pruned layers by least squares goes back to channel pruning (He et al. 2017, arXiv 1707.06168).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.errors import SecateurError
from secateur.models.conformer import frame_mask
from secateur.pruning.refitting.capture import Side, answering, capture, first_of
from secateur.pruning.refitting.front_end import FrontEnd, front_lengths
from secateur.pruning.refitting.positions import refit_positions
from secateur.pruning.refitting.regression import Regression, outputs, parts, windows
from secateur.pruning.refitting.settling import settle
from secateur.recognizer import Inputs
from secateur.structure.axes import kept_positions
from secateur.structure.groups import BranchLayout, Groups, find_groups
from secateur.structure.plan import PruningPlan
from secateur.structure.surgery import Constant

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
# Every so manieth utterance is held out to choose among them.
HELD_OUT = 4


@torch.no_grad()
def reconstruct(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    plan: PruningPlan,
    batches: Sequence[Inputs],
    *,
    ridges: Sequence[float] = RIDGES,
    steps: int = 0,
    seed: int = 0,
    progress: Callable[[float], object] | None = None,
) -> None:
    """Refit a sliced model in place.

    Args:
        student: what `slice_model` made of the teacher.
        teacher: the unpruned model.
        plan: the plan between the two.
        batches: audio, all of which is held, and of each frame about as many numbers as 15 times the residual stream is wide, on the
            model's device: for an hour 1 GB for a Conformer of 13 M parameters, 5 GB for wav2vec 2.0 base.
        ridges: choices for the pull r towards the sliced weights, in units of the mean variance of a layer's inputs.
            Each layer takes the one with which a quarter of the utterances is told best from the others.
        steps: of gradient for the front-end and for each layer; none are taken where there are fewer than four utterances, as none is held
            out then.
        seed: of the positions drawn where the front-end has many, and of the order of batches.
        progress: told the share of the work that is done.

    Raises:
        SecateurError: there is no audio.
    """
    if not batches:
        raise SecateurError("there is no audio to reconstruct on: give at least a few minutes of speech")
    with at_work(student), at_work(teacher):
        Reconstruction(student, teacher, plan, batches, ridges, steps, seed).run(progress or float)


class Reconstruction:
    """The two models, and the residual streams of both at the layer that was reached.

    Attributes:
        held_out: which utterances of each batch the ridges are chosen on, [batch].
        frames: positions of each batch that are no padding, of [batch x frames]: those to fit on, those held out.
        student_stream: input of the student's next layer for each batch, [batch, frames, width].
        teacher_stream: the same of the teacher.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        plan: PruningPlan,
        batches: Sequence[Inputs],
        ridges: Sequence[float],
        steps: int,
        seed: int,
    ) -> None:
        self.student, self.teacher, self.batches = student, teacher, batches
        self.ridges, self.steps = ridges, steps
        self.groups = find_groups(teacher, width="width" in plan.kept)
        resolved = plan.resolved(self.groups)
        self.kept, self.gone = resolved.kept, resolved.gone
        self.generator = torch.Generator().manual_seed(seed)
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        utterances = torch.arange(sum(len(batch["attention_mask"]) for batch in batches))
        held_out = utterances % HELD_OUT == HELD_OUT - 1
        self.held_out = torch.split(held_out, [len(batch["attention_mask"]) for batch in batches])
        self.frames: list[list[Tensor]] = []
        self.student_stream: list[Tensor] = []
        self.teacher_stream: list[Tensor] = []

    def run(self, progress: Callable[[float], object]) -> None:
        front = FrontEnd(
            self.student,
            self.teacher,
            self.groups,
            self.kept,
            self.batches,
            self.held_out,
            self.ridges,
            self.generator,
        )
        stages = len(front.modules) + len(self.groups.layers)
        for done, _ in enumerate(front.refit(), start=1):
            progress(done / stages)
        self.teacher_stream = front.teacher_stream
        self._hear_student()
        if front.modules:
            self._settle_front()
        first, *stretches = self._stretches()
        for path in first:
            self._pass_teacher(path, [])
        done = len(front.modules) + len(first)
        for layer, stretch in zip(
            self.student.get_submodule(self.groups.family.layers), stretches, strict=True
        ):
            self._refit_layer(layer, *stretch)
            done += len(stretch)
            progress(done / stages)

    def _stretches(self) -> list[list[str]]:
        """The teacher's layers in their order, cut before each that stays, so that those behind it are gone."""
        stretches: list[list[str]] = [[]]
        for name, path in self.groups.layers.items():
            if name not in self.gone:
                stretches.append([])
            stretches[-1].append(path)
        return stretches

    def _hear_student(self) -> None:
        """Bring the student's stream to the first layer, and see what else the layers are called with."""
        first = self.student.get_submodule(f"{self.groups.family.layers}.0")
        for batch, held_out in zip(self.batches, self.held_out, strict=True):
            args, kwargs = capture(self.student, batch, {"call": (first, "call")})["call"]
            rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            self.student_stream.append(args[0] if args else kwargs["hidden_states"])
            self.calls.append((args[1:], rest))
            real = frame_mask(front_lengths(self.student, batch), self.student_stream[-1].shape[1])
            self.frames.append([part.flatten().nonzero()[:, 0] for part in parts(real, held_out)])

    def _branches(self, path: str) -> list[BranchLayout]:
        """The modules of one of the teacher's layers, in the order of computation."""
        order = [f"{path}.{name}" for name, _ in self.teacher.get_submodule(path).named_modules()]
        branches = [b for b in self.groups.branches.values() if b.path.startswith(f"{path}.")]
        return sorted(branches, key=lambda branch: order.index(branch.path))

    def _refit_layer(self, layer: nn.Module, path: str, *gone: str) -> None:
        """Refit the modules of one layer one after the other, and take both streams past it and the gone layers behind it."""
        self._refit_positions(layer, path)
        branches = self._branches(path)
        targets = self._pass_teacher(path, branches)
        if gone:
            self._stand_in(layer, path, branches[-1:], gone, targets)
        # What the modules refitted so far put out in each batch. With it, the layer itself leads to the next module,
        # through its own sums and norms, and no module is run twice.
        known: list[dict[nn.Module, Any]] = [{} for _ in self.batches]
        for branch in branches:
            module = layer.get_submodule(branch.path.removeprefix(f"{path}."))
            # A module that is gone has no bias to refit; one with a bias alone lost its norm, and reads the stream.
            tap = consumer = module
            if not isinstance(module, Constant):
                consumer = layer.get_submodule(consumer_of(self.groups, branch).removeprefix(f"{path}."))
                if branch.norm:
                    tap = layer.get_submodule(branch.norm.removeprefix(f"{path}."))
            if next(module.parameters(), None) is not None:
                inputs = self._refit_branch(
                    layer, tap, consumer, targets.pop(branch.path), branch.scale, known
                )
                for answers, x in zip(known, inputs, strict=True):
                    y = outputs(consumer, first_of(consumer(x)))
                    answers[module] = (y, None) if branch.pair else y
        given = list(self.student_stream)

        def run(index: int) -> Tensor:
            args, kwargs = self.calls[index]
            out: Tensor = layer(given[index], *args, **kwargs)
            return out

        for index, answers in enumerate(known):
            with answering(answers):
                self.student_stream[index] = run(index)
        known.clear()
        self._settle(list(layer.parameters()), run)

    def _refit_positions(self, layer: nn.Module, path: str) -> None:
        """Refit what reads fewer position features than it did, unless it has learned something since it was sliced."""
        for local, module in layer.named_modules():
            projection = f"{path}.{local}"
            if projection not in self.groups.selects:
                continue
            rows, columns = (
                kept_positions(dim, self.kept) for dim in self.groups.tensors[f"{projection}.weight"].dims
            )
            if columns is None:
                continue
            before = self.teacher.get_submodule(projection)
            weight = before.weight if rows is None else before.weight[rows]
            if torch.equal(module.weight, weight[:, columns]):
                refit_positions(self.teacher, module, before, weight)

    def _settle_front(self) -> None:
        """Settle what comes before the layers."""
        layers = f"{self.groups.family.layers}."
        first = self.student.get_submodule(f"{layers}0")

        def run(index: int) -> Tensor:
            out: Tensor = capture(self.student, self.batches[index], {"stream": (first, "input")})["stream"]
            return out

        named = self.student.named_parameters()
        self._settle([parameter for name, parameter in named if not name.startswith(layers)], run)

    def _settle(self, parameters: Sequence[nn.Parameter], run: Callable[[int], Tensor]) -> None:
        """Let a block whose output is the student's stream learn to bring it back to the teacher's, if it does so for what is held out."""
        if not (self.steps and parameters and any(len(held_out) for _, held_out in self.frames)):
            return
        width = self.kept.get("width")
        targets = self.teacher_stream if width is None else [x[..., width] for x in self.teacher_stream]
        before, stream = [parameter.clone() for parameter in parameters], self.student_stream
        settle(parameters, run, targets, [fitted for fitted, _ in self.frames], self.steps, self.generator)
        after = [run(index) for index in range(len(self.batches))]
        if self._apart(after, targets) < self._apart(stream, targets):
            self.student_stream = after
            return
        for parameter, was in zip(parameters, before, strict=True):
            parameter.copy_(was)

    def _apart(self, streams: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
        """Squared distance of a stream from where it should be, over the frames that are held out."""
        return sum(
            float((x.flatten(0, 1)[held_out] - y.flatten(0, 1)[held_out]).square().sum())
            for x, y, (_, held_out) in zip(streams, targets, self.frames, strict=True)
        )

    def _stand_in(
        self,
        layer: nn.Module,
        path: str,
        stands: Sequence[BranchLayout],
        gone: Sequence[str],
        targets: dict[str, list[Tensor]],
    ) -> None:
        """Let a layer's last module aim at where the last of the gone layers behind it leads, and close it as that one closes.

        Where nothing is left of that module, the layer stays what it is. ``stands`` is that module, or nothing in a layer of none.
        """
        *between, last = gone
        for each in between:
            self._pass_teacher(each, [])
        stood = self._branches(last)[-1:]
        beyond = self._pass_teacher(last, stood)
        closing, width = self.groups.family.closing, self.kept.get("width")
        if (
            stands
            and next(layer.get_submodule(stands[-1].path.removeprefix(f"{path}.")).parameters(), None) is None
        ):
            return
        if stands and stood:
            here, there = targets[stands[-1].path], beyond[stood[-1].path]
            more = stood[-1].scale / stands[-1].scale
            targets[stands[-1].path] = [
                more * far if closing is None else alike(far, near)
                for near, far in zip(here, there, strict=True)
            ]
        if closing is not None:
            norms = layer.get_submodule(closing), self.teacher.get_submodule(f"{last}.{closing}")
            for own, taken in zip(*(norm.parameters() for norm in norms), strict=True):
                own.copy_(taken if width is None else taken[list(width)])

    def _pass_teacher(self, path: str, branches: Sequence[BranchLayout]) -> dict[str, list[Tensor]]:
        """Take the teacher's stream past a layer.

        Returns:
            For each of these branches of it, what its consumer puts out plus its stream / scale, by batch: [batch, frames, width].
        """
        layer = self.teacher.get_submodule(path)
        consumers = {b.path: self.teacher.get_submodule(consumer_of(self.groups, b)) for b in branches}
        taps: dict[str, tuple[nn.Module, Side]] = {"past": (layer, "output")}
        for branch in branches:
            local = (branch.norm or branch.path).removeprefix(f"{path}.")
            taps[f"stream {branch.path}"] = (layer.get_submodule(local), "input")
            taps[branch.path] = (consumers[branch.path], "output")
        targets: dict[str, list[Tensor]] = {branch.path: [] for branch in branches}
        width = self.kept.get("width")
        for index, (args, kwargs) in enumerate(self.calls):
            seen = capture(layer, kwargs, taps, self.teacher_stream[index], *args)
            self.teacher_stream[index] = seen["past"]
            for branch in branches:
                y = outputs(consumers[branch.path], seen[branch.path])
                target = y + seen[f"stream {branch.path}"] / branch.scale
                targets[branch.path].append(target if width is None else target[..., width])
        return targets

    def _refit_branch(
        self,
        layer: nn.Module,
        tap: nn.Module,
        consumer: nn.Module,
        targets: Sequence[Tensor],
        scale: float,
        known: Sequence[Mapping[nn.Module, Any]],
    ) -> list[Tensor]:
        """Refit the consumer of one branch; what it was given in each batch is returned."""
        regression = Regression(consumer, self.ridges)
        given = []
        taps: dict[str, tuple[nn.Module, Side]] = {"stream": (tap, "input"), "x": (consumer, "input")}
        for index, (args, kwargs) in enumerate(self.calls):
            with answering(known[index]):
                seen = capture(layer, kwargs, taps, self.student_stream[index], *args)
            given.append(seen["x"])
            x = windows(consumer, seen["x"]).flatten(0, 1)
            y = (targets[index] - seen["stream"] / scale).flatten(0, 1)
            for held_out, positions in enumerate(self.frames[index]):
                regression.add(x[positions].flatten(1), y[positions], held_out=bool(held_out))
        regression.solve()
        return given


def alike(x_BTD: Tensor, model_BTD: Tensor) -> Tensor:
    """``x`` with the mean and deviation of each frame of the other: a layer norm gives for it what it gives for ``x``."""
    deviation, mean = torch.std_mean(x_BTD, -1, keepdim=True, correction=0)
    wanted, centre = torch.std_mean(model_BTD, -1, keepdim=True, correction=0)
    return (x_BTD - mean) * (wanted / deviation.clamp(min=torch.finfo(x_BTD.dtype).tiny)) + centre


def consumer_of(groups: Groups, branch: BranchLayout) -> str:
    """The module whose output a branch adds to the stream: the one that consumes the branch's units.

    Of a branch that an earlier pruning left nothing but a bias, the whole of it.
    """
    sites = (site for name in branch.units for site in groups[name].sites)
    return next((site.module for site in sites if site.side == "input"), branch.path)


@contextmanager
def at_work(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the context, and the memory layout in which convolutions take half the time on a CPU."""
    training = model.training
    model.eval()
    nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)
    try:
        yield
    finally:
        model.train(training)
        nn.utils.convert_conv2d_weight_memory_format(model, torch.contiguous_format)
