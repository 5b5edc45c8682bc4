"""What commands put out: sentences on the way, figures for people and for programs, and where a page of them is."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secateur.errors import SecateurError, reason
from secateur.files import write_text

if TYPE_CHECKING:
    from secateur.speech.skips import SkipLog

STANDARD_OUTPUT = "-"


def say(text: str) -> None:
    """Tell the user something, on standard error."""
    click.echo(f"secateur: {text}", err=True)


@contextmanager
def resumable(out: str | Path) -> Iterator[None]:
    """Tell whoever stops a run within the context how to go on with it, if there is something to go on from."""
    from secateur.training.workspace import Workspace

    try:
        yield
    except KeyboardInterrupt as interrupt:
        workspace = Workspace(Workspace.place(Path(out)))
        if str(interrupt) or not workspace.resumes:
            raise
        raise KeyboardInterrupt(
            f"stopped; what was done is kept in {workspace.folder}, and the same command goes on from there"
        ) from None


def tell_skips(skips: SkipLog) -> None:
    """Say what could not be read."""
    if skips.skipped:
        say(skips.summary())


def drawn(result: str | Path) -> str:
    """Draw the page of a result, and say where it is."""
    from secateur.reporting.page import PAGE, run_page

    return drawn_at(Path(result) / PAGE, lambda: run_page(result))


def drawn_at(page: Path, draw: Callable[[], str]) -> str:
    """Draw a page, and say where it is; or why it is not there, and nothing is lost by that."""
    instead = "the result is whole without it, and `secateur report` draws it"
    try:
        write_text(page, draw(), instead=instead)
    except SecateurError as error:
        say(str(error))
    except KeyboardInterrupt:
        say(f"stopped while its page was drawn; {instead}")
    except Exception as error:  # noqa: BLE001 - no fault in drawing is worth the figures that are still to be put out
        say(f"its page cannot be drawn ({type(error).__name__}: {reason(error)}); {instead}")
    else:
        return f"What came of it is drawn in {page}."
    return "There is no page about it."


def put_out(text: str, *, exact: bool = False) -> None:
    """Write to standard output.

    Args:
        text: what to write.
        exact: for programs, to which letters matter: in UTF-8, whatever the terminal has.

    Raises:
        SecateurError: it cannot take it; but a reader that has seen enough is nobody's fault.
    """
    try:
        try:
            click.echo(f"{text}\n".encode("utf-8", "backslashreplace") if exact else text, nl=not exact)
        except UnicodeEncodeError as error:
            # A terminal or a file of another alphabet, or a file's name that is no text.
            click.echo(text.encode(error.encoding, "replace").decode(error.encoding))
    except BrokenPipeError:
        raise
    except OSError as error:
        # So that what it still holds is not written once more at exit, which is another exit code.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SecateurError(f"standard output cannot be written: {reason(error)}") from None


def finish(figures: object, json_file: str | None, *shown: object) -> None:
    """Show results to people and write them for programs; not both on standard output."""
    from rich.console import Console

    text = json.dumps(figures, indent=2, ensure_ascii=False)
    if json_file == STANDARD_OUTPUT:
        put_out(text, exact=True)
        return
    lost: SecateurError | None = None
    if json_file is not None:
        # First: whoever reads the rest may have seen enough.
        try:
            write_text(json_file, f"{text}\n")
        except SecateurError as error:
            # What took an hour is shown all the same.
            lost = error
    # Where nobody looks, nothing should be wrapped; and a program may have no standard output.
    looked_at = sys.stdout is not None and sys.stdout.isatty()
    for each in shown:
        if not isinstance(each, str):
            drawing = io.StringIO()
            Console(file=drawing, force_terminal=looked_at, width=None if looked_at else 200).print(each)
            each = drawing.getvalue().rstrip("\n")
        put_out(each)
    if lost is not None:
        raise lost
