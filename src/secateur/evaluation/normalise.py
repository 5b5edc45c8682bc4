"""Text normalisation before scoring: what a word error rate shall not count as an error."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache

from secateur.errors import SecateurError

Normaliser = Callable[[str], str]

# Typed as an apostrophe: besides the straight one both single quotation marks, a modifier letter, both accents, the wide one.
_APOSTROPHES = "'\u2018\u2019\u02bc`\u00b4\uff07"
_AT_AN_EDGE = re.compile(r"(?<![^\s'])'|'(?![^\s'])")
# Which of the characters that are not seen tell letters apart, in Persian and in scripts of India.
_JOINERS = "\u200c\u200d"
# Scripts that put no spaces between words: a letter, and the marks on it. Chinese and Japanese, Thai and Lao, Myanmar, Khmer.
_UNSPACED = re.compile(
    "[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
    "[\u3099\u309a\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u1056-\u1059\u105e-\u1060\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u108f\u109a-\u109d"
    "\u17b4-\u17d3]*"
)


def normaliser(name: str) -> Normaliser:
    """Look up the function that prepares both reference and hypothesis for alignment.

    Every normaliser leaves words separated by single spaces, without spaces at the ends:

    - `none`: nothing else.
    - `basic`: lower case, Unicode NFC, every punctuation mark and symbol becomes a space, except an apostrophe within a
      word (at its edge it may be a quotation mark: `'tis` is `tis`, `boys'` is `boys`), and soft hyphens and the like, which are not seen, go. In scripts that
      have no spaces between words, as Chinese and Thai, every character is a word. Enough where references are upper case (LibriSpeech) or punctuated.
    - `english`: Whisper's English normaliser as transformers ships it (Radford et al. 2022, appendix C):
      `basic` and spelled-out numbers, contractions, titles, fillers. transformers does not ship its table of
      British and American spellings, so `colour` and `color` stay different words.

    Raises:
        SecateurError: there is no normaliser of that name.
    """
    if name not in _NORMALISERS:
        raise SecateurError(
            f"there is no text normalisation {name!r}: choose one of {', '.join(NORMALISERS)}"
        )
    return _NORMALISERS[name]()


def character_normaliser(name: str) -> Normaliser:
    """The same for character error rates, which count no space that a text does not have."""
    return words_of if name == "basic" else normaliser(name)


def _collapse(text: str) -> str:
    return " ".join(text.split())


@cache
def _scored_character(character: str) -> str:
    if character in _APOSTROPHES:
        return "'"
    category = unicodedata.category(character)
    if category == "Cf" and character not in _JOINERS:
        return ""
    return " " if category[0] in "PS" else character


def words_of(text: str) -> str:
    """What `basic` is but for scripts that put no spaces between words: a text to learn from."""
    # The capital of a Turkish i leaves a dot to itself.
    lower = text.lower().replace("i\u0307", "i")
    scored = "".join(map(_scored_character, unicodedata.normalize("NFC", lower)))
    # Once more, as what stood between a letter and its accent may be gone.
    return _said(_AT_AN_EDGE.sub(" ", unicodedata.normalize("NFC", scored)))


def _said(text: str) -> str:
    """Its words; of an emoji a mark may be left that chose its colour."""
    return " ".join(word for word in text.split() if any(map(str.isalnum, word)))


def _basic(text: str) -> str:
    return _said(_UNSPACED.sub(r" \g<0> ", words_of(text)))


@cache
def _english() -> Normaliser:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    whisper = EnglishTextNormalizer({})
    return lambda text: _collapse(whisper(text))


_NORMALISERS: dict[str, Callable[[], Normaliser]] = {
    "none": lambda: _collapse,
    "basic": lambda: _basic,
    "english": _english,
}

NORMALISERS = tuple(_NORMALISERS)
