"""`secateur report`."""

from __future__ import annotations

from pathlib import Path

import click

from secateur.cli.options import check_apart, json_option, writable_output
from secateur.cli.output import STANDARD_OUTPUT, finish, put_out, say
from secateur.files import write_text

COMPARISON = "comparison.html"


@click.command(short_help="Draw results as a page to look at.")
@click.argument("folders", nargs=-1, required=True, metavar="DIR...")
@click.option(
    "--out",
    metavar="FILE",
    callback=writable_output,
    help=f"Where to write it; - is standard output.  [default: DIR/report.html, of several {COMPARISON}]",
)
@json_option
def report(folders: tuple[str, ...], out: str | None, json_file: str | None) -> None:
    """Write a page to look at about the result in DIR, or about several side by side.

    DIR is what `secateur prune` or `secateur train` has written.
    The page is one HTML file, which asks the network for nothing.
    """
    from secateur.reporting.page import PAGE, comparison_page, run_page
    from secateur.reporting.result import REPORT, RUN, read

    alone = len(folders) == 1
    place = out if out is not None else str(Path(folders[0]) / PAGE) if alone else COMPARISON
    check_apart(("--out", place), ("--json", json_file))
    for record in (Path(folder) / name for folder in folders for name in (REPORT, RUN)):
        for option, given in (("--out", place), ("--json", json_file)):
            check_apart((option, given), ("the result's", str(record)))
    page = run_page(folders[0]) if alone else comparison_page(folders)
    if out == STANDARD_OUTPUT:
        put_out(page, exact=True)
    else:
        write_text(place, page, instead="name another file with --out")
        say(f"{place} is written")
    if json_file is not None:
        finish([read(folder).to_json() for folder in folders], json_file)
