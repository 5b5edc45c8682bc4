"""Sentences: a grammar and lists of words, drawn from at random."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache
from itertools import accumulate
from pathlib import Path

from secateur.speech.synthetic import numbers

_WORDS = Path(__file__).with_name("words")
_GRAMMAR = "grammar"
_SYMBOL = re.compile(r"<([a-z']+)(?:([.:])([a-z]+))?>")
# Where the sound that follows is not what its letter says.
_AN = re.compile(r"\ba (?=(?!uni[^nm]|use|european|one|once|ukr|uran)[aeiou]|hour|honest|heir)")
_NOT_SAID = re.compile(r"[^a-z' ]")

_DRAWN: dict[str, Callable[[random.Random], str]] = {
    "number": numbers.draw_number,
    "numeral": numbers.draw_numeral,
    "decimal": numbers.draw_decimal,
    "fraction": numbers.draw_fraction,
    "digits": numbers.draw_digits,
    "letters": numbers.draw_letters,
    "year": numbers.draw_year,
    "day": numbers.draw_day,
    "ordinal": numbers.draw_ordinal,
    "time": numbers.draw_time,
    "price": numbers.draw_price,
}
_PLURALS = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "mouse": "mice",
    "goose": "geese",
    "tooth": "teeth",
    "foot": "feet",
    "ox": "oxen",
    "wife": "wives",
    "knife": "knives",
    "thief": "thieves",
    "wolf": "wolves",
    "calf": "calves",
    "shelf": "shelves",
    "leaf": "leaves",
    "loaf": "loaves",
    "scarf": "scarves",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "hero": "heroes",
    "volcano": "volcanoes",
    "mosquito": "mosquitoes",
    "mango": "mangoes",
    "tornado": "tornadoes",
    "stomach": "stomachs",
    "salmon": "salmon",
    "trout": "trout",
    "cod": "cod",
    "reindeer": "reindeer",
    "fish": "fish",
}
# Verbs that double their last letter before -ed and -ing: those of one short vowel, and of others these.
_ONE_SHORT_VOWEL = re.compile(r"[^aeiou]*[aeiou][bdgmnprt]")
_DOUBLED = frozenset("begin control forget prefer rebel worship cancel label travel quarrel signal".split())


def draw_sentence(rng: random.Random) -> str:
    """A sentence as a speaker is to say it: small letters but for letters that are spelled, and punctuation."""
    return spoken(_expanded("sentence", rng))


def transcript(sentence: str) -> str:
    """The words of what `draw_sentence` drew, in small letters, without punctuation."""
    return " ".join(_NOT_SAID.sub(" ", sentence.lower()).split())


def spoken(sentence: str) -> str:
    """Mend articles, and end a clause after each letter A that is spelled, which is no article then."""
    return re.sub(r"\bA\b(?![,.?])", "A,", _AN.sub("an ", sentence))


@cache
def vocabulary() -> frozenset[str]:
    """All words of the lists, in all forms that the grammar asks for."""
    text = "\n".join(line for lines in _rules().values() for line in lines[0])
    found = {
        _formed(word, form)
        for name, mark, form in _SYMBOL.findall(text)
        if name in _lists()
        for word in _lists()[name]
        for form in ([form] if mark == "." else [""])
    }
    found.update(word for word in re.findall(r"[a-z']+", _SYMBOL.sub(" ", text)) if word != "'s")
    return frozenset(found)


def _expanded(symbol: str, rng: random.Random) -> str:
    lines, weights = _rules()[symbol]
    line = rng.choices(lines, cum_weights=weights)[0]
    # The same word where it is said and then spelled.
    said: dict[str, str] = {}
    spelled = {match[3] for match in _SYMBOL.finditer(line) if match[2] == ":"}

    def drawn(match: re.Match[str]) -> str:
        name, mark, form = match.groups()
        if mark == ":" or name in spelled:
            word = form if mark == ":" else name
            if word not in said:
                said[word] = _formed(rng.choice(_lists()[word]), "")
            return numbers.spelled(said[word]) if mark == ":" else said[word]
        if name in _DRAWN:
            return _DRAWN[name](rng)
        if name in _rules():
            return _expanded(name, rng)
        return _formed(rng.choice(_lists()[name]), form or "")

    return _SYMBOL.sub(drawn, line)


@cache
def _lists() -> dict[str, list[str]]:
    """Words by kind; after irregular verbs, and colons, their past tense and, if that is another, their participle."""
    return {
        path.stem: path.read_text(encoding="utf-8").split()
        for path in sorted(_WORDS.glob("*.txt"))
        if path.stem != _GRAMMAR
    }


@cache
def _rules() -> dict[str, tuple[list[str], list[int]]]:
    """Alternatives of every symbol, and their weights, accumulated."""
    alternatives: dict[str, list[tuple[int, str]]] = {}
    symbol = ""
    for line in (_WORDS / f"{_GRAMMAR}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            weight, _, text = line.strip().partition(" ")
            alternatives[symbol].append((int(weight), text))
        elif line and not line.startswith("#"):
            symbol = line
            alternatives[symbol] = []
    return {
        name: ([text for _, text in lines], list(accumulate(weight for weight, _ in lines)))
        for name, lines in alternatives.items()
    }


@cache
def _formed(entry: str, form: str) -> str:
    """A form of a word: its plural or third person (s), its past tense (past), its participles (done, ing)."""
    word, *irregular = entry.split(":")
    if form == "s":
        return _PLURALS.get(word) or _with_s(word)
    if form == "ing":
        return f"{_stem(word, 'i')}ing"
    if form in ("past", "done"):
        regular = f"{_stem(word, 'e')}ed"
        return (irregular or [regular])[0 if form == "past" else -1]
    return word


def _with_s(word: str) -> str:
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    if word.endswith("man") and word not in ("human", "german"):
        return f"{word[:-3]}men"
    return f"{word}es" if re.search(r"(s|x|z|ch|sh)$|^(go|echo)$", word) else f"{word}s"


def _stem(word: str, ending: str) -> str:
    """What -ed and -ing are appended to."""
    if ending == "e" and re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}i"
    if ending == "i" and word.endswith("ie"):
        return f"{word[:-2]}y"
    if word.endswith("e") and (ending == "e" or not word.endswith("ee")):
        return word[:-1]
    if word in _DOUBLED or _ONE_SHORT_VOWEL.fullmatch(word):
        return word + word[-1]
    return word
