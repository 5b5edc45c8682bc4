"""Measure something, and write it down with all that it depends on: ``benchmarks/results/NAME.json``.

    python -m benchmarks.record NAME -- secateur inspect model.nemo --json -

runs a command that prints its figures as JSON. The other benchmarks call `record`; ``benchmarks/README.md`` lists them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from secateur.files import write_text

if TYPE_CHECKING:
    from secateur.evaluation.results import Evaluation

Figures = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Git ignores it: pruned models, and results of trials on a part of the data.
OUT = ROOT / "out" / "benchmarks"


def shared() -> Path:
    """The folder with the model and the speech: $SECATEUR_SHARED, by default ``shared`` beside the repository."""
    folder = Path(os.environ.get("SECATEUR_SHARED", ROOT.parent / "shared")).resolve()
    if not folder.is_dir():
        raise SystemExit(
            f"no speech and weights at {folder}: set SECATEUR_SHARED to the folder that has them"
        )
    return folder


def model_file() -> Path:
    """The recogniser that is measured: a trained Conformer-CTC of 13 M parameters."""
    return shared() / "models" / "conformer-ctc-small.nemo"


def speech(name: str) -> Path:
    """A set of speech: ``fit``, ``valid`` or ``test`` of LibriSpeech, ``an4``, or ``unlabelled``, which has no transcripts."""
    data = shared() / "data"
    others = {"an4": data / "an4" / "train.jsonl", "unlabelled": data / "unlabelled"}
    return others.get(name, data / "librispeech" / name)


def argument_parser(description: str | None, *, hears: bool = True) -> argparse.ArgumentParser:
    """What every benchmark takes; one that hears a corpus can be tried on a part of it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    parser.set_defaults(limit=None)
    if hears:
        parser.add_argument(
            "--limit", type=int, help="only the first so many utterances, and results go to out/"
        )
    parser.add_argument("--results", type=Path, help="folder for the results")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, and set the number of threads."""
    import torch

    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(given)
    options.command = given
    if options.results is None:
        options.results = RESULTS if options.limit is None else OUT / "trials"
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return options


def seeded(name: str, seed: int) -> str:
    """The name of a result, which tells another seed than the first."""
    return f"{name}_seed{seed}" if seed else name


def is_recorded(result: Path, **made: Figures) -> bool:
    """Whether there is a result whose figures say that it was made so; what they do not say could not be set then."""
    if not result.exists():
        return False
    known = json.loads(result.read_text(encoding="utf-8"))["figures"]
    return all(name in known and _agrees(known[name], value) for name, value in made.items())


def _agrees(known: Any, made: Any) -> bool:
    if isinstance(known, dict) and isinstance(made, dict):
        return all(name in made and _agrees(value, made[name]) for name, value in known.items())
    return bool(known == made)


def record(
    name: str,
    measure: Callable[[], Figures],
    options: argparse.Namespace,
    *,
    benchmark: str,
    seed: int | None = None,
) -> Path:
    """Call ``measure`` and write the figures that it returns, with everything they depend on.

    Args:
        name: of the result.
        measure: what is measured; it returns what `json.dumps` takes.
        options: as `parse` returns them.
        benchmark: the module that calls.
        seed: of all that was drawn, if anything was.
    """
    # Before the work: neither the code nor the load is the same when it ends.
    load_average = round(os.getloadavg()[0], 2)
    result: Figures = {
        "name": name,
        "command": shlex.join(["python", "-m", benchmark, *options.command]),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", "src", "benchmarks", ":!benchmarks/results")),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seed": seed,
        "machine": machine() | {"load_average": load_average},
    }
    start = perf_counter()
    figures = measure()
    result |= {"seconds": round(perf_counter() - start, 1), "figures": figures}
    text = json.dumps(result, indent=2) + "\n"
    options.results.mkdir(parents=True, exist_ok=True)
    path: Path = options.results / f"{name}.json"
    write_text(path, text)
    print(text, end="")
    return path


def machine() -> Figures:
    """The processor, the cores and threads, and the versions that figures depend on."""
    import torch

    from secateur.runs import environment
    from secateur.structure.part_times import device_name

    return {"cpu": device_name(torch.device("cpu")), **environment()}


def scores(evaluation: Evaluation) -> Figures:
    """The figures of an evaluation without the texts of anybody's speech."""
    return {name: value for name, value in evaluation.to_json().items() if name != "worst"}


@dataclass(frozen=True, slots=True)
class Ran:
    """A process that has ended: its output, its seconds, and the most memory it had resident, in 10^6 bytes."""

    output: str
    seconds: float
    peak_memory_mb: float


def run(command: Sequence[str]) -> Ran:
    """Run a command to its end, and end with it if it fails.

    Its peak memory is never less than what the calling process holds, from which it starts.
    """
    start = perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:  # noqa: S603  # our own
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{shlex.join(command)} failed with exit code {process.returncode}")
    # macOS counts bytes, everybody else kibibytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return Ran(output, perf_counter() - start, usage.ru_maxrss * unit / 1e6)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603  # our own


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the figures that a command prints as JSON, its seconds and its peak memory."""
    parser = argument_parser(__doc__, hears=False)
    parser.add_argument("name")
    parser.add_argument("run", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    options = parse(parser, arguments)
    command = [part for part in options.run if part != "--"]

    def measure() -> Figures:
        ran = run(command)
        printed = json.loads(ran.output)
        return {"printed": printed, "seconds": ran.seconds, "peak_memory_mb": ran.peak_memory_mb}

    record(options.name, measure, options, benchmark="benchmarks.record")


if __name__ == "__main__":
    main()
