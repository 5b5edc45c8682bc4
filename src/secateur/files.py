"""Files that appear whole or not at all, and folders; where one cannot be written, a sentence says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile

from secateur.errors import SecateurError, reason

_STREAMS = {Path("/dev/stdout"), Path("/dev/stderr"), Path("/dev/fd")}
"""What they lead to may be a file, and is not to be replaced."""


def is_there(path: Path) -> bool:
    """Whether the path exists; False, and no error, where its folder is closed to the user or its name is none that a file can have."""
    try:
        return path.exists()
    except OSError:
        return False


def expanded(name: str | Path) -> Path:
    """The path that a name with a ~ stands for; as it is where that is of nobody, as in ``~$call.wav``."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def beside(folder: Path, name: str) -> Path:
    """The file that a manifest in that folder names: in the folder, or else from where the program was started."""
    near, here = folder / expanded(name), expanded(name)
    return here if is_there(here) and not is_there(near) else near


def check_sums(file: Path | BinaryIO) -> None:
    """Refuse a zip that is not what was written; PyTorch writes check sums, and does not look at them.

    Raises:
        BadZipFile: it is not, or no zip.
    """
    with ZipFile(file) as archive:
        if wrong := archive.testzip():
            raise BadZipFile(f"{wrong} is not what was written")


def cache_folder(name: str) -> Path:
    """Where what can be made anew is kept under that name: in the user's cache, as XDG's base directories say."""
    return Path(os.environ.get("XDG_CACHE_HOME") or expanded("~/.cache")) / "secateur" / name


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write within the context what shall stand at ``path`` after it, in place of what stood there before.

    An error leaves everything as it was.
    """
    # Where names may be as long as they come, this one may be too.
    partial = path.with_name(f".{path.name[:50]}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def written_at(path: Path) -> Path | None:
    """Where a file appears that is written to a path: where a link leads to. None: nothing appears, what is there is written to as it is."""
    if path.exists() and (not path.is_file() or path.parent in _STREAMS or path in _STREAMS):
        return None
    return Path(os.path.realpath(path))


def write_text(path: str | Path, text: str, *, instead: str = "free or name another place") -> None:
    """Write a text in UTF-8; an earlier file is replaced whole or stays.

    Args:
        path: of the file. What is there and is no file, as a pipe or a device, is written to as it is.
        text: what to write.
        instead: what the caller can do where that fails.

    Raises:
        SecateurError: it cannot be written.
    """
    path = Path(path)
    try:
        place = written_at(path)
        if place is None:
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            return
        with whole(place) as partial:
            # Names of files need not be text; what stands for them then is what JSON has for it.
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise SecateurError(f"{path} cannot be written: {reason(error)}; {instead}") from None


def make_folder(folder: Path, *, instead: str = "choose another place") -> None:
    """Make a folder, and those that it is in, where there is none yet.

    Args:
        folder: its path.
        instead: what the caller can do where that fails.

    Raises:
        SecateurError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SecateurError(f"{folder} cannot be made: {reason(error)}; {instead}") from None


def share_weights(folder: str | Path) -> None:
    """Let weights be read by whoever may read the configuration beside them: safetensors writes for its owner alone."""
    mode = (Path(folder) / "config.json").stat().st_mode
    for weights in Path(folder).glob("*.safetensors"):
        weights.chmod(mode)
