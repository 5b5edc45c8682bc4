"""Utterances made as they are asked for, and kept in the user's cache, a chapter at a time."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata, util
from itertools import islice
from pathlib import Path
from time import sleep

import numpy as np
import soundfile
import soxr

from secateur.errors import SecateurError, installed_by, reason
from secateur.files import cache_folder
from secateur.speech.audio import Waveform
from secateur.speech.augmentation import Augmentation
from secateur.speech.folders import folder_utterances
from secateur.speech.skips import Skipped
from secateur.speech.synthetic import espeak
from secateur.speech.synthetic.grammar import draw_sentence, transcript
from secateur.speech.synthetic.voices import draw_manner
from secateur.speech.utterance import Source, Utterance

NAME = "synthetic"
UTTERANCES = {"train": 10_000, "valid": 500, "test": 1_000}
"""The parts, and how many utterances they have when nobody says."""

SAMPLE_RATE = 16_000
CHAPTER = 100
"""Utterances that are made, and kept, together."""

CACHE_VARIABLE = "SECATEUR_CACHE"

_FORMS = "synthetic, synthetic:train, synthetic:valid or synthetic:test, each with a number of utterances, as in synthetic:train:2000"
# Heavier than in training: what is tested on should not be easier than what was trained on.
_DISTURBANCE = Augmentation(
    splice=0.0, speed=0.0, room=0.3, noise=0.5, gain_db=0.0, frequency_masks=0, time_masks=0
)
_SENTENCES = (1, 1, 1, 1, 1, 2, 2, 2, 3, 3)
_SILENCE_SECONDS = (0.1, 0.4)
_PEAK = (0.1, 0.9)
_THREADS = 2
_GLANCE_SECONDS = 0.05

MOST_PROCESSES = 8
"""That make chapters at once, however many cores there are: each takes a quarter of a gigabyte."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """An utterance of the synthetic corpus, to be spoken.

    Attributes:
        sentences: what is said, as the speaker is given it.
        text: its transcript.
        manner: who speaks and how.
        silence: before it and after it, in seconds.
        peak: of the waveform.
        noise_seed: of room and noise.
    """

    sentences: tuple[str, ...]
    text: str
    manner: espeak.Manner
    silence: tuple[float, float]
    peak: float
    noise_seed: int


def synthetic_source(data: str, *, seed: int = 0) -> Source:
    """The utterances that ``synthetic[:PART[:COUNT]]`` asks for, made when they are read first.

    Fewer utterances of a part are the first of more. Neither voices nor sentences of a part are in another.

    Args:
        data: for instance ``synthetic:train:2000``. The part is train by default, its size that of `UTTERANCES`.
        seed: of everything that is drawn.

    Raises:
        SecateurError: no such part or size, or espeakng-loader is not installed.
    """
    name, _, size = data.removeprefix(NAME).removeprefix(":").partition(":")
    part = name or "train"
    if part not in UTTERANCES or (size and not (size.isascii() and size.isdigit() and int(size) > 0)):
        raise SecateurError(f"{data} is no part of the synthetic corpus: give {_FORMS}")
    if util.find_spec("espeakng_loader") is None:
        raise SecateurError(
            f"{data} is spoken by espeak-ng, which is not installed: {installed_by('synthetic')}"
        )
    return partial(_utterances, part, int(size or UTTERANCES[part]), seed)


def draw(part: str, number: int, seed: int = 0) -> Spoken:
    """Utterance ``number`` of a part: what is said, by whom, in which surroundings."""
    rng = random.Random(f"{seed} {part} {number}")
    sentences: list[str] = []
    wanted = rng.choice(_SENTENCES)
    while len(sentences) < wanted:
        sentence = draw_sentence(rng)
        if part_of(sentence) == part:
            sentences.append(sentence)
    return Spoken(
        tuple(sentences),
        " ".join(map(transcript, sentences)),
        draw_manner(part, rng),
        (rng.uniform(*_SILENCE_SECONDS), rng.uniform(*_SILENCE_SECONDS)),
        rng.uniform(*_PEAK),
        rng.getrandbits(64),
    )


def part_of(sentence: str) -> str:
    """The one part of the corpus that may have a sentence, by its words: a tenth are for valid, another for test."""
    digest = hashlib.sha256(transcript(sentence).encode()).digest()
    return {0: "valid", 1: "test"}.get(digest[0] % 10, "train")


def waveform(spoken: Spoken, disturbance: Augmentation = _DISTURBANCE) -> Waveform:
    """Speak an utterance.

    Returns:
        float32 [samples], of 16 kHz.
    """
    voice = espeak.speak(" ".join(spoken.sentences), spoken.manner).astype(np.float32)
    before, after = (round(seconds * SAMPLE_RATE) for seconds in spoken.silence)
    said = soxr.resample(voice, espeak.RATE, SAMPLE_RATE)
    wave = np.zeros(before + len(said) + after, dtype=np.float32)
    wave[before : before + len(said)] = said
    wave = disturbance.disturb(wave, SAMPLE_RATE, np.random.default_rng(spoken.noise_seed))
    scaled: Waveform = wave * np.float32(spoken.peak / np.abs(wave).max())
    return scaled


def corpus_folder() -> Path:
    """Where the corpus is kept: under $SECATEUR_CACHE, or else in the user's cache."""
    own = os.environ.get(CACHE_VARIABLE)
    return Path(own) / NAME if own else cache_folder(NAME)


def _utterances(part: str, count: int, seed: int) -> Iterator[Utterance | Skipped]:
    folder = corpus_folder() / f"{_version()}-{seed}" / part
    chapters = [folder / f"{number:05}" for number in range(-(-count // CHAPTER))]
    for chapter in chapters:
        _clear_damaged(chapter)
    missing = [chapter for chapter in chapters if not chapter.is_dir()]
    with _helpers(missing, part, seed) as made_elsewhere:
        for chapter in chapters:
            made_elsewhere(chapter)
            _make_chapter(chapter, part, seed, CHAPTER)
            yield from islice(folder_utterances(chapter), count)
            count -= CHAPTER


@contextmanager
def _helpers(chapters: Sequence[Path], part: str, seed: int) -> Iterator[Callable[[Path], None]]:
    """Processes that make some of the chapters meanwhile, one for each further core; espeak-ng says one thing at a time.

    What is given waits for a chapter that one of them makes, or should have made.
    """
    many = min(_cores(), len(chapters), MOST_PROCESSES)
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", f"from {__name__} import _help; _help()", part, str(seed), str(CHAPTER)]
    helpers = [
        subprocess.Popen(  # noqa: S603 - this very file
            [*command, *map(str, share)],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for share in (chapters[first::many] for first in range(1, many))
    ]
    at_work = {chapter: helper for i, helper in enumerate(helpers) for chapter in chapters[i + 1 :: many]}

    def wait(chapter: Path) -> None:
        while chapter in at_work and at_work[chapter].poll() is None and not chapter.is_dir():
            sleep(_GLANCE_SECONDS)

    try:
        yield wait
    finally:
        for helper in helpers:
            helper.terminate()
        for helper in helpers:
            helper.wait()


def _help() -> None:
    """What a helper does: the chapters of its command line."""
    # So that it cleans up behind itself when it is not needed any more.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    part, seed, size, *chapters = sys.argv[1:]
    for chapter in chapters:
        _make_chapter(Path(chapter), part, int(seed), int(size))


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _clear_damaged(chapter: Path) -> None:
    """Delete a chapter of which something is missing, as when a cache was cleaned in part, or the power failed."""
    try:
        whole = [file for file in chapter.iterdir() if file.stat().st_size]
    except OSError:
        # There is none, or another process is deleting it.
        return
    if sum(file.suffix == ".flac" for file in whole) < CHAPTER or not any(
        file.suffix == ".txt" for file in whole
    ):
        shutil.rmtree(chapter, ignore_errors=True)


def _make_chapter(chapter: Path, part: str, seed: int, size: int) -> None:
    """Make the folder of a chapter, laid out as LibriSpeech's, if it is not there; whole or not at all."""
    if chapter.is_dir():
        return
    folder, number = chapter.parent, int(chapter.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{chapter.name}-", dir=folder) as made:

            def make(position: int) -> str:
                spoken, name = draw(part, position, seed), f"{part}-{position:07}"
                (Path(made) / f"{name}.flac").write_bytes(_flac(waveform(spoken)))
                return f"{name} {spoken.text}\n"

            # Resampling, rooms and encoding go on beside espeak-ng.
            with ThreadPoolExecutor(_THREADS) as pool:
                lines = list(pool.map(make, range(number * size, (number + 1) * size)))
            (Path(made) / f"{part}-{chapter.name}.trans.txt").write_text("".join(lines), encoding="utf-8")
            # A temporary folder is closed to others, who may share the cache.
            Path(made).chmod(stat.S_IMODE(folder.stat().st_mode))
            _place(Path(made), chapter)
    except OSError as error:
        raise SecateurError(
            f"synthetic speech cannot be kept in {folder} ({reason(error)}): make room there, or set {CACHE_VARIABLE} "
            "to a folder with room for it, 70 MB an hour"
        ) from error


def _place(made: Path, chapter: Path) -> None:
    try:
        made.rename(chapter)
    except OSError:
        # Another process made the same in the meantime.
        if not chapter.is_dir():
            raise
        return
    # The temporary folder's end wants something to delete.
    made.mkdir()


def _flac(wave: Waveform) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=0.0)
    return file.getvalue()


@cache
def _version() -> str:
    """Changes with everything that the corpus is made of, so that no cache is taken for what would be made now."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in (
        *sorted(here.glob("*.py")),
        *sorted(here.glob("words/*.txt")),
        here.parent / "augmentation.py",
    ):
        digest.update(path.read_bytes())
    for library in ("espeakng-loader", "numpy", "soxr"):
        digest.update(metadata.version(library).encode())
    return digest.hexdigest()[:12]
