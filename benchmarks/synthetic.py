"""How fast the synthetic corpus is spoken, disturbed, encoded and written: seconds of speech in a second."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Sequence
from time import perf_counter

from benchmarks.record import Figures, argument_parser, parse, record
from secateur.speech.audio import audio_seconds
from secateur.speech.corpus import open_corpus
from secateur.speech.synthetic import corpus

UTTERANCES = 2_000


def measure(utterances: int) -> Figures:
    """Make a corpus in an empty cache; one chapter before, so that files of espeak-ng are in memory."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[corpus.CACHE_VARIABLE] = folder
        list(open_corpus("synthetic:valid:1"))
        start, used = perf_counter(), processor_seconds()
        made = list(open_corpus(f"synthetic:train:{utterances}"))
        wall, used = perf_counter() - start, processor_seconds() - used
        seconds = sum(audio_seconds(each.path) for each in made)
        size = sum(each.path.stat().st_size for each in made)
    return {
        "utterances": len(made),
        "audio_seconds": round(seconds, 1),
        "seconds": round(wall, 2),
        "processor_seconds": round(used, 2),
        "times_real_time": round(seconds / wall),
        "times_real_time_of_one_core": round(seconds / used),
        "bytes_per_audio_second": round(size / seconds),
    }


def processor_seconds() -> float:
    """Of this process, and of its helpers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main(arguments: Sequence[str] | None = None) -> None:
    """Record how fast it is made, and how large it is."""
    parser = argument_parser(__doc__)
    options = parse(parser, arguments)
    utterances = options.limit or UTTERANCES
    record("synthetic", lambda: measure(utterances), options, benchmark="benchmarks.synthetic", seed=0)


if __name__ == "__main__":
    main()
