"""What pruning saves in time: the unpruned and a pruned model in turns, and where the time goes.

Ten seconds of audio, one utterance, one thread. The same run checks what the latency model predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.record import OUT, Figures, argument_parser, model_file, parse, record
from secateur import PruningPlan, load
from secateur.structure.cost import mac_cost, parameter_cost
from secateur.structure.groups import find_groups
from secateur.structure.latency import latency_cost

PRUNED = OUT / "models" / "oneshot_params50_macs50"


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
        check = latency.check(dense, pruned, plan, rounds=options.rounds)
        return {
            "audio_seconds": options.seconds,
            "params_kept": params(plan.counts()) / params.dense,
            "macs_kept": macs(plan.counts()) / macs.dense,
            **check.to_json(),
        }

    record("encoder_time", measure, options, benchmark="benchmarks.encoder_time")


if __name__ == "__main__":
    main()
