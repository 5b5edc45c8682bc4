"""Layerwise distillation: a pruned model learns to do what the unpruned one does, from audio alone.

With the weight w_t of a frame, which is 1 + a (1 - p(blank)) as the teacher sees it, normalised to sum to one over the
frames of a batch that are no padding, the loss is a sum of

    output   sum_t w_t KL(teacher_t || student_t)
    hidden   mean over layers of  sum_t w_t |h_t - k_t|^2 / sum_t w_t |k_t - mean k|^2,
             h and k the residual streams of student and teacher after a layer
    task     the CTC loss per token on transcripts or, where there are none, on what the teacher heard

each with a factor. CTC models answer most frames with blanks, which drown the others if all count the same. Layerwise
distillation with layers matched as they resemble each other is that of CoFi (Xia et al. 2022, arXiv 2204.00408); here the
last one is always matched to the last one.

    B batch   T frames   D residual width   V vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from secateur.errors import SecateurError
from secateur.models.conformer import frame_mask
from secateur.pruning.refitting.capture import first_of
from secateur.recognizer import Inputs, Recognizer
from secateur.runs import check_not_negative
from secateur.structure.groups import family_of, find_groups
from secateur.training.ctc import ctc_per_token

MATCHING_MEMORY = 0.9
"""Share of the distances between layers that is kept from one batch to the next."""


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """What the teacher makes of a batch.

    Attributes:
        logs: log probabilities of its outputs, [B, T, V].
        streams: its residual stream after each layer, [B, T, D] each.
    """

    logs: Tensor
    streams: list[Tensor]


@dataclass(frozen=True, slots=True)
class Distillation:
    """What counts how much.

    Attributes:
        output: factor of the divergence of the output distributions.
        hidden: factor of the distance of the residual streams after each layer.
        task: factor of the CTC loss.
        speech_weight: a, how much more a frame counts that is surely no blank.

    Raises:
        SecateurError: one is no finite number of 0 or more.
    """

    output: float = 1.0
    hidden: float = 10.0
    task: float = 0.0
    speech_weight: float = 5.0

    def __post_init__(self) -> None:
        check_not_negative(self, "output", "hidden", "task", "speech_weight")


class Distiller:
    """The loss of a student against its teacher.

    Args:
        teacher: the unpruned recogniser; no gradients are taken of it.
        student: the same model with masks on it, or what slicing left of it.
        settings: what counts how much.
        width: the teacher's residual dimensions that the student was left; None: all.
    """

    def __init__(
        self,
        teacher: Recognizer,
        student: Recognizer,
        settings: Distillation,
        width: Sequence[int] | None = None,
    ) -> None:
        self.teacher, self.student, self.settings = teacher, student, settings
        self._teaching, self._learning = layers_of(teacher), layers_of(student)
        self._width = None if width is None else list(width)
        # Where no layer went, each is matched to itself.
        self._matches = list(range(len(self._learning)))
        self._distances: Tensor | None = None

    @torch.no_grad()
    def teach(self, inputs: Inputs) -> Taught:
        """What the teacher makes of a batch. It changes nothing, and may run in another thread, ahead of the student."""
        with _streams(self._teaching) as streams:
            logits = self.teacher.model(**_cast(inputs, self.teacher)).logits
        return Taught(logits.float().log_softmax(-1), streams)

    def __call__(
        self, inputs: Inputs, labels: Sequence[Tensor | None] | None = None, taught: Taught | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and its terms before their factors.

        Args:
            inputs: as `Recognizer.prepare` makes them.
            labels: token ids of each utterance's transcript, [tokens]; None where there is none.
            taught: what `teach` made of the inputs, where that is known.
        """
        if taught is None:
            taught = self.teach(inputs)
        target, k = taught.logs, taught.streams
        with _streams(self._learning) as h:
            said = self.student.model(**_cast(inputs, self.student)).logits.float()
        real = frame_mask(self.teacher.output_lengths(inputs["attention_mask"].sum(-1)), target.shape[1])
        speech = 1.0 - target[..., self.teacher.blank].exp()
        weight = real * (1.0 + self.settings.speech_weight * speech)
        weight = weight / weight.sum()

        log = said.log_softmax(-1)
        terms = {"output": (weight * F.kl_div(log, target, reduction="none", log_target=True).sum(-1)).sum()}
        if self.settings.hidden:
            terms["hidden"] = self._hidden(h, k, weight)
        if self.settings.task:
            terms["task"] = self._task(log, target.argmax(-1), real, labels)
        loss = sum((getattr(self.settings, name) * term for name, term in terms.items()), log.new_zeros(()))
        return loss, {name: float(term.detach()) for name, term in terms.items()}

    def state_dict(self) -> dict[str, Tensor | None]:
        """What the next loss depends on besides the two models: how layers were seen to resemble each other."""
        return {"distances": self._distances}

    def load_state_dict(self, state: Mapping[str, Tensor | None]) -> None:
        """Take over what `state_dict` gave."""
        self._distances = state["distances"]

    def _hidden(self, h: Sequence[Tensor], k: Sequence[Tensor], weight: Tensor) -> Tensor:
        """Mean over the student's layers of the relative distance to the teacher's layer that each is matched to."""
        if self._width is not None:
            k = [each[..., self._width] for each in k]
        if len(h) < len(k):
            self._match(h, k, weight)
        distances = [distance(each, k[match], weight) for each, match in zip(h, self._matches, strict=True)]
        return torch.stack(distances).mean()

    @torch.no_grad()
    def _match(self, h: Sequence[Tensor], k: Sequence[Tensor], weight: Tensor) -> None:
        """Match each of the student's layers to the teacher's that it resembles most, in their order.

        The last is the last one's, whatever it resembles, as the head reads what it puts out.
        """
        now = torch.stack([torch.stack([distance(each, other, weight) for other in k]) for each in h]).cpu()
        if not now.isfinite().all():
            # The step will not be taken, and must not be remembered either.
            return
        before = now if self._distances is None else self._distances
        self._distances = MATCHING_MEMORY * before + (1 - MATCHING_MEMORY) * now
        self._matches = [*in_order(self._distances[:-1, :-1]), len(k) - 1]

    def _task(
        self, log_BTV: Tensor, heard_BT: Tensor, real_BT: Tensor, labels: Sequence[Tensor | None] | None
    ) -> Tensor:
        targets = []
        for i, heard in enumerate(heard_BT):
            given = None if labels is None else labels[i]
            collapsed = heard[real_BT[i]].unique_consecutive()
            targets.append(collapsed[collapsed != self.teacher.blank] if given is None else given)
        return ctc_per_token(log_BTV, targets, real_BT.sum(-1), self.teacher.blank)


def layers_of(recognizer: Recognizer) -> list[nn.Module]:
    """The layers whose residual streams are compared, in their order."""
    return list(recognizer.model.get_submodule(family_of(recognizer.model).layers).children())


def check_teacher(teacher: Recognizer, model: Recognizer) -> None:
    """Refuse a teacher that what is left of a model cannot be compared with.

    Raises:
        SecateurError: it hears, writes or is built in another way.
    """
    what = _difference(teacher, model)
    if what is not None:
        raise SecateurError(
            f"the teacher {what} than the model that is pruned: give the model that it was pruned from, "
            "with its width as it was"
        )


def _difference(teacher: Recognizer, model: Recognizer) -> str | None:
    if family_of(teacher.model) is not family_of(model.model):
        return "is of another family"
    if teacher.features.to_dict() != model.features.to_dict():
        return "hears other features"
    if teacher.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        return "writes with another vocabulary"
    lengths = torch.tensor([100, 1000, 3001])
    if not torch.equal(teacher.output_lengths(lengths), model.output_lengths(lengths)):
        return "answers at another rate"
    if _width(teacher) != _width(model):
        return "has another residual width"
    if len(layers_of(teacher)) < len(layers_of(model)):
        return "has fewer layers"
    return None


def _width(recognizer: Recognizer) -> int:
    """Residual dimensions: those that are left, in the families where they can go."""
    group = find_groups(recognizer.model, width=True).get("width")
    config = recognizer.model.config
    return int(getattr(config, "encoder_config", config).hidden_size) if group is None else group.size


def distance(h_BTD: Tensor, k_BTD: Tensor, weight_BT: Tensor) -> Tensor:
    """Weighted squared distance of two streams, relative to the variance of the second; weights sum to one."""
    h_BTD, k_BTD = h_BTD.float(), k_BTD.float()
    mean_D = torch.einsum("bt,btd->d", weight_BT, k_BTD)
    variance = (weight_BT * (k_BTD - mean_D).square().sum(-1)).sum()
    apart = (weight_BT * (h_BTD - k_BTD).square().sum(-1)).sum()
    return apart / variance.clamp(min=torch.finfo(variance.dtype).tiny)


def in_order(distances: Tensor) -> list[int]:
    """For each row a column, rising strictly from row to row, with the least sum of distances, [rows, columns]."""
    rows, columns = distances.shape
    best = [[0.0] * (columns + 1)]
    for i in range(rows):
        # best[i + 1][j]: the least sum for rows up to i with columns below j.
        line = [float("inf")] * (i + 1)
        for j in range(i, columns):
            line.append(min(line[-1], best[i][j] + float(distances[i, j])))
        best.append(line)
    matches, j = [], columns
    for i in reversed(range(rows)):
        while best[i + 1][j - 1] == best[i + 1][j]:
            j -= 1
        j -= 1
        matches.append(j)
    return matches[::-1]


def transcript_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor | None:
    """Token ids of a transcript, [tokens], in the case that the vocabulary is of; None if that cannot write it."""
    for written in dict.fromkeys([text.lower() if text.isupper() else text, text.lower(), text.upper()]):
        try:
            ids = tokenizer(written, add_special_tokens=False).input_ids
        except Exception:  # noqa: BLE001, S112 - tokenizers raises nothing narrower where nothing stands for the unknown
            continue
        if tokenizer.unk_token_id not in ids:
            return torch.tensor(ids, dtype=torch.long)
    return None


def _cast(inputs: Inputs, recognizer: Recognizer) -> dict[str, Tensor]:
    """Inputs in the precision that a model computes in."""
    dtype = recognizer.model.dtype
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}


@contextmanager
def _streams(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """What each layer puts out in a forward pass within the context, in the order of the layers."""
    seen: dict[int, Tensor] = {}
    streams: list[Tensor] = []

    def note(index: int, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        seen[index] = first_of(output)

    handles = [layer.register_forward_hook(partial(note, index)) for index, layer in enumerate(layers)]
    try:
        yield streams
    finally:
        for handle in handles:
            handle.remove()
        streams += [seen[index] for index in sorted(seen)]
