"""The pieces of words that a recogniser writes with, found in transcripts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from secateur.errors import SecateurError
from secateur.models.vocabulary import SPACE

_AT_A_TIME = 10_000
"""Transcripts that are cut into pieces together: each takes kilobytes then."""


def find_pieces(texts: Sequence[str], size: int) -> tuple[list[str], list[float]]:
    """Pieces by byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909), as `tokenizer_from_pieces` takes them.

    Args:
        texts: transcripts, words separated by spaces.
        size: how many pieces, at most: a small corpus may have no more to join.

    Returns:
        The pieces, and the logarithm of how often each is needed to write the transcripts.

    Raises:
        SecateurError: there are more characters than pieces.
    """
    characters = len({SPACE}.union(*texts) - {" "})
    if characters > size:
        raise SecateurError(
            f"a vocabulary of {size} pieces cannot hold the {characters} characters of the transcripts, the space among them: give a larger one"
        )
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")
    tokenizer.train_from_iterator(texts, BpeTrainer(vocab_size=size, show_progress=False))
    vocabulary = tokenizer.get_vocab()
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    needed = Counter[int]()
    for first in range(0, len(texts), _AT_A_TIME):
        for written in tokenizer.encode_batch_fast(texts[first : first + _AT_A_TIME]):
            needed.update(written.ids)
    # Those that only helped to find longer ones are not needed, and yet possible.
    everything = sum(needed.values()) + len(pieces)
    return pieces, [math.log((needed[token] + 1) / everything) for token in range(len(pieces))]
