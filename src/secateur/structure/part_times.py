"""How long each part of a model takes inside its forward pass: measured, and kept for the next time.

The parts share out the whole forward pass: every module on a residual branch together with its norm, what is left of
every layer, the modules before and behind the layers, and the rest, which is called ``""``.
"""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from hashlib import sha256
from itertools import pairwise
from math import isfinite
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.files import whole
from secateur.structure.groups import Groups
from secateur.timing import Mark, interleave, wait_for

PartTimes = dict[str, float]
"""Seconds of each part, by name."""
Measure = Callable[
    [Sequence[PreTrainedModel], Mapping[str, str], Mapping[str, Tensor], int], Sequence[PartTimes]
]
"""What `measure_parts` does."""

FORMAT = "secateur-part-times"
VERSION = 3


def parts_by_module(groups: Groups, model: PreTrainedModel) -> dict[str, str]:
    """The part that each timed module belongs to, by path; other modules belong to what holds them.

    Branches and layers bear the names of their groups, other parts that of their module.
    """
    parts = {"": ""}
    parts |= {path: path for path in _around(model, groups.family.layers)}
    parts |= {path: name for name, path in groups.layers.items()}
    for name, branch in groups.branches.items():
        parts[branch.path] = name
        if branch.norm is not None:
            parts[branch.norm] = name
    return parts


def _around(module: nn.Module, layers: str, within: str = "") -> Iterator[str]:
    """Paths of the outermost modules with parameters that neither hold the layers nor lie in them."""
    for key, child in module.named_children():
        path = within + key
        if layers.startswith(f"{path}."):
            yield from _around(child, layers, f"{path}.")
        elif path != layers and any(True for _ in child.parameters()):
            yield path


@torch.inference_mode()
def measure_parts(
    models: Sequence[PreTrainedModel], parts: Mapping[str, str], inputs: Mapping[str, Tensor], rounds: int
) -> list[PartTimes]:
    """Seconds of every part of models that take turns, on a machine that may be busy with other work.

    Each model runs twice when its turn comes and is timed the second time, so that it finds memory and caches as its own
    run left them. A round is counted in runs of the first model in the same round, which met the same load; medians are
    taken over rounds.

    Args:
        models: in evaluation mode, on one device.
        parts: the part that a module belongs to, by path, ``""`` included; a model may lack some of the modules.
        inputs: what each of them hears.
        rounds: how often every one of them is timed.
    """
    runs: list[list[PartTimes]] = [[] for _ in models]
    with ExitStack() as clocks:

        def run(model: PreTrainedModel, spent: Callable[[], PartTimes], taken: list[PartTimes]) -> None:
            model(**inputs)
            spent()
            model(**inputs)
            taken.append(spent())

        candidates = {
            str(index): partial(run, model, clocks.enter_context(_clocked(model, parts)), runs[index])
            for index, model in enumerate(models)
        }
        interleave(candidates, rounds=rounds, warm_up=0, device=models[0].device)
    first = [sum(taken.values()) for taken in runs[0]]

    def typical(taken: list[PartTimes], part: str) -> float:
        return median(first) * median(
            run.get(part, 0.0) / whole for run, whole in zip(taken, first, strict=True)
        )

    return [{part: typical(taken, part) for part in parts.values()} for taken in runs]


@contextmanager
def _clocked(model: PreTrainedModel, parts: Mapping[str, str]) -> Iterator[Callable[[], PartTimes]]:
    """What tells the seconds in every part since it was last asked, those in parts inside it not included."""
    inside = [""]
    turns: list[tuple[str, Mark]] = []
    # The time of the one thread that computes stands still while other work has its core.
    alone = model.device.type == "cpu" and torch.get_num_threads() == 1
    clock = thread_time if alone else perf_counter

    def enter(part: str, *_: object) -> None:
        inside.append(part)
        turns.append((part, Mark(model.device, clock)))

    def leave(*_: object) -> None:
        inside.pop()
        turns.append((inside[-1], Mark(model.device, clock)))

    def spent() -> PartTimes:
        wait_for(model.device)
        seconds: PartTimes = defaultdict(float)
        for (part, start), (_, end) in pairwise(turns):
            seconds[part] += start.seconds_to(end)
        turns.clear()
        return dict(seconds)

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if path in parts:
                hooks.callback(module.register_forward_pre_hook(partial(enter, parts[path])).remove)
                hooks.callback(module.register_forward_hook(leave).remove)
        yield spent


_GENERATION = {"cpu family": "family", "model": "model", "CPU part": "part"}
"""What the first processor of Linux's list says of its make, and what it is called here."""


def device_name(device: torch.device) -> str:
    """The processor that a device is, in its maker's words, and what tells generations of it apart that virtual machines call the same."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told: dict[str, str] = {}
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
        pairs = (line.partition(":") for line in first.splitlines())
        told = {key.strip(): value.strip() for key, _, value in pairs}
    name = told.get("model name") or platform.processor() or platform.machine()
    kind = ", ".join(f"{word} {told[key]}" for key, word in _GENERATION.items() if key in told)
    return f"{name} ({kind})" if kind else name


class KeptTimes:
    """The file in which part times are kept that were measured under certain conditions.

    Keeping them saves time and nothing else: a file that is missing, damaged or of another version counts for none, and
    one that cannot be written is not.
    """

    def __init__(self, folder: Path, conditions: Mapping[str, object]) -> None:
        """``conditions``: all that the times depend on, ready for `json.dumps`."""
        # As they will be read: tuples become lists.
        self._conditions = json.loads(json.dumps(conditions))
        digest = sha256(json.dumps(self._conditions, sort_keys=True).encode()).hexdigest()
        self.path = folder / f"{digest[:16]}.json"

    def read(self, parts: Sequence[str], widths: int) -> list[PartTimes] | None:
        """The times of these parts at that many widths, or None."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            stated = content["format"], content["version"], content["conditions"]
            times = [{part: float(seconds[part]) for part in parts} for seconds in content["seconds"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        sound = all(isfinite(value) and value >= 0 for seconds in times for value in seconds.values())
        current = stated == (FORMAT, VERSION, self._conditions)
        return times if current and sound and len(times) == widths else None

    def write(self, times: Sequence[PartTimes]) -> None:
        """Keep times; a file that was there before is replaced whole or not at all."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "conditions": self._conditions,
            "seconds": list(times),
        }
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with whole(self.path) as file:
                file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
