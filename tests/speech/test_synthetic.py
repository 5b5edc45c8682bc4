from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile

from secateur.errors import SecateurError
from secateur.evaluation.error_rate import total, word_counts
from secateur.speech.audio import read_audio
from secateur.speech.augmentation import Augmentation
from secateur.speech.corpus import open_corpus
from secateur.speech.synthetic import corpus, espeak
from secateur.speech.synthetic.corpus import CHAPTER, UTTERANCES, draw, part_of, synthetic_source, waveform
from secateur.speech.synthetic.grammar import transcript
from secateur.speech.synthetic.voices import DRAWN_SHARE, VARIANTS, draw_timbre, voices


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and chapters that are quickly made."""
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(corpus, "CHAPTER", 4)
    monkeypatch.setattr(corpus, "_cores", lambda: 1)
    return tmp_path / "cache"


def digest(samples: np.ndarray) -> str:
    return hashlib.sha256(samples.tobytes()).hexdigest()


# Who says what


def test_no_voice_is_in_two_parts_and_there_are_many_of_each() -> None:
    for one, other in combinations(UTTERANCES, 2):
        assert not set(VARIANTS[one]) & set(VARIANTS[other])
        assert not set(voices(one)) & set(voices(other))
    assert len(voices("train")) >= 300
    assert all(len(voices(part)) >= 40 for part in UTTERANCES)


def test_most_utterances_are_said_by_a_voice_that_no_other_has() -> None:
    drawn = {part: [draw(part, n).manner.timbre for n in range(300)] for part in UTTERANCES}
    for timbres in drawn.values():
        assert abs(sum(map(bool, timbres)) / 300 - DRAWN_SHARE) < 0.1
    own = [timbre for timbres in drawn.values() for timbre in timbres if timbre]
    assert len(own) == len(set(own))


def test_a_drawn_voice_sounds_as_its_timbre_says() -> None:
    rng = random.Random(0)
    timbres = [draw_timbre(rng) for _ in range(20)]
    said = [digest(espeak.speak("good morning.", espeak.Manner("gmw/en", timbre=one))) for one in timbres]
    assert len(set(said)) == len(said)
    low, high = (
        espeak.speak("the captain walked along.", espeak.Manner("gmw/en", timbre=f"pitch {hz} {hz + 20}"))
        for hz in (80, 160)
    )
    assert pitch_of(high.astype(np.float64)) > 1.5 * pitch_of(low.astype(np.float64))


@pytest.mark.parametrize(
    "manner",
    [
        espeak.Manner("gmw/en+nosuch"),
        espeak.Manner("gmw/nowhere"),
        espeak.Manner("gmw/en+f1", timbre="pitch 80 100"),
        espeak.Manner("gmw/de", timbre="pitch 80 100"),
    ],
)
def test_a_voice_that_there_is_not_is_refused_rather_than_replaced(manner: espeak.Manner) -> None:
    with pytest.raises(SecateurError, match="espeak-ng has no voice"):
        espeak.speak("good morning.", manner)


def test_voices_that_cannot_be_added_to_say_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(espeak.tempfile, "tempdir", str(tmp_path / "nowhere"))
    espeak._copied.cache_clear()
    with pytest.raises(SecateurError, match="voices cannot be copied to .*nowhere .*set TMPDIR"):
        espeak.speak("good morning.", espeak.Manner("gmw/en", timbre="pitch 80 100"))


def test_every_voice_is_there_and_sounds_different_from_all_others() -> None:
    heard = {
        voice: digest(espeak.speak("good morning.", espeak.Manner(voice)))
        for part in UTTERANCES
        for voice in voices(part)
    }
    assert len(set(heard.values())) == len(heard)


def test_no_sentence_is_in_two_parts() -> None:
    said = {part: {s for n in range(500) for s in draw(part, n).sentences} for part in UTTERANCES}
    for part, sentences in said.items():
        assert {part_of(sentence) for sentence in sentences} == {part}
    words = {part: {transcript(sentence) for sentence in sentences} for part, sentences in said.items()}
    assert not any(words[one] & words[other] for one, other in combinations(UTTERANCES, 2))


def test_which_part_a_sentence_belongs_to_depends_on_its_words_alone() -> None:
    assert part_of("Well, is it over?") == part_of("well is it over")


def test_the_transcript_is_the_words_that_are_spoken() -> None:
    for number in range(300):
        spoken = draw("train", number)
        said = " ".join(spoken.sentences)
        for mark in ",.?":
            said = said.replace(mark, " ")
        assert spoken.text == " ".join(said.lower().split())


def test_an_utterance_is_drawn_by_its_number_whatever_was_drawn_before() -> None:
    alone = draw("valid", 7)
    assert [draw("valid", number) for number in random.Random(0).sample(range(20), 20)].count(alone) == 1
    assert draw("valid", 7) == alone != draw("valid", 7, seed=1)


def test_what_is_drawn_is_what_has_always_been_drawn() -> None:
    # Models were trained on it. Whoever changes words, grammar or voices changes this, too, and trains them again.
    drawn = repr([draw(part, number) for part in UTTERANCES for number in range(100)])
    assert hashlib.sha256(drawn.encode()).hexdigest()[:12] == "6685623603eb"


# How it sounds


def test_what_was_said_before_is_not_heard_in_what_is_said_now() -> None:
    lines = [draw(part, number) for part in UTTERANCES for number in range(4)]
    first = [digest(waveform(line)) for line in lines]
    assert [digest(waveform(line)) for line in reversed(lines)] == first[::-1]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda line: digest(waveform(line)), lines)) == first


def test_another_process_says_the_same_samples() -> None:
    program = (
        "import hashlib\n"
        "from secateur.speech.synthetic.corpus import draw, waveform\n"
        "waveform(draw('test', 9))\n"
        "for n in range(6): print(hashlib.sha256(waveform(draw('train', n)).tobytes()).hexdigest())\n"
    )
    ran = [
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in "12"
    ]
    assert ran[0] == ran[1]
    assert ran[0].split() == [digest(waveform(draw("train", number))) for number in range(6)]


def test_speech_is_not_clipped_and_begins_and_ends_in_silence() -> None:
    for number in range(40):
        spoken = draw("train", number)
        voice = espeak.speak(" ".join(spoken.sentences), spoken.manner)
        assert 1_000 < np.abs(voice.astype(int)).max() < 32_000
        wave = waveform(spoken, Augmentation.none())
        assert np.abs(wave).max() == pytest.approx(spoken.peak, rel=1e-3)
        before, after = (int(0.09 * 16_000) for _ in range(2))
        assert not wave[:before].any()
        assert not wave[-after:].any()


def test_faster_speakers_take_less_time_and_higher_ones_have_a_higher_pitch() -> None:
    text = "the captain walked along the harbour."
    slow, fast = (len(espeak.speak(text, espeak.Manner("gmw/en+m3", speed))) for speed in (130, 200))
    assert 1.2 < slow / fast < 2
    low, high = (
        espeak.speak(text, espeak.Manner("gmw/en+m3", pitch=pitch)).astype(np.float64) for pitch in (10, 90)
    )
    assert pitch_of(high) > 1.2 * pitch_of(low)


def pitch_of(voice: np.ndarray) -> float:
    """The lag between 60 and 400 Hz at which the loudest half second is most like itself."""
    loud = int(np.argmax(np.convolve(voice**2, np.ones(11025), "valid")))
    voice = voice[loud : loud + 11025]
    lags = np.arange(55, 367)
    return float(espeak.RATE / lags[np.argmax([np.dot(voice[lag:], voice[:-lag]) for lag in lags])])


def test_a_recogniser_trained_on_people_understands_it(shared: Path) -> None:
    from secateur import load

    recognizer = load(shared / "models" / "conformer-ctc-small.nemo")
    lines = [draw("train", number) for number in range(24)]
    waves = [waveform(line, Augmentation.none()) for line in lines]
    heard = [result.text.lower() for result in recognizer.transcribe_batch(waves)]
    rate = total(word_counts([line.text for line in lines], heard)).rate
    assert rate < 0.6, list(zip([line.text for line in lines], heard, strict=True))


# The corpus


def test_it_is_a_corpus_of_audio_files_with_their_transcripts(cache: Path) -> None:
    utterances = list(open_corpus("synthetic:valid:6"))
    assert [each.id for each in utterances] == [f"valid-{number:07}" for number in range(6)]
    assert [each.text for each in utterances] == [draw("valid", number).text for number in range(6)]
    assert all(cache in each.path.parents for each in utterances)
    for number, each in enumerate(utterances):
        assert soundfile.info(each.path).samplerate == 16_000
        np.testing.assert_allclose(
            read_audio(each.path, 16_000), waveform(draw("valid", number)), atol=2 / 32768
        )
    assert len(list(open_corpus("synthetic:valid", limit=5))) == 5


def test_without_a_part_it_is_train_and_without_a_number_of_the_part_s_own_size() -> None:
    for data, part, count in (
        ("synthetic", "train", UTTERANCES["train"]),
        ("synthetic:test", "test", UTTERANCES["test"]),
        ("synthetic:valid:7", "valid", 7),
    ):
        source = synthetic_source(data)
        assert source.args[:2] == (part, count)  # type: ignore[attr-defined]


def test_it_is_made_once_and_as_far_as_it_is_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(corpus, "waveform", lambda spoken: made.append(spoken) or waveform(spoken))
    utterances = iter(open_corpus("synthetic:train:10"))
    assert not made
    next(utterances)
    assert len(made) == corpus.CHAPTER
    assert [each.id for each in open_corpus("synthetic:train:10")] == [f"train-{n:07}" for n in range(10)]
    assert len(made) == 12
    list(open_corpus("synthetic:train:12"))
    assert len(made) == 12


def test_several_cores_make_the_same_and_leave_nothing_else(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [(each.id, each.text, each.path.read_bytes()) for each in open_corpus("synthetic:train:14")]
    monkeypatch.setenv("SECATEUR_CACHE", str(cache / "other"))
    monkeypatch.setattr(corpus, "_cores", lambda: 3)
    made = []
    monkeypatch.setattr(corpus, "waveform", lambda spoken: made.append(spoken) or waveform(spoken))
    together = [(each.id, each.text, each.path.read_bytes()) for each in open_corpus("synthetic:train:14")]
    assert together == alone
    assert len(made) == 8  # Chapters 0 and 3; the others were made elsewhere.
    next(iter(open_corpus("synthetic:valid:12")))
    assert not list(cache.rglob(".*"))


def test_others_may_read_what_they_may_find(cache: Path) -> None:
    chapter = next(iter(open_corpus("synthetic:train:4"))).path.parent
    assert chapter.stat().st_mode == chapter.parent.stat().st_mode


def test_a_chapter_that_a_helper_fails_to_make_is_made_here(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "_cores", lambda: 2)
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    assert len(list(open_corpus("synthetic:train:8"))) == 8


def test_what_a_killed_process_left_is_made_anew_and_never_read(cache: Path) -> None:
    program = (
        "import os\n"
        "from secateur.speech.corpus import open_corpus\n"
        "from secateur.speech.synthetic import corpus\n"
        "made = corpus.waveform\n"
        "def dies(spoken):\n"
        "    if spoken == corpus.draw('train', 2): os.kill(os.getpid(), 9)\n"
        "    return made(spoken)\n"
        "corpus.CHAPTER, corpus.waveform = 4, dies\n"
        "list(open_corpus('synthetic:train:4'))\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    left = [path for path in cache.rglob("*") if path.is_file()]
    utterances = list(open_corpus("synthetic:train:4"))
    assert len(utterances) == 4
    assert not {each.path for each in utterances} & set(left)


@pytest.mark.parametrize("damage", ["gone", "empty", "no text"])
def test_a_chapter_that_is_damaged_is_made_anew(cache: Path, damage: str) -> None:
    made = [(each.id, each.text) for each in open_corpus("synthetic:train:8")]
    chapter = next(iter(open_corpus("synthetic:train:8"))).path.parent
    file = next(chapter.glob("*.txt" if damage == "no text" else "*.flac"))
    file.unlink()
    if damage == "empty":
        file.touch()
    assert [(each.id, each.text) for each in open_corpus("synthetic:train:8")] == made
    assert len(list(chapter.glob("*.flac"))) == corpus.CHAPTER


def test_two_processes_that_make_the_same_chapter_end_with_one(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_is_faster(spoken: corpus.Spoken) -> np.ndarray:
        monkeypatch.setattr(corpus, "waveform", waveform)
        assert len(list(open_corpus("synthetic:train:4"))) == 4
        return waveform(spoken)

    monkeypatch.setattr(corpus, "_THREADS", 1)
    monkeypatch.setattr(corpus, "waveform", other_is_faster)
    assert len(list(open_corpus("synthetic:train:4"))) == 4
    (chapter,) = (path.parent for path in cache.rglob("*.trans.txt"))
    assert list(chapter.parent.iterdir()) == [chapter]


def test_a_cache_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "file"))
    with pytest.raises(SecateurError, match="synthetic speech cannot be kept in .*set SECATEUR_CACHE"):
        list(open_corpus("synthetic:test:1"))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(cache: Path) -> None:
    # A limit on the size of files fails in the middle of writing, as a full disk does.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
    try:
        with pytest.raises(SecateurError, match="synthetic speech cannot be kept in .*make room") as raised:
            list(open_corpus("synthetic:test:1"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(raised.value)
    assert not [path for path in cache.rglob("*") if path.is_file()]
    assert len(list(open_corpus("synthetic:test:1"))) == 1


def test_the_cache_is_where_the_user_s_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECATEUR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert corpus.corpus_folder() == tmp_path / "secateur" / "synthetic"


@pytest.mark.parametrize(
    "data", ["synthetic:dev", "synthetic:train:0", "synthetic:train:-3", "synthetic:train:2h", "synthetic:10", "synthetic:a:1:2"]
)  # fmt: skip
def test_what_is_no_part_of_it_is_refused_with_what_to_give(data: str) -> None:
    with pytest.raises(
        SecateurError, match="is no part of the synthetic corpus: give synthetic, .*:train:2000"
    ):
        open_corpus(data)


def test_a_folder_of_that_name_is_opened_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "synthetic").mkdir()
    soundfile.write(tmp_path / "synthetic" / "a.wav", np.zeros(1600), 16_000)
    assert [each.id for each in open_corpus("./synthetic")] == ["a"]
    assert [each.id for each in open_corpus(Path("synthetic"))] == ["a"]


def test_without_espeak_s_wheel_the_error_names_the_extra_and_other_corpora_open(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16_000)
    program = (
        "import sys; sys.modules['espeakng_loader'] = None\n"
        "from secateur.errors import SecateurError\n"
        "from secateur.speech.corpus import open_corpus\n"
        f"print(len(list(open_corpus({str(tmp_path)!r}))))\n"
        "try: open_corpus('synthetic')\n"
        "except SecateurError as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("1\n")
    assert "pip install '.[synthetic]'" in ran.stdout


def test_parts_are_whole_chapters() -> None:
    assert all(size % CHAPTER == 0 for size in UTTERANCES.values())


def test_its_benchmark_counts_what_it_made(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2])
    benchmark = importlib.import_module("benchmarks.synthetic")
    benchmark.main(["--limit", "6", "--results", str(tmp_path)])
    figures = json.loads((tmp_path / "synthetic.json").read_text())["figures"]
    assert figures["utterances"] == 6
    assert figures["times_real_time"] > 1
    assert not cache.exists()
