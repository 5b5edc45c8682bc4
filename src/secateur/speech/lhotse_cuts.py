"""Utterances from the cuts of a Lhotse cut set; importing it needs lhotse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lhotse import MonoCut
from lhotse.serialization import deserialize_item

from secateur.files import beside
from secateur.speech.skips import BrokenEntryError
from secateur.speech.utterance import Utterance

SLACK_SECONDS = 0.1
"""How far a supervision may go beyond its cut, by rounding or by a margin, and still be in it."""


def utterance_of_cut(record: dict[str, Any], folder: Path) -> Utterance:
    """A cut of a single-channel recording in one file, with its supervisions' texts in their order.

    Args:
        record: a line of the cut set.
        folder: where the cut set lies: a relative path is looked for there, then in the working directory.

    Raises:
        BrokenEntryError: it is another kind of cut, or its recording is not one file as it is.
    """
    name, kind = record.get("id"), record.get("type")
    if kind != "MonoCut":
        raise BrokenEntryError(f"cut {name} is a {kind}: only MonoCut is supported")
    try:
        return _utterance(deserialize_item(record), folder)
    except BrokenEntryError as error:
        raise BrokenEntryError(f"cut {name} {error}") from error
    # Lhotse checks little of what it loads: whatever a wrong value makes it raise means that the line is no cut.
    except Exception as error:
        raise BrokenEntryError(f"cut {name} makes no sense ({error})") from error


def _utterance(cut: MonoCut, folder: Path) -> Utterance:
    recording = cut.recording
    if recording is None:
        raise BrokenEntryError("has no recording, only features")
    if recording.transforms:
        raise BrokenEntryError(f"changes its recording by {recording.transforms}: save the audio changed")
    if recording.num_channels != 1:
        raise BrokenEntryError(f"takes one of {recording.num_channels} channels: split the recording")
    kinds = [source.type for source in recording.sources]
    if kinds != ["file"]:
        raise BrokenEntryError(f"has a recording of {kinds}: only one source of type file is supported")
    said = sorted(cut.supervisions, key=lambda supervision: supervision.start)
    told = [supervision for supervision in said if supervision.text is not None]
    texts = [supervision.text for supervision in told]
    # Lhotse's windows keep supervisions whole that they hold a part of.
    beyond = any(
        each.start < -SLACK_SECONDS or each.end > float(cut.duration) + SLACK_SECONDS for each in told
    )
    return Utterance(
        id=cut.id,
        path=beside(folder, recording.sources[0].source),
        text=" ".join(texts) if texts and not beyond else None,
        offset=float(cut.start),
        duration=float(cut.duration),
        flaw="has a supervision that goes beyond it: trim cuts to supervisions" if beyond else None,
    )
