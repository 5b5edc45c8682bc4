"""What was said and what was heard, for the terminal: words that were heard wrong or missed stand out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from secateur.reporting.quotes import marked

STYLES = {"right": "", "wrong": "bold red", "missing": "strike red"}


def sentences_table(sentences: Iterable[tuple[str, str, Sequence[str]]], heard_by: Sequence[str]) -> Table:
    """What `rich` prints of some sentences.

    Args:
        sentences: of each a name, what was said, and what each model heard.
        heard_by: what the models are called.
    """
    table = Table.grid(padding=(0, 2))
    for name, said, heard in sentences:
        table.add_row(name, "said", Text(said))
        for model, words in zip(heard_by, heard, strict=True):
            table.add_row("", model, _shown(said, words))
    return table


def _shown(said: str, heard: str) -> Text:
    # Without colours a missing word would look like one that was heard.
    words = [
        Text(f"({word.text})" if word.kind == "missing" else word.text, style=STYLES[word.kind])
        for word in marked(said, heard)
    ]
    return Text(" ").join(words)
