"""Tokenizers for CTC vocabularies that come as a list of pieces or as a SentencePiece model."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import Unigram
from transformers import ParakeetTokenizer

from secateur.errors import SecateurError

SPACE = "▁"
BLANK = "<pad>"


def tokenizer_from_pieces(pieces: Sequence[str], scores: Sequence[float] | None = None) -> ParakeetTokenizer:
    """A tokenizer whose ids are positions in ``pieces``, followed by the CTC blank.

    Decoding is exact. Encoding is the most probable segmentation under ``scores`` (log probabilities, as in a
    SentencePiece model); without scores, the one with the fewest pieces.

    Args:
        pieces: sub-words, a leading ``▁`` standing for the space before a word; or single characters, the space
            among them as itself.
    """
    characters = " " in pieces
    pieces = [SPACE if piece == " " else piece for piece in pieces]
    repeated = (
        {piece for piece in pieces if pieces.count(piece) > 1} if len(set(pieces)) < len(pieces) else set()
    )
    if repeated:
        raise SecateurError(
            f"the vocabulary lists {min(repeated)!r} more than once, so ids would be ambiguous"
        )
    vocabulary = [*zip(pieces, scores or [-1.0] * len(pieces), strict=True), (BLANK, -1e4)]
    unknown = pieces.index("<unk>") if "<unk>" in pieces else None
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=unknown))
    prepend = "never" if characters else "always"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=prepend)
    tokenizer.decoder = decoders.Metaspace(SPACE, prepend_scheme=prepend)
    return ParakeetTokenizer(
        tokenizer_object=tokenizer, pad_token=BLANK, unk_token=None if unknown is None else "<unk>"
    )


def tokenizer_from_sentencepiece(model: bytes) -> ParakeetTokenizer:
    """A tokenizer with the pieces and scores of a serialised SentencePiece model.

    Raises:
        SecateurError: the bytes are no SentencePiece model.
    """
    import sentencepiece

    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise SecateurError(f"the tokenizer in the archive is no SentencePiece model: {error}") from None
    ids = range(processor.get_piece_size())
    return tokenizer_from_pieces(
        [processor.id_to_piece(i) for i in ids], [processor.get_score(i) for i in ids]
    )
