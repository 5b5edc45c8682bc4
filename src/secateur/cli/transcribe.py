"""`secateur transcribe`."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import click

from secateur.cli.options import batch_seconds_option, load_recognizer, model_options
from secateur.cli.output import finish, tell_skips
from secateur.errors import SecateurError

if TYPE_CHECKING:
    from secateur.decoding import Transcript
    from secateur.speech.utterance import Utterance


@click.command()
@click.argument("model")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@batch_seconds_option
@model_options
def transcribe(
    model: str,
    files: tuple[str, ...],
    batch_seconds: float,
    device: str,
    dtype: str | None,
    threads: int | None,
    json_file: str | None,
    quiet: bool,
) -> None:
    """Print what MODEL hears in each FILE.

    A FILE is audio of any length, a folder of it, or a manifest. What cannot be read is named on standard error and left
    out; only where nothing is left is that an error.
    """
    from secateur.progress import ProgressBar
    from secateur.speech.corpus import Corpus, open_corpus
    from secateur.speech.skips import SkipLog, Skipped
    from secateur.transcription import transcribe

    corpora: list[Corpus] = []
    unopened: list[SecateurError] = []
    for file in files:
        try:
            corpora.append(open_corpus(file))
        except SecateurError as error:
            unopened.append(error)
            left_out = Skipped(file, str(error).removeprefix(f"{file} "))
            corpora.append(Corpus(partial(iter, [left_out])))
    if len(unopened) == len(files):
        raise unopened[0]
    corpus = Corpus(lambda: chain.from_iterable(each.entries() for each in corpora))
    recognizer, skips = load_recognizer(model, device, dtype, threads), SkipLog(share=1.0, named=100)
    heard: list[tuple[Utterance, Transcript]] = []
    # What is one of several says whose it is; so does the first where others were to come.
    alone = False
    try:
        with ProgressBar("transcribing", quiet=quiet) as progress:
            heard = transcribe(
                recognizer,
                corpus,
                batch_seconds=batch_seconds,
                skips=skips,
                progress=progress,
                tell=lambda utterance, transcript: heard.append((utterance, transcript)),
            )
        alone = len(heard) == 1 and not skips.skipped
        tell_skips(skips)
    finally:
        # All, in the order of the files; or what had been heard when it was stopped.
        # Of a recording that is heard in cuts, each says when it begins.
        times = Counter(each.path for each, _ in heard)
        lines = [
            transcript.text
            if alone
            else f"{each.path}{f' at {each.offset:g} s' if times[each.path] > 1 else ''}: {transcript.text}"
            for each, transcript in heard
        ]
        figures = [
            {"id": each.id, "path": str(each.path), "offset": each.offset, **transcript.to_json()}
            for each, transcript in heard
        ]
        if heard:
            finish(figures, json_file, *lines)
