"""From templates to HTML, with numbers as people read them."""

from __future__ import annotations

from typing import Any

import jinja2

from secateur import __version__
from secateur.errors import SecateurError, reason
from secateur.reporting import chart, numbers
from secateur.reporting.quotes import AUDIO_SECONDS
from secateur.reporting.result import REPORT

NARROW = "\N{NARROW NO-BREAK SPACE}"
"""Between a number and its unit, which stay together."""


def render(template: str, **values: Any) -> str:
    """The page that a template makes of these values.

    Raises:
        SecateurError: the template needs what a report lacks.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("secateur.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "short": lambda number: numbers.short(number).replace(" ", NARROW),
        "percent": lambda *given: numbers.percent(*given).replace(" ", NARROW),
        "brief": lambda fraction: numbers.rounded_percent(fraction).replace(" ", NARROW),
        "grouped": lambda count: f"{int(count):,}",
        "points": numbers.signed_points,
        "chance": numbers.chance,
        "duration": lambda seconds: numbers.duration(seconds).replace(" ", "\N{NO-BREAK SPACE}"),
    }
    environment.globals |= {"version": __version__, "field": chart, "audio_seconds": AUDIO_SECONDS}
    try:
        return environment.get_template(template).render(values)
    except jinja2.UndefinedError as error:
        raise SecateurError(
            f"a {REPORT} is not as Secateur writes it ({reason(error)}): run again what wrote it"
        ) from None
