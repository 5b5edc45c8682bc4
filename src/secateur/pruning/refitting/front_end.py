"""The front-end of a pruned model, refitted: convolutions, and what reads the last of them, where the residual stream begins.

Each module whose inputs lost channels is brought back to what the unpruned model's puts out, on the channels that stay, one after the
other in the order of computation, so that each makes up for those before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.models.conformer import frame_mask
from secateur.pruning.refitting.capture import Side, capture
from secateur.pruning.refitting.regression import Regression, outputs, parts, windows
from secateur.recognizer import Inputs
from secateur.structure.axes import kept_positions
from secateur.structure.groups import Groups

# Positions (frames; of a convolution over time and frequency, both) that a module is refitted on, for each of its inputs.
# Early ones have many more than that.
ROWS_PER_INPUT = 30


class FrontEnd:
    """The modules before the layers that are to be refitted.

    Args:
        student: the pruned model, refitted in place.
        teacher: the unpruned model.
        groups: of the teacher.
        kept: what stays of its groups.
        batches: audio.
        held_out: which utterances of each batch ridges are chosen on, [batch].
        ridges: choices for the pull towards the weights that are there.
        generator: draws positions where there are many.

    Attributes:
        modules: paths of the modules, in the order of computation.
        teacher_stream: the teacher's input of the first layer for each batch, [batch, frames, width], once refitting has begun.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        groups: Groups,
        kept: Mapping[str, Sequence[int]],
        batches: Sequence[Inputs],
        held_out: Sequence[Tensor],
        ridges: Sequence[float],
        generator: torch.Generator,
    ) -> None:
        self.student, self.teacher, self.groups, self.kept = student, teacher, groups, kept
        self.batches, self.held_out = batches, held_out
        self.ridges, self.generator = ridges, generator
        inner = f"{groups.family.layers}."
        consumers = {
            site.module
            for name in kept
            for site in groups[name].sites
            if site.side == "input" and name != "width" and not site.module.startswith(inner)
        }
        self.modules = [path for path, _ in teacher.named_modules() if path in consumers]
        self.teacher_stream: list[Tensor] = []

    def refit(self) -> Iterator[None]:
        """Refit one module after the other, and say when each is done."""
        taught = self._hear_teacher()
        for path in self.modules:
            module = self.student.get_submodule(path)
            regression = Regression(module, self.ridges)
            for batch, held_out, (rows, y) in zip(self.batches, self.held_out, taught.pop(path), strict=True):
                x = windows(module, capture(self.student, batch, {"x": (module, "input")})["x"])
                for is_held_out, part in enumerate(parts(rows, held_out)):
                    regression.add(x[part].flatten(1), y[part[rows]], held_out=bool(is_held_out))
            regression.solve()
            yield

    def _hear_teacher(self) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """Bring the teacher's stream to the first layer.

        Returns:
            For each module and batch, positions drawn (true in [batch, frames, (frequencies)]) and what the teacher's module puts out there,
            [positions, channels that stay].
        """
        modules = {path: self.teacher.get_submodule(path) for path in self.modules}
        first = self.teacher.get_submodule(f"{self.groups.family.layers}.0")
        taps: dict[str, tuple[nn.Module, Side]] = {
            path: (module, "output") for path, module in modules.items()
        }
        channels = {
            path: kept_positions(self.groups.tensors[f"{path}.weight"].dims[0], self.kept) for path in modules
        }
        lengths = {
            path: [front_lengths(self.teacher, batch, module) for batch in self.batches]
            for path, module in modules.items()
        }
        frames = {path: sum(int(each.sum()) for each in found) for path, found in lengths.items()}
        taught: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in modules}
        for index, batch in enumerate(self.batches):
            seen = capture(self.teacher, batch, {**taps, "stream": (first, "input")})
            self.teacher_stream.append(seen["stream"])
            for path, module in modules.items():
                y = outputs(module, seen[path])
                wanted = ROWS_PER_INPUT * self.student.get_parameter(f"{path}.weight")[0].numel()
                share = wanted / (frames[path] * y[0, 0, ..., 0].numel())
                rows = self._draw(y.shape[:-1], lengths[path][index], share)
                stay, y = channels[path], y[rows]
                taught[path].append((rows, y if stay is None else y[:, stay]))
        return taught

    def _draw(self, shape: Sequence[int], lengths: Tensor, share: float) -> Tensor:
        """A share of the positions that are no padding: [batch, frames, (frequencies)]."""
        real = frame_mask(lengths, shape[1])
        real = real.reshape(*real.shape, *[1] * (len(shape) - 2))
        return real & (torch.rand(shape, generator=self.generator) < share).to(real.device)


def front_lengths(model: nn.Module, batch: Inputs, last: nn.Module | None = None) -> Tensor:
    """Frames of each utterance that are no padding, [batch], at the output of a module of the front-end, or of all of it.

    A front-end is convolutions one after the other, as far as the model's first linear layer.
    """
    lengths = batch["attention_mask"].sum(-1)
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            assert not isinstance(module.padding, str)
            covered = lengths + 2 * module.padding[0] - module.kernel_size[0]
            lengths = covered // module.stride[0] + 1
        if module is last or isinstance(module, nn.Linear):
            break
    return lengths
