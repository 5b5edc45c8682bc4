"""Utterances from the cuts of a Lhotse cut set; importing it needs lhotse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lhotse import MonoCut
from lhotse.serialization import deserialize_item

from secateur.speech.skips import BrokenEntryError
from secateur.speech.utterance import Utterance


def utterance_of_cut(record: dict[str, Any], folder: Path) -> Utterance:
    """A cut of a single-channel recording in one file, with its supervisions' texts in their order.

    Args:
        record: a line of the cut set.
        folder: where the cut set lies: a relative path is looked for there, then in the working directory.

    Raises:
        BrokenEntryError: it is another kind of cut, or its recording is not one file as it is.
    """
    name = record.get("id")
    kind = record.get("type")
    if kind != "MonoCut":
        raise BrokenEntryError(f"cut {name} is a {kind}: only MonoCut is supported")
    try:
        cut = deserialize_item(record)
    # Whatever a wrong value makes lhotse's constructors raise means that the line is no cut.
    except Exception as error:
        raise BrokenEntryError(f"cut {name} makes no sense to lhotse ({error})") from error
    assert isinstance(cut, MonoCut)
    recording = cut.recording
    if recording is None:
        raise BrokenEntryError(f"cut {name} has no recording, only features")
    if recording.transforms:
        raise BrokenEntryError(
            f"cut {name} changes its recording by {recording.transforms}: save the audio changed"
        )
    if recording.num_channels != 1:
        raise BrokenEntryError(
            f"cut {name} takes one of {recording.num_channels} channels: split the recording"
        )
    kinds = [source.type for source in recording.sources]
    if kinds != ["file"]:
        raise BrokenEntryError(
            f"cut {name} has a recording of {kinds}: only one source of type file is supported"
        )
    beside = folder / recording.sources[0].source
    texts = [
        each.text for each in sorted(cut.supervisions, key=lambda each: each.start) if each.text is not None
    ]
    return Utterance(
        id=cut.id,
        path=beside if beside.exists() else Path(recording.sources[0].source),
        text=" ".join(texts) if texts else None,
        offset=float(cut.start),
        duration=float(cut.duration),
    )
