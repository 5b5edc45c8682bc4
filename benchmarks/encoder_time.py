"""What pruning saves in time: the unpruned and a pruned model in turns, and where the time goes.

Ten seconds of audio, one utterance, one thread. The same run checks what the latency model predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from benchmarks.record import OUT, Figures, argument_parser, model_file, parse, record
from secateur import PruningPlan, load
from secateur.structure.cost import mac_cost, parameter_cost
from secateur.structure.counting import noise_input
from secateur.structure.groups import find_groups
from secateur.structure.latency import Latency, latency_cost
from secateur.structure.part_times import measure_parts, parts_by_module
from secateur.timing import interleave, threads

PRUNED = OUT / "models" / "oneshot_params50_macs50"


def kind(part: str) -> str:
    """What a part is, wherever it is: ``layers.3.feed_forward1`` is a ``feed_forward1``, ``layers.3`` one of ``layers``."""
    names = [name for name in part.split(".") if not name.isdigit()]
    return names[-1] or "rest"


def check(
    latency: Latency, dense: PreTrainedModel, sliced: PreTrainedModel, plan: PruningPlan, rounds: int
) -> Figures:
    """How long a sliced model takes for each second of the dense one: predicted, and measured in turns."""
    conditions = latency.conditions
    inputs = noise_input(dense, conditions.seconds, conditions.batch)
    kinds = {path: kind(part) for path, part in parts_by_module(latency.groups, dense).items()}
    with threads(conditions.threads), torch.inference_mode():
        ways = {"dense": partial(dense, **inputs), "sliced": partial(sliced, **inputs)}
        whole = interleave(ways, rounds=rounds, device=dense.device)
        before, after = measure_parts([dense, sliced], kinds, inputs, rounds)
    predicted, measured = latency(plan.counts()) / latency.dense, whole.ratio("sliced", "dense")
    return {
        "predicted": predicted,
        "measured": asdict(measured),
        "dense": asdict(whole.of("dense")),
        "sliced": asdict(whole.of("sliced")),
        "parts": {name: (seconds, after[name]) for name, seconds in before.items()},
        # A tenth too slow is 0.1.
        "error": predicted / measured.median - 1,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the ratio, measured and predicted, and the seconds of each kind of part."""
    parser = argument_parser(__doc__, hears=False)
    parser.add_argument("--pruned", type=Path, default=PRUNED, help="as benchmarks.oneshot leaves it")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=40)
    parser.set_defaults(threads=1)
    options = parse(parser, arguments)
    if not (options.pruned / "plan.json").is_file():
        parser.error(f"there is no pruned model in {options.pruned}: run benchmarks.oneshot first")

    def measure() -> Figures:
        dense, pruned = load(model_file()).model, load(options.pruned).model
        plan = PruningPlan.load(options.pruned / "plan.json")
        groups = find_groups(dense, width="width" in plan.kept)
        params, macs = parameter_cost(groups), mac_cost(groups, dense, options.seconds)
        latency = latency_cost(groups, dense, options.seconds, thread_count=options.threads)
        return {
            "audio_seconds": options.seconds,
            "params_kept": params(plan.counts()) / params.dense,
            "macs_kept": macs(plan.counts()) / macs.dense,
            **check(latency, dense, pruned, plan, options.rounds),
        }

    record("encoder_time", measure, options, benchmark="benchmarks.encoder_time")


if __name__ == "__main__":
    main()
