"""What `secateur demo` shows and how long it takes; and how the model that comes along hears people."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch

from benchmarks.record import Figures, argument_parser, parse, record, run, scores, speech
from secateur import evaluate, load
from secateur.demo.run import MODEL

PEOPLE = ("valid", "an4")


def model() -> Figures:
    """Which model it was, by its file."""
    return {"model_sha256": sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()}


def demonstrate(options: Sequence[str]) -> Figures:
    """The command in a process of its own, where no synthetic speech has been made yet."""
    with tempfile.TemporaryDirectory() as folder:
        out, cache = Path(folder) / "out", Path(folder) / "cache"
        # Speech that was made before would not be made again.
        command = ["env", f"SECATEUR_CACHE={cache}", sys.executable, "-m", "secateur", "demo"]
        ran = run([*command, "--out", str(out), "--json", "-", "--quiet", *options])
    shown = json.loads(ran.output)
    return {
        **model(),
        "seconds": round(ran.seconds, 1),
        "peak_memory_mb": round(ran.peak_memory_mb),
        **{name: shown[name] for name in ("kept", "forward", "comparison", "wall_seconds", "phase_seconds")},
        **{name: {k: v for k, v in shown[name].items() if k != "worst"} for name in ("before", "after")},
        "heard": [{k: v for k, v in each.items() if k != "file"} for each in shown["sentences"]],
    }


def hear(name: str, limit: int | None) -> Figures:
    """The figures of the embedded model on human speech."""
    return model() | scores(evaluate(load(MODEL, dtype=torch.float32), speech(name), limit=limit))


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the demo, and each set of human speech."""
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, help="of the demo's training, instead of its minutes")
    parser.add_argument("--sets", nargs="*", choices=PEOPLE, default=PEOPLE, help="of human speech")
    options = parse(parser, arguments)
    given = [] if options.threads is None else ["--threads", str(options.threads)]
    given += [] if options.steps is None else ["--steps", str(options.steps)]
    record("demo", partial(demonstrate, given), options, benchmark="benchmarks.demo")
    for name in options.sets:
        record(f"demo_{name}", partial(hear, name, options.limit), options, benchmark="benchmarks.demo")


if __name__ == "__main__":
    main()
