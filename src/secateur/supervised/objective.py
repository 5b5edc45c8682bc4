"""What training from scratch minimises: the CTC loss of the transcripts (Graves et al. 2006)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from secateur.recognizer import Recognizer
from secateur.speech.pool import SpeechPool
from secateur.training.ctc import ctc_per_token, frames_needed
from secateur.training.feed import Batch
from secateur.training.objective import WeightsObjective
from secateur.training.precision import Working


def impossible(recognizer: Recognizer, pool: SpeechPool) -> int:
    """How many utterances of a pool have more text than their audio can hold, so that nothing is learned from them."""
    texts = (pool.text(index) or "" for index in range(len(pool)))
    needed = [frames_needed(torch.tensor(recognizer.tokenizer(text).input_ids)) for text in texts]
    return int((np.array(needed) > pool.seconds / recognizer.seconds_per_frame + 1).sum())


class Transcription(WeightsObjective):
    """The objective of writing what is said, with dropout and with the batch's own statistics; see `training.objective.Objective`.

    Args:
        recognizer: what learns.
        working: its model at work.
        seed: of dropout.
    """

    def __init__(self, recognizer: Recognizer, working: Working, seed: int) -> None:
        super().__init__(working)
        self.recognizer, self.seed = recognizer, seed
        self._statistics: list[Tensor] = []

    def loss(self, batch: Batch, _share: float, /) -> tuple[Tensor, dict[str, float]]:
        """The loss per token of the batch; utterances whose audio or words are not known count for nothing."""
        model = self.recognizer.model.train()
        device = model.device
        self._statistics = [buffer.clone() for buffer in self._buffers()]
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            # Of the step alone, so that a run that is resumed draws what it would have drawn.
            torch.manual_seed(self.seed * 1_000_003 + batch.step)
            logits_BTV = model(**batch.inputs).logits
        targets = [
            None
            if text is None
            else torch.tensor(self.recognizer.tokenizer(text).input_ids, dtype=torch.long)
            for text in batch.texts
        ]
        frames_B = self.recognizer.output_lengths(batch.inputs["attention_mask"].sum(-1))
        log_BTV = logits_BTV.float().log_softmax(-1)
        loss = ctc_per_token(log_BTV, targets, frames_B, self.recognizer.blank)
        return loss, {"loss": float(loss.detach())}

    def skipped(self) -> None:
        """Put the norms' statistics back: they would not forget what was not finite."""
        for buffer, earlier in zip(self._buffers(), self._statistics, strict=True):
            buffer.copy_(earlier)

    def _buffers(self) -> list[Tensor]:
        return [buffer for buffer in self.recognizer.model.buffers() if buffer.is_floating_point()]
