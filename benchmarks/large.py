"""A random `ParakeetForCTC` of 0.6 billion parameters: plan, slice, save, reload; seconds and peak memory of each.

Two fresh processes do the work, one up to saving and one that reloads, so that nothing else counts as theirs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TypeVar

from benchmarks.record import Figures, argument_parser, parse, record, run

Made = TypeVar("Made")

BUDGET = "params=50%"


class Steps:
    """Seconds and peak memory, in 10^6 bytes, of one step after the other."""

    def __init__(self) -> None:
        self.done: dict[str, Figures] = {}

    def take(self, name: str, work: Callable[[], Made]) -> Made:
        """Do a step."""
        forget_peak()
        start = perf_counter()
        made = work()
        self.done[name] = {"seconds": perf_counter() - start, "peak_memory_mb": peak_mb()}
        return made


def forget_peak() -> None:
    """Let Linux count the peak of this process's memory anew; elsewhere it is that of the process so far."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mb() -> float | None:
    """Most memory this process had resident since `forget_peak`."""
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 / 1e6
    from secateur.evaluation.evaluate import peak_memory_mb

    return peak_memory_mb()


def make(folder: Path, layers: int, width: int, seed: int) -> Figures:
    """Build, plan, slice and save; what was made."""
    import torch
    from transformers import ParakeetCTCConfig, ParakeetForCTC

    from secateur import Budget, PruningPlan
    from secateur.pruning.planning.allocation import allocate
    from secateur.pruning.scoring.scores import SCORES
    from secateur.pruning.scoring.statistics import Statistics
    from secateur.structure.checkpoint import save_pruned
    from secateur.structure.cost import mac_cost, parameter_cost
    from secateur.structure.counting import parameters
    from secateur.structure.groups import find_groups
    from secateur.structure.slicing import slice_model

    torch.manual_seed(seed)
    steps = Steps()
    encoder = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width}
    config = ParakeetCTCConfig(vocab_size=1025, pad_token_id=1024, encoder_config=encoder)
    model = steps.take("build", lambda: ParakeetForCTC(config).eval())
    params = parameters(model)

    def decide() -> PruningPlan:
        groups = find_groups(model)
        costs = {"params": parameter_cost(groups), "macs": mac_cost(groups, model, 10.0)}
        magnitudes = SCORES["magnitude"](model, groups, Statistics())
        return allocate(groups, magnitudes, costs, Budget.parse(BUDGET))

    plan = steps.take("plan", decide)
    smaller = steps.take("slice", lambda: slice_model(model, plan))
    steps.take("save", lambda: save_pruned(smaller, plan, folder))
    return {"params": params, "params_after": parameters(smaller), "steps": steps.done}


def reload(folder: Path) -> Figures:
    """Load what was saved."""
    from secateur.structure.checkpoint import load_model
    from secateur.structure.counting import parameters

    steps = Steps()
    model = steps.take("reload", lambda: load_model(folder))
    return {"params_after": parameters(model), "steps": steps.done}


def main(arguments: Sequence[str] | None = None) -> None:
    """Record each step."""
    parser = argument_parser(__doc__, hears=False)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--make", type=Path, metavar="FOLDER", help="only the first process's part")
    parser.add_argument("--reload", type=Path, metavar="FOLDER", help="only the second one's")
    options = parse(parser, arguments)
    if options.make or options.reload:
        if options.make:
            figures = make(options.make, options.layers, options.width, options.seed)
        else:
            figures = reload(options.reload)
        print(json.dumps(figures))
        return

    def measure() -> Figures:
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / "pruned"
            shape = [f"--layers={options.layers}", f"--width={options.width}", f"--seed={options.seed}"]
            command = [sys.executable, "-m", "benchmarks.large"]
            made = json.loads(run([*command, *shape, f"--make={folder}"]).output)
            again = json.loads(run([*command, f"--reload={folder}"]).output)
            size = sum(file.stat().st_size for file in folder.rglob("*"))
        assert made["params_after"] == again["params_after"]
        return {"budget": BUDGET, **made, "steps": made["steps"] | again["steps"], "saved_mb": size / 1e6}

    record("large", measure, options, benchmark="benchmarks.large", seed=options.seed)


if __name__ == "__main__":
    main()
