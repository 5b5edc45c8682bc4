"""Tokenizers for CTC vocabularies that come as a list of pieces or as a SentencePiece model."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, Unigram
from transformers import ParakeetTokenizer
from transformers.convert_slow_tokenizer import generate_merges

from secateur.errors import SecateurError

SPACE = "▁"
BLANK = "<pad>"


def tokenizer_from_pieces(
    pieces: Sequence[str], scores: Sequence[float] | None = None, *, merges: bool = False
) -> ParakeetTokenizer:
    """A tokenizer whose ids are positions in ``pieces``, followed by the CTC blank.

    Decoding is exact. Encoding is the most probable segmentation under ``scores``; without scores, the one with the fewest
    pieces; with ``merges``, what comes of joining the pieces of the highest score first.

    Args:
        pieces: sub-words, a leading ``▁`` standing for the space before a word; or single characters, the space
            among them as itself.
        scores: of the pieces, as a SentencePiece model has them: log probabilities, or with ``merges`` the order of joining.
        merges: whether the pieces came by byte pair encoding.
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
    if merges and BLANK in pieces:
        raise SecateurError(f"the vocabulary has a piece {BLANK!r}, which is the name of the blank here")
    scored = dict(zip(pieces, scores or [-1.0] * len(pieces), strict=True))
    unknown = pieces.index("<unk>") if "<unk>" in pieces else None
    kind: BPE | Unigram
    if merges:
        ids = {piece: index for index, piece in enumerate([*pieces, BLANK])}
        joined = generate_merges(ids, scored, skip_tokens=["<unk>"])
        kind = BPE(ids, joined, unk_token=None if unknown is None else "<unk>", fuse_unk=True)
    else:
        kind = Unigram([*scored.items(), (BLANK, -1e4)], unk_id=unknown)
    tokenizer = Tokenizer(kind)
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
    scores = [processor.get_score(i) for i in ids]
    # What a model by byte pair encoding has for scores: the order in which its pieces came. Those that never come by joining have 0.
    below = [score for score in scores if score < 0]
    ranks = below == [-float(rank) for rank in range(1, len(below) + 1)]
    return tokenizer_from_pieces([processor.id_to_piece(i) for i in ids], scores, merges=ranks)
