"""Numbers as people read them, in tables and on pages."""

from __future__ import annotations

SIGNIFICANT = 0.05


def significant(*probabilities: float) -> bool:
    """Whether a difference is more than chance by every test that it was put to."""
    return max(probabilities) < SIGNIFICANT


def short(number: float) -> str:
    """Three figures and a magnitude: `13.2 M`."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # What would be rounded to a thousand of the smaller unit is one of this.
        if number >= 0.9995 * size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction as `49.9 %`."""
    return f"{100 * fraction:.{digits}f} %"


def rounded_percent(fraction: float) -> str:
    """A fraction in three figures at most, or all that stand before the point: `50 %`, `49.9 %`, `3520 %`."""
    return f"{100 * fraction:.3g} %" if fraction < 1 else f"{100 * fraction:.0f} %"


def counted(number: int, thing: str) -> str:
    """So many of a thing whose plural has an s: `1 thread`, `2 threads`."""
    return f"{number} {thing}{'s' * (number != 1)}"


def signed_points(fraction: float) -> str:
    """A difference of two fractions in percentage points, with a sign that is a minus: `−0.52`."""
    return f"{100 * fraction:+.2f}".replace("-", "\N{MINUS SIGN}")


def chance(p: float) -> str:
    """A probability of a test: `p = 0.034`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def duration(seconds: float) -> str:
    """Time in the two units that matter: `29 min 28 s`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
