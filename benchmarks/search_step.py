"""What learning masks costs: a step of the search against one of plain distillation of the unpruned model, in turns.

On batches of `fit`, forward, backward and optimiser. Also the part of a search step that gates and multipliers take by
themselves, and how long the loop waits for data.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

import torch

from benchmarks.record import Figures, argument_parser, model_file, parse, record, speech
from secateur import Recognizer, load
from secateur.pruning.distillation import Distillation, Distiller
from secateur.pruning.learning.constraint import Constraints
from secateur.pruning.learning.gates import Gates
from secateur.pruning.learning.learned import Learned, usual_rate
from secateur.pruning.learning.objectives import Recovery, Search
from secateur.speech.augmentation import Augmentation
from secateur.speech.corpus import open_corpus
from secateur.speech.pool import SpeechPool
from secateur.speech.skips import SkipLog
from secateur.structure.cost import mac_cost, parameter_cost
from secateur.structure.groups import find_groups
from secateur.structure.masking import masked
from secateur.training.feed import Batch, Feed
from secateur.training.precision import Working, lower, working_type
from secateur.training.trainer import Length, Loop, Trainer

WARM_UP = 2


def measure(steps: int, utterances: int) -> Figures:
    """Seconds of both kinds of step, over the same batches."""
    teacher = load(model_file())
    groups = find_groups(teacher.model)
    costs = {"params": parameter_cost(groups), "macs": mac_cost(groups, teacher.model, 10.0)}
    settings = Learned()
    students = [
        Recognizer(copy.deepcopy(teacher.model), teacher.features, teacher.tokenizer) for _ in range(2)
    ]
    dtype = working_type(settings.precision, teacher.model)
    working = [Working(student.model, dtype) for student in students]
    taught = copy.deepcopy(teacher.model)
    if dtype is not None:
        lower(taught, dtype)
    teacher_at_work = Recognizer(taught, teacher.features, teacher.tokenizer)
    plain, hidden = (Distiller(teacher_at_work, student, Distillation()) for student in students)
    gates = Gates(groups)
    dense = {name: cost.dense for name, cost in costs.items()}
    search = Search(hidden, None, working[1], gates, costs, Constraints([0.5, 0.5]), 0, dense, 0.0)
    rate = usual_rate(0.5)
    recovery = Recovery(plain, None, working[0])
    rates: list[list[dict[str, Any]]] = [
        [{"params": working[0].parameters(), "lr": rate}],
        [
            {"params": working[1].parameters(), "lr": rate},
            *gates.parameter_groups(settings.gate_rate),
        ],
    ]
    loop = Loop(Length(steps=WARM_UP + steps), decays=False)
    trainers = [Trainer(*each, loop) for each in zip((recovery, search), rates, strict=True)]
    pool = SpeechPool.read(open_corpus(speech("fit"), limit=utterances), teacher.sample_rate, skips=SkipLog())

    def step(trainer: Trainer, batch: Batch) -> float:
        start = perf_counter()
        trainer.step(batch)
        return perf_counter() - start

    def bookkeeping() -> float:
        """What gates and multipliers take by themselves, forward and backward."""
        start = perf_counter()
        masks = gates.sample(torch.Generator().manual_seed(0))
        term = search.constraints.term(search.fractions()) + sum(mask.sum() for mask in masks.values()) * 0
        torch.autograd.backward(term)
        gates.zero_grad()
        search.stepped()
        return perf_counter() - start

    seconds: dict[str, list[float]] = {"plain": [], "search": [], "gates": []}
    feed = Feed(
        teacher, pool, batch_seconds=settings.batch_seconds, augmentation=Augmentation.speeds(), seed=0
    )
    audio, began = 0.0, perf_counter()
    with masked(students[1].model, groups, search.masks), feed as batches:
        for batch in batches:
            if batch.step == WARM_UP:
                waited_before, began = feed.waited, perf_counter()
            taken = {"plain": step(trainers[0], batch), "search": step(trainers[1], batch)}
            taken["gates"] = bookkeeping()
            if batch.step >= WARM_UP:
                for name, each in taken.items():
                    seconds[name].append(each)
                audio += batch.seconds
            if batch.step + 1 == WARM_UP + steps:
                break
        waited = feed.waited - waited_before
    wall = perf_counter() - began
    means = {name: sum(each) / len(each) for name, each in seconds.items()}
    return {
        "steps": steps,
        "seconds": means,
        "search_over_plain": means["search"] / means["plain"],
        "gates_share": means["gates"] / means["search"],
        "waiting_share": waited / wall,
        "audio_per_second": {name: audio / sum(seconds[name]) for name in ("plain", "search")},
        "computes_in": str(dtype or teacher.model.dtype),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the ratio."""
    parser = argument_parser(__doc__, hears=False)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--utterances", type=int, default=200)
    options = parse(parser, arguments)
    record(
        "search_step",
        partial(measure, options.steps, options.utterances),
        options,
        benchmark="benchmarks.search_step",
    )


if __name__ == "__main__":
    main()
