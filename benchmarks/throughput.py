"""How much time batches save: a test set in batches of similar lengths against one utterance at a time.

Both ways hear the same files in the same run, in turns of a block of utterances, and read them from disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from time import perf_counter

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.record import Figures, argument_parser, model_file, parse, record, speech
from secateur import Recognizer, load
from secateur.decoding import Transcript
from secateur.evaluation.error_rate import total, word_counts
from secateur.evaluation.normalise import normaliser
from secateur.speech.audio import read_utterance
from secateur.speech.batching import BATCH_SECONDS, read_batches
from secateur.speech.corpus import Utterance, open_corpus
from secateur.speech.skips import SkipLog
from secateur.timing import Spread

Hear = Callable[[Sequence[Utterance]], dict[str, Transcript]]

# About twenty minutes of LibriSpeech: what `read_batches` sorts by length at a time.
BLOCK = 160
PROFILED = 32
OPERATORS = 12


def hear_in_batches(
    recognizer: Recognizer, batch_seconds: float, utterances: Sequence[Utterance]
) -> dict[str, Transcript]:
    """As ``secateur evaluate`` does it."""
    heard: dict[str, Transcript] = {}
    forgive_nothing = SkipLog(limit=0, share=0)
    for batch in read_batches(utterances, recognizer.sample_rate, batch_seconds, skips=forgive_nothing):
        transcripts = recognizer.transcribe_batch(batch.waveforms)
        heard.update(zip((utterance.id for utterance in batch.utterances), transcripts, strict=True))
    return heard


def hear_alone(recognizer: Recognizer, utterances: Sequence[Utterance]) -> dict[str, Transcript]:
    """One file, one forward pass, one after the other."""
    return {
        each.id: recognizer.transcribe_batch([read_utterance(each, recognizer.sample_rate)])[0]
        for each in utterances
    }


def compare(ways: dict[str, Hear], utterances: Sequence[Utterance], block: int) -> Figures:
    """Seconds of both ways, block by block in changing order, and what they heard."""
    heard: dict[str, dict[str, Transcript]] = {name: {} for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    blocks = [utterances[start : start + block] for start in range(0, len(utterances), block)]
    for turn, part in enumerate(blocks):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            start = perf_counter()
            heard[name].update(ways[name](part))
            seconds[name].append(perf_counter() - start)
    texts = {name: [found[each.id].text for each in utterances] for name, found in heard.items()}
    totals = {name: sum(each) for name, each in seconds.items()}
    ratios = [own / other for own, other in zip(*seconds.values(), strict=True)]
    return {
        "utterances": len(utterances),
        "audio_seconds": sum(each.seconds for each in heard["batched"].values()),
        "seconds": totals,
        "ratio": totals["batched"] / totals["alone"],
        "ratio_low": Spread.of(ratios).low,
        "ratio_high": Spread.of(ratios).high,
        "wer": {name: word_error_rate(utterances, each) for name, each in texts.items()},
        "texts_that_differ": sum(own != other for own, other in zip(*texts.values(), strict=True)),
    }


def word_error_rate(utterances: Sequence[Utterance], texts: Sequence[str]) -> float:
    """Of normalised texts."""
    prepare = normaliser("basic")
    references = [prepare(each.text or "") for each in utterances]
    return total(word_counts(references, [prepare(text) for text in texts])).rate


def stages(recognizer: Recognizer, batches: Sequence[Sequence[Utterance]]) -> dict[str, float]:
    """Seconds of reading, features, model and decoding."""
    spent = dict.fromkeys(("reading", "features", "model", "decoding"), 0.0)
    times: list[float] = []

    def note(*_: object) -> None:
        times.append(perf_counter())

    model = recognizer.model
    hooks = [model.register_forward_pre_hook(note), model.register_forward_hook(note)]
    for batch in batches:
        times.clear()
        note()
        waveforms = [read_utterance(each, recognizer.sample_rate) for each in batch]
        note()
        recognizer.transcribe_batch(waveforms)
        note()
        for stage, (before, after) in zip(spent, pairwise(times), strict=True):
            spent[stage] += after - before
    for hook in hooks:
        hook.remove()
    return spent


def operators(hear: Hear, utterances: Sequence[Utterance]) -> list[Figures]:
    """Where the time goes: PyTorch's operators by their own time."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        hear(utterances)
    rows = sorted(profiler.key_averages(), key=lambda row: -row.self_cpu_time_total)
    whole = sum(row.self_cpu_time_total for row in rows)
    return [
        {"operator": row.key, "share": round(row.self_cpu_time_total / whole, 4), "calls": row.count}
        for row in rows[:OPERATORS]
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the ratio of both ways and where their time goes."""
    parser = argument_parser(__doc__)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="in batches")
    parser.add_argument(
        "--alone-dtype", choices=["float32", "bfloat16"], help="one at a time; as --dtype by default"
    )
    parser.add_argument("--batch-seconds", type=float, default=BATCH_SECONDS)
    parser.add_argument("--block", type=int, default=BLOCK, help="utterances in a turn")
    options = parse(parser, arguments)

    def measure() -> Figures:
        alone_dtype = options.alone_dtype or options.dtype
        batched = load(model_file(), dtype=getattr(torch, options.dtype))
        alone = load(model_file(), dtype=getattr(torch, alone_dtype))
        ways: dict[str, Hear] = {
            "batched": partial(hear_in_batches, batched, options.batch_seconds),
            "alone": partial(hear_alone, alone),
        }
        utterances = list(open_corpus(speech("test"), limit=options.limit))
        sample = utterances[:PROFILED]
        for hear in ways.values():
            hear(sample[:4])
        figures = compare(ways, utterances, options.block)
        in_batches = read_batches(sample, batched.sample_rate, options.batch_seconds, skips=SkipLog())
        return {
            "dtype": {"batched": options.dtype, "alone": alone_dtype},
            "batch_seconds": options.batch_seconds,
            **figures,
            "stages": {
                "batched": stages(batched, [batch.utterances for batch in in_batches]),
                "alone": stages(alone, [[each] for each in sample]),
            },
            "operators": {name: operators(hear, sample) for name, hear in ways.items()},
        }

    name = "throughput" if options.dtype == "float32" else f"throughput_{options.dtype}"
    record(name, measure, options, benchmark="benchmarks.throughput")


if __name__ == "__main__":
    main()
