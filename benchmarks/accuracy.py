"""How well and how fast the unpruned recogniser hears: word error rates on test, valid and an4."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.record import Figures, argument_parser, model_file, parse, record, scores, speech
from secateur import Recognizer, evaluate, load

SETS = ("test", "valid", "an4")


def measure(recognizer: Recognizer, name: str, limit: int | None) -> Figures:
    """The figures on one set."""
    return scores(evaluate(recognizer, speech(name), limit=limit))


def main(arguments: Sequence[str] | None = None) -> None:
    """Record a result for each set."""
    parser = argument_parser(__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    options = parse(parser, arguments)
    recognizer = load(model_file())
    for name in options.sets:
        figures = partial(measure, recognizer, name, options.limit)
        record(f"accuracy_{name}", figures, options, benchmark="benchmarks.accuracy")


if __name__ == "__main__":
    main()
