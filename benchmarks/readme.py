"""Write the README's two blocks of figures from ``benchmarks/results``; what has not been measured is left out.

python -m benchmarks.readme            rewrites them
python -m benchmarks.readme --check    fails if they are not what the results say
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks import learned, oneshot
from benchmarks.arena import PREFIX, comparable
from benchmarks.record import RESULTS, ROOT, Figures
from secateur.pruning.compare import run_name
from secateur.pruning.learning.learned import PHASES

README = ROOT / "README.md"

SETS = {
    "test": "LibriSpeech test-clean, 20 speakers",
    "valid": "LibriSpeech dev-clean, 8 speakers",
    "an4": "AN4 (spelled words, numbers, commands)",
}
METHOD_NAMES = {
    "learned": "`learned` with the search",
    "recovered": "`learned`",
    "oneshot": "`oneshot`",
    "thorough": "`oneshot --refit-minutes 260 --refit-steps 1000`",
    "magnitude": "magnitude, nothing refitted",
}


SUMMARY = (
    ("oneshot", "params=70%,macs=70%"),
    ("recovered", "params=70%,macs=70%"),
    ("oneshot", "params=50%,macs=50%"),
    ("recovered", "params=50%,macs=50%"),
)
"""Methods and budgets of the pruned models that stand at the head of the README."""


class Results:
    """The results in a folder, and which of them were used.

    Attributes:
        used: every result that was asked for and is there.
    """

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob("*.json"))
        self._results = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
        self.used: dict[str, Figures] = {}

    def pruning(self, name: str) -> str:
        """How long the pruning of a recorded model took, and with how many threads."""
        threads = int(self._results[name]["machine"]["threads"])
        return f"{pruning_minutes(self._results[name]['figures']):.1f} min, {threads} thread{'s' * (threads > 1)}"

    def method(self, name: str, method: str) -> str:
        """How a recorded model was pruned, and whether by an earlier version of that."""
        earlier = is_earlier(self._results[name]["figures"])
        return METHOD_NAMES[method] + (", earlier version" if earlier else "")

    def arena(self, seed: int = 0) -> list[Figures]:
        """The rows of the arena that can be compared."""
        everything = [self._results[name] for name in self._results if name.startswith(PREFIX)]
        rows = comparable(everything, seed)
        self.used |= {row["name"]: row for row in rows}
        return rows

    def figures(self, name: str) -> Figures | None:
        """The figures of a result, or None if it was not measured."""
        if name not in self._results:
            return None
        self.used[name] = self._results[name]
        figures: Figures = self._results[name]["figures"]
        return figures


def summary(folder: Path) -> str:
    """What pruning comes to, in a few rows, for those who read no further."""
    results = Results(folder)
    rows = []
    if unpruned := results.figures("accuracy_test"):
        rows.append(["unpruned", *costs_and_wer(unpruned), ""])
    for method, budget in SUMMARY:
        name = run_name(method, budget)
        if results.figures(name) and (tested := results.figures(f"{name}_test")):
            of = f"{budget.split('=')[-1].replace('%', ' %')} of parameters and MACs"
            rows.append(
                [f"{results.method(name, method)}, {of}", *costs_and_wer(tested), results.pruning(name)]
            )
    return table(["model", "parameters", "MACs / s", "WER test-clean", "pruned in"], rows)


def section(folder: Path) -> str:
    """All that was measured."""
    results = Results(folder)
    written = (
        accuracy(results), pruned(results), arena(results), whisper(results), speed(results), demo(results)
    )  # fmt: skip
    parts = [part for part in written if part]
    if not parts:
        return "No figures have been recorded yet."
    return "\n\n".join([*parts, footnote(results.used.values())])


def accuracy(results: Results) -> str:
    """The unpruned model on each set."""
    rows = []
    for name, speech in SETS.items():
        if figures := results.figures(f"accuracy_{name}"):
            hours = figures["audio_seconds"] / 3600
            wer = [percent(figures["wer"]), interval(figures)]
            rows.append([speech, f"{hours:.2f} h", *wer, percent(figures["cer"])])
    return table(["unpruned, on", "speech", "WER", "95 % interval", "CER"], rows)


def pruned(results: Results) -> str:
    """The pruned models, below the unpruned one."""
    rows = []
    for budget in dict.fromkeys((*oneshot.BUDGETS, *learned.BUDGETS)):
        for method in METHOD_NAMES:
            name = run_name(method, budget)
            if figures := results.figures(name):
                tested = results.figures(f"{name}_test")
                rows.append(
                    [
                        f"`{budget}`",
                        results.method(name, method),
                        *costs_and_wer(figures["valid"]),
                        percent(tested["wer"]) if tested else "",
                        results.pruning(name),
                    ]
                )
    valid, test = (results.figures(f"accuracy_{name}") for name in ("valid", "test"))
    if rows and valid:
        rows.insert(
            0,
            ["everything", "unpruned", *costs_and_wer(valid), percent(test["wer"]) if test else "", ""],
        )
    head = ["kept", "method", "parameters", "MACs / s", "WER dev-clean", "WER test-clean", "pruning"]
    return table(head, rows)


def is_earlier(figures: Figures) -> bool:
    """Whether a pruned model is of before each layer was refitted by steps of its own, and position features could go."""
    settings = figures.get("settings", {})
    return "reconstruct_steps" not in settings.get("oneshot", settings)


def costs_and_wer(figures: Figures) -> list[str]:
    """What a model costs, and how it hears."""
    return [millions(figures["params"]), millions(figures["macs_per_second"]), percent(figures["wer"])]


def arena(results: Results) -> str:
    """What the methods of `secateur compare` come to, given the same work: by budget, the best first."""
    found = results.arena()
    if not found:
        return ""
    threads = "/".join(sorted({str(each["machine"]["threads"]) for each in found}))
    rows = [each["figures"]["row"] for each in found]
    done = [row for row in rows if row["error"] is None]
    again = {
        (row["budget"], row["method"]): percent(row["test"]["wer"])
        for row in (each["figures"]["row"] for each in results.arena(seed=1))
        if row["error"] is None
    }
    lines = [
        [
            f"`{row['budget']}`",
            f"`{row['method']}`",
            millions(row["valid"]["params"]),
            f"{row['kept']['macs_per_second']:.0%}",
            "{median:.0%} ({low:.0%} to {high:.0%})".format_map(row["time"]),
            percent(row["valid"]["wer"]),
            f"{percent(row['test']['wer'])} ({interval(row['test'])})",
            again.get((row["budget"], row["method"]), ""),
            f"{sum(took for name, took in row['seconds'].items() if name.startswith(PHASES)) / 60:.1f}",
            str(sum(row["steps"].values())),
        ]
        for row in sorted(done, key=lambda row: (row["budget"], row["test"]["wer"]))
    ]
    minutes = found[0]["figures"]["settings"]["learned"]["minutes"]
    text = (
        f"Methods compared, by `python -m benchmarks.arena`: the same speech and budget, {minutes:g} minutes in {threads} thread{'' if threads == '1' else 's'} each for scoring, refitting and "
        "recovery ([what is compared](docs/compare.md)). `obs` is the score that `secateur prune` takes by default. Measured so far:\n\n"
    )
    head = [
        "kept",
        "what decides",
        "parameters",
        "MACs left",
        "time left, quartiles",
        "WER dev-clean",
        "WER test-clean, 95 % interval",
        "with another seed",
        "minutes",
        "steps",
    ]
    text += table(head, lines)
    for row in rows:
        if row["error"] is not None:
            text += f"\n\n`{row['method']}` at `{row['budget']}`: {row['error']}."
    return text


def pruning_minutes(figures: Figures) -> float:
    """From the model and the speech to the pruned model, in minutes; what measures it before and after aside."""
    # Of a run that was stopped in between, the last process knows how long the phases took in all.
    phases = figures.get("phase_seconds", {}).values()
    before = sum(figures["wall_seconds"].get(stage, 0.0) for stage in ("load", "read"))
    return float(before + (sum(phases) or figures["wall_seconds"].get("prune", 0.0))) / 60


def whisper(results: Results) -> str:
    """What a user might pick instead, beside the unpruned model, on the same speech by the same rules."""
    figures = results.figures("whisper_tiny_test")
    if figures is None:
        return ""
    theirs, ours = figures["whisper"], figures["conformer"]
    return (
        f"Whisper tiny.en, with {millions(theirs['params'])} parameters, has a WER of {percent(theirs['wer'])} on the "
        f"same {figures['utterances']} utterances of test-clean, where the unpruned model has {percent(ours['wer'])}, both by "
        f"Whisper's own normalisation of texts; it takes {figures['time']['median']:.1f} times as long from samples to text, one utterance at a "
        f"time. By the plain rules of all other figures, as in the picture, it has {percent(theirs['basic']['wer'])}."
    )


def speed(results: Results) -> str:
    """A sentence for each measurement of time and memory."""
    lines = []
    for name in ("throughput", "throughput_bfloat16"):
        if figures := results.figures(name):
            dtypes = (figures["dtype"]["batched"], figures["dtype"]["alone"])
            lines.append(
                f"{figures['audio_seconds'] / 3600:.2f} h of speech take {figures['seconds']['batched']:.0f} s in batches in {dtypes[0]}, "
                f"and {figures['seconds']['alone']:.0f} s one utterance after the other in {dtypes[-1]} (ratio {figures['ratio']:.2f})."
            )
    if figures := results.figures("long_recording"):
        said = (
            f"A recording of {figures['audio_seconds'] / 60:.0f} minutes is transcribed within "
            f"{figures['peak_memory_mb'] / 1e3:.2f} GB of memory, at {percent(figures['wer'])} WER against "
            f"{percent(figures['utterances']['wer'])} for its utterances one by one."
        )
        if pruned := results.figures("long_recording_pruned"):
            said += (
                f" Pruned to {pruned['parameters'] / 1e6:.2f} M parameters, in one shot, the model has {percent(pruned['wer'])} against "
                f"{percent(pruned['utterances']['wer'])}."
            )
        lines.append(said)
    if figures := results.figures("encoder_time"):
        dense, sliced = (1e3 * figures[name]["median"] for name in ("dense", "sliced"))
        lines.append(
            f"At {figures['params_kept']:.0%} of the parameters and {figures['macs_kept']:.0%} of the MACs a forward pass "
            f"over {figures['audio_seconds']:.0f} s of audio takes {figures['measured']['median']:.2f} of the time on one "
            f"thread ({dense:.0f} ms before, {sliced:.0f} ms after; {figures['predicted']:.2f} was predicted)."
        )
    if figures := results.figures("large"):
        steps = figures["steps"]
        peak = max(step["peak_memory_mb"] for step in steps.values()) / 1e3
        each = ", ".join(
            f"{name} {steps[name]['seconds']:.0f} s" for name in ("plan", "slice", "save", "reload")
        )
        lines.append(
            f"A random model of {figures['params'] / 1e9:.2f} billion parameters, halved: {each}; {peak:.1f} GB of memory "
            "at most."
        )
    return "\n".join(f"- {line}" for line in lines)


def demo(results: Results) -> str:
    """What the demo shows, and what its model is worth beyond it."""
    figures = results.figures("demo")
    if figures is None:
        return ""
    before, after = figures["before"], figures["after"]
    ratio = figures["forward"]["ratio"]["median"]
    text = (
        f"`secateur demo` took {figures['seconds'] / 60:.1f} min, the making of its speech included: "
        f"{millions(before['params'])} parameters to {millions(after['params'])}, {millions(before['macs_per_second'])} MACs / s "
        f"to {millions(after['macs_per_second'])}, a forward pass to {ratio:.2f} of its time, and "
        f"{percent(before['wer'])} WER to {percent(after['wer'])} on {before['utterances']} utterances of voices and sentences "
        "that neither model was trained on."
    )
    people = [(name, results.figures(f"demo_{name}")) for name in ("valid", "an4")]
    heard = [f"{percent(measured['wer'])} on {SETS[name]}" for name, measured in people if measured]
    if heard:
        text += f" It has heard no human being, and so its unpruned model has a WER of {' and '.join(heard)}."
    return text


def footnote(results: Iterable[Figures]) -> str:
    """Where and with what it was measured."""
    machines = {f"{each['machine']['cpu']}, {each['machine']['cores']} cores": None for each in results}
    versions = {f"PyTorch {each['machine']['torch']}": None for each in results}
    return f"Measured on {'; '.join(machines)}; {', '.join(versions)}. The files in `benchmarks/results` have the command and the commit of each."


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, or nothing without rows; columns without any entry are left out."""
    columns = [index for index in range(len(head)) if any(row[index] for row in rows)]
    lines = [[head[index] for index in columns], ["---"] * len(columns)]
    lines += [[row[index] for index in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


def percent(fraction: float) -> str:
    """A rate as people read it."""
    return f"{100 * fraction:.2f} %"


def interval(figures: Figures) -> str:
    """The ends of a word error rate's interval, in percent."""
    low, high = figures["wer_interval"]
    return f"{100 * low:.2f} to {100 * high:.2f}"


def millions(number: float) -> str:
    """Parameters or multiply-accumulates."""
    return f"{number / 1e6:.2f} M" if number < 1e8 else f"{number / 1e6:.0f} M"


BLOCKS: Mapping[str, Callable[[Path], str]] = {"summary": summary, "figures": section}
"""What stands between the README's markers, from the folder of results."""


def markers(block: str) -> tuple[str, str]:
    """What stands before and behind a block."""
    return (
        f"<!-- {block}: written by `python -m benchmarks.readme`, do not edit -->",
        f"<!-- end of {block} -->",
    )


def updated(text: str, folder: Path) -> str:
    """A README with the figures of a folder of results between its markers."""
    for block, write in BLOCKS.items():
        begin, end = markers(block)
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not found or not ended:
            raise SystemExit(f"the README has no place for its {block}: it needs {begin} and {end}")
        text = f"{before}{begin}\n\n{write(folder)}\n\n{end}{after}"
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrite the README, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    text = README.read_text(encoding="utf-8")
    expected = updated(text, RESULTS)
    if not options.check:
        README.write_text(expected, encoding="utf-8")
    elif text != expected:
        raise SystemExit(
            "README.md has not the figures of benchmarks/results: run python -m benchmarks.readme"
        )


if __name__ == "__main__":
    main()
