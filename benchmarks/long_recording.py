"""An hour-long recording, joined from utterances: the memory it takes to transcribe, and how well it is heard."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import soundfile

from benchmarks.record import Figures, argument_parser, model_file, parse, record, run, scores, speech
from secateur.evaluation.error_rate import total, word_counts
from secateur.evaluation.normalise import normaliser
from secateur.speech.audio import read_utterance
from secateur.speech.corpus import Corpus, Utterance, open_corpus

SAMPLE_RATE = 16000


def join(source: Corpus, seconds: float, recording: Path) -> list[Utterance]:
    """Write utterances one after the other until there is enough; at least one."""
    joined: list[Utterance] = []
    samples = 0
    with soundfile.SoundFile(recording, "w", SAMPLE_RATE, channels=1) as file:
        for utterance in source:
            waveform = read_utterance(utterance, SAMPLE_RATE)
            file.write(waveform)
            joined.append(utterance)
            samples += len(waveform)
            if samples >= seconds * SAMPLE_RATE:
                break
    return joined


def main(arguments: Sequence[str] | None = None) -> None:
    """Record peak memory and both word error rates."""
    parser = argument_parser(__doc__)
    parser.add_argument("--set", choices=["test", "valid"], default="test")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument(
        "--pruned", type=Path, help="what pruning left, instead of the unpruned model: a result of its own"
    )
    options = parse(parser, arguments)
    model = options.pruned or model_file()

    def measure() -> Figures:
        with TemporaryDirectory() as folder:
            recording, output = Path(folder) / "recording.wav", Path(folder) / "heard.json"
            joined = join(open_corpus(speech(options.set), limit=options.limit), options.seconds, recording)
            command = [sys.executable, "-m", "secateur", "transcribe", str(model), str(recording)]
            command += ["--json", str(output), "--quiet"]
            command += ["--threads", str(options.threads)] if options.threads else []
            # While this process is small, since the new one starts from its memory.
            ran = run(command)
            heard = json.loads(output.read_text(encoding="utf-8"))[0]

        from secateur import evaluate, load
        from secateur.structure.counting import parameters

        recognizer = load(model)
        alone = evaluate(recognizer, Corpus(lambda: iter(joined)))
        prepare = normaliser("basic")
        reference = prepare(" ".join(utterance.text or "" for utterance in joined))
        whole = total(word_counts([reference], [prepare(heard["text"])]))
        return {
            "audio_seconds": heard["seconds"],
            "seconds": ran.seconds,
            "peak_memory_mb": ran.peak_memory_mb,
            "parameters": parameters(recognizer.model),
            "wer": whole.rate,
            "substitutions": whole.substitutions,
            "deletions": whole.deletions,
            "insertions": whole.insertions,
            "utterances": scores(alone),
        }

    name = "long_recording_pruned" if options.pruned else "long_recording"
    record(name, measure, options, benchmark="benchmarks.long_recording")


if __name__ == "__main__":
    main()
