"""What scoring, refitting and a step of it cost beside a forward pass, for each second of speech: what runs by the clock are planned by.

On the recogniser of the other benchmarks and on a random wav2vec 2.0 of its usual size, by the default method at half of the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from time import perf_counter

import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from benchmarks.record import Figures, argument_parser, model_file, parse, record, speech
from secateur import Recognizer, load
from secateur.pruning.learning.pace import REFITTING, SCORING, SETTLING, pace
from secateur.pruning.oneshot import OneShot, carry_out, judge, share_out
from secateur.pruning.planning.budget import Budget
from secateur.pruning.prune import sampled
from secateur.speech.corpus import open_corpus
from secateur.speech.sampling import sample_batches
from secateur.speech.skips import SkipLog
from secateur.structure.cost import parameter_cost
from secateur.structure.groups import find_groups

BUDGET = "params=50%"
STEPS = 40


def wav2vec2() -> Recognizer:
    """One with random weights; time does not depend on them."""
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(Wav2Vec2Config()).eval()
    # Its tokenizer is asked nothing.
    return Recognizer(
        model, Wav2Vec2FeatureExtractor(return_attention_mask=True), load(model_file()).tokenizer
    )


def quiet(_stage: str, _done: float, /) -> None:
    """Nobody looks at the progress."""


def measure(minutes: float) -> Figures:
    """Seconds for a second of speech, of each model."""
    figures: Figures = {
        "budget": BUDGET,
        "planned": {"scoring": SCORING, "refitting": REFITTING, "settling": SETTLING},
    }
    for name, recognizer in {"conformer": load(model_file()), "wav2vec2": wav2vec2()}.items():
        settings = OneShot(score_minutes=minutes, reconstruct_minutes=minutes, reconstruct_steps=0)
        _, batch_seconds = sampled(settings, recognizer)
        sample = sample_batches(
            open_corpus(speech("fit")),
            minutes,
            recognizer.sample_rate,
            batch_seconds,
            seed=0,
            skips=SkipLog(),
        )
        heard = sum(len(wave) for batch in sample for wave in batch) / recognizer.sample_rate
        groups = find_groups(recognizer.model)
        seconds = {"forward": pace(recognizer, sample)}
        start = perf_counter()
        judgement = judge(recognizer, groups, sample, settings, quiet)
        seconds["scoring"] = (perf_counter() - start) / heard
        costs = {"params": parameter_cost(groups)}
        plan = share_out(judgement, groups, costs, Budget.parse(BUDGET), sample, settings, quiet)
        start = perf_counter()
        carry_out(plan, judgement.teacher, sample, settings, quiet)
        refitting = perf_counter() - start
        seconds["refitting"] = refitting / heard
        start = perf_counter()
        carry_out(plan, judgement.teacher, sample, replace(settings, reconstruct_steps=STEPS), quiet)
        # Each step hears one of the batches, on the average.
        seconds["settling"] = (perf_counter() - start - refitting) / (STEPS * heard / len(sample))
        figures[name] = {
            "settings": asdict(settings),
            "heard_seconds": heard,
            "seconds": seconds,
            "passes": {
                part: seconds[part] / seconds["forward"] for part in ("scoring", "refitting", "settling")
            },
        }
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the ratios."""
    parser = argument_parser(__doc__, hears=False)
    parser.add_argument("--minutes", type=float, default=5.0, help="of speech")
    options = parse(parser, arguments)
    record("pace", partial(measure, options.minutes), options, benchmark="benchmarks.pace", seed=0)


if __name__ == "__main__":
    main()
