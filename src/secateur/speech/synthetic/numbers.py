"""Numbers, dates, times, prices and letters in words, as people say them."""

from __future__ import annotations

import random

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_COINS = {"pounds": "pence", "dollars": "cents", "euros": "cents"}


def cardinal(number: int, joint: str = " and ") -> str:
    """A number from 0 to 999,999,999: 2,047 is "two thousand and forty seven".

    Args:
        number: to be said.
        joint: what stands before tens and units: " and " in Britain, " " in America.
    """
    if number < 20:
        return _UNITS[number]
    if number < 100:
        return _TENS[number // 10] + (f" {_UNITS[number % 10]}" if number % 10 else "")
    size, name = next(
        each for each in ((10**6, "million"), (10**3, "thousand"), (100, "hundred")) if number >= each[0]
    )
    rest = number % size
    head = f"{cardinal(number // size, joint)} {name}"
    if not rest:
        return head
    return f"{head}{joint if rest < 100 else ' '}{cardinal(rest, joint)}"


def ordinal(number: int) -> str:
    """21 is "twenty first"."""
    head, _, last = cardinal(number).rpartition(" ")
    last = _ORDINALS.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")
    return f"{head} {last}".strip()


def year(number: int) -> str:
    """1906 is "nineteen oh six"; 2003 "two thousand and three"."""
    if 2000 <= number < 2010 or number % 1000 == 0:
        return cardinal(number)
    if number % 100 == 0:
        return f"{cardinal(number // 100)} hundred"
    separator = " oh " if number % 100 < 10 else " "
    return f"{cardinal(number // 100)}{separator}{cardinal(number % 100)}"


def spelled(word: str) -> str:
    """The letters of a word, in capitals: `grammar.spoken` then sees to it that A is no article."""
    return " ".join(word.upper())


def draw_number(rng: random.Random) -> str:
    """A number up to a million, of any length as likely as any other."""
    joint = rng.choice((" and ", " "))
    number = rng.randrange(10 ** rng.randint(1, 6))
    # Round numbers are said more often than chance has them.
    number -= number % 10 ** rng.choice((0, 0, 0, 1, 2, 3))
    return cardinal(1_000_000 if rng.random() < 0.02 else number, joint)


def draw_numeral(rng: random.Random) -> str:
    """A small number, at least two."""
    return cardinal(rng.randint(2, rng.choice((12, 20, 99))))


def draw_decimal(rng: random.Random) -> str:
    """A number with one or two digits after the point."""
    digits = " ".join(_UNITS[rng.randrange(1, 10)] for _ in range(rng.randint(1, 2)))
    return f"{cardinal(rng.randrange(100))} point {digits}"


def draw_fraction(rng: random.Random) -> str:
    """A half, thirds, quarters and others."""
    many = rng.randint(2, 9)
    name = {2: "half", 4: "quarter"}.get(many) or ordinal(many)
    part = rng.randint(1, many - 1)
    return f"one {name}" if part == 1 else f"{cardinal(part)} {name}s"


def draw_digits(rng: random.Random) -> str:
    """Digits one by one, as in a telephone number."""
    zero = rng.choice(("oh", "zero"))
    digits = (rng.randrange(10) for _ in range(rng.randint(2, 7)))
    return " ".join(_UNITS[digit] if digit else zero for digit in digits)


def draw_letters(rng: random.Random) -> str:
    """Up to five letters."""
    return spelled("".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 5))))


def draw_year(rng: random.Random) -> str:
    """From 1066 to 2049, mostly of the last century and this one."""
    return year(rng.randint(*rng.choice(((1066, 2049), (1900, 1999), (1950, 2049)))))


def draw_day(rng: random.Random) -> str:
    """A day of a month."""
    return ordinal(rng.randint(1, 31))


def draw_ordinal(rng: random.Random) -> str:
    """First to hundredth."""
    return ordinal(rng.randint(1, rng.choice((12, 100))))


def draw_time(rng: random.Random) -> str:
    """A time of day."""
    hour = cardinal(rng.randint(1, 12))
    minutes = cardinal(rng.choice((5, 10, 20, 25)))
    spoken = (
        f"{hour} o'clock",
        f"half past {hour}",
        f"{rng.choice(('a quarter', minutes))} {rng.choice(('to', 'past'))} {hour}",
        f"{hour} {cardinal(rng.randint(10, 59))}",
        f"{hour} {rng.choice(('P M', 'A M'))}",
    )
    return rng.choice(spoken)


def draw_price(rng: random.Random) -> str:
    """An amount of money."""
    money = rng.choice(list(_COINS))
    whole = cardinal(rng.randint(2, rng.choice((20, 100, 5000))))
    change = cardinal(rng.randint(2, 99))
    return rng.choice(
        (f"{whole} {money}", f"{whole} {money} {change}", f"{whole} {money} and {change} {_COINS[money]}")
    )
