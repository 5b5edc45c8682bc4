"""How the site is made of these pages, of the docstrings and of the command line: `make docs`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

import secateur

ROOT = Path(__file__).resolve().parents[1]

project = "Secateur"
author = "The Secateur authors"
version = release = secateur.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_click",
]

# Options begin with two hyphens, not with a dash.
smartquotes = False

html_theme = "furo"
html_title = "Secateur"
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 3
# Blocks without a language are commands, files and pictures made of letters.
highlight_language = "none"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 80
# Attributes are what the class's docstring says of them, each said once.
napoleon_use_ivar = True
napoleon_numpy_docstring = False
# `Budget.parse` in a docstring becomes a link where the reference has it, and is code where not.
default_role = "py:obj"

nitpicky = True
# Without the network nothing is known of what other libraries name.
LIBRARIES = (
    "click|collections|contextlib|jiwer|np|npt|numpy|pathlib|rich|tokenizers|torch|transformers|types|typing"
)
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:.*", rf"({LIBRARIES})\..*"),
    # What the documented classes are made of, and nobody else handles.
    ("py:class", "Console|CostModel|Path|PreTrainedModel"),
    (
        "py:class",
        r"secateur\.(structure\.(axes|family|latency)|speech\.pool|pruning\.(learning\.method|oneshot))\.\w+",
    ),
]

PAGES = {
    "README.md": "index",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "benchmarks/README.md": "benchmarks",
}
"""Files of the repository that are pages of the site, and what they are called there."""


def lead_to_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Let links to files that are pages of the site lead to those: a reader of the repository needs the files."""
    folder = Path(app.srcdir, name).parent

    def place(match: re.Match[str]) -> str:
        file = os.path.relpath(os.path.normpath(folder / match[1]), ROOT)
        return f"](/{PAGES[file]}.md" if file in PAGES else match[0]

    source[0] = re.sub(r"\]\(((?:\.\./)+[\w./-]+\.md)", place, source[0])


def plain_defaults(
    _app: Sphinx,
    _what: str,
    _name: str,
    _obj: object,
    _options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Write defaults that are made anew for each object as Python can be parsed."""
    return signature and signature.replace("<factory>", "..."), returns


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", lead_to_pages)
    app.connect("autodoc-process-signature", plain_defaults)
