from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from secateur.errors import SecateurError
from secateur.speech.audio import audio_seconds
from secateur.speech.corpus import Corpus, Utterance, open_corpus
from secateur.speech.skips import SkipLog, Skipped


def sound(path: Path, seconds: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(seconds * 16000), np.float32), 16000)
    return path


def manifest(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def reasons(corpus: Corpus) -> list[str]:
    return [str(entry) for entry in corpus.entries() if isinstance(entry, Skipped)]


# LibriSpeech


def test_a_librispeech_folder_is_read_chapter_by_chapter(tmp_path: Path) -> None:
    for chapter in ("9/20", "10/30"):
        name = chapter.replace("/", "-")
        for number in (0, 1):
            sound(tmp_path / chapter / f"{name}-000{number}.flac")
        lines = f"{name}-0001 SECOND  ONE\n\n{name}-0000 FIRST ONE\n"
        (tmp_path / chapter / f"{name}.trans.txt").write_text(lines)
    assert list(open_corpus(tmp_path)) == [
        Utterance("10-30-0001", tmp_path / "10/30/10-30-0001.flac", "SECOND ONE"),
        Utterance("10-30-0000", tmp_path / "10/30/10-30-0000.flac", "FIRST ONE"),
        Utterance("9-20-0001", tmp_path / "9/20/9-20-0001.flac", "SECOND ONE"),
        Utterance("9-20-0000", tmp_path / "9/20/9-20-0000.flac", "FIRST ONE"),
    ]
    assert [each.id for each in open_corpus(tmp_path / "9" / "20")] == ["9-20-0001", "9-20-0000"]


@pytest.mark.parametrize("suffix", ["flac", "wav", "opus", "WAV", "audio"])
def test_librispeech_audio_may_have_any_extension(tmp_path: Path, suffix: str) -> None:
    sound(tmp_path / "a-0.wav").rename(tmp_path / f"a-0.{suffix}")
    (tmp_path / "a.trans.txt").write_text("a-0 HELLO\n")
    assert [(each.path.name, each.text) for each in open_corpus(tmp_path)] == [(f"a-0.{suffix}", "HELLO")]


def test_a_transcript_without_audio_is_skipped_by_name_and_audio_without_a_transcript_has_no_text(
    tmp_path: Path,
) -> None:
    sound(tmp_path / "a-0.flac")
    sound(tmp_path / "a-1.flac")
    (tmp_path / "a.trans.txt").write_text("a-0 HELLO\na-2 NOBODY\n")
    skips = SkipLog()
    assert [(each.id, each.text) for each in open_corpus(tmp_path).utterances(skips)] == [
        ("a-0", "HELLO"),
        ("a-1", None),
    ]
    assert "a-2: is transcribed in" in skips.summary()


def test_a_transcript_that_says_nothing_is_empty_and_not_missing(tmp_path: Path) -> None:
    sound(tmp_path / "a-0.flac")
    (tmp_path / "a.trans.txt").write_text("a-0\n")
    assert [each.text for each in open_corpus(tmp_path)] == [""]


def test_transcripts_that_are_not_text_are_skipped(tmp_path: Path) -> None:
    sound(tmp_path / "a-0.flac")
    (tmp_path / "a.trans.txt").write_bytes(b"a-0 \xff\xfe\n")
    (reason,) = reasons(open_corpus(tmp_path))
    assert "cannot be read as UTF-8 text" in reason
    (utterance,) = (each for each in open_corpus(tmp_path).entries() if isinstance(each, Utterance))
    assert utterance.text is None
    assert "a.trans.txt cannot be read as UTF-8 text" in str(utterance.flaw)


# A folder of audio


@pytest.mark.parametrize("listed", [True, False])
def test_of_a_recording_in_two_formats_one_is_taken(tmp_path: Path, listed: bool) -> None:
    sound(tmp_path / "a-0.wav")
    sound(tmp_path / "a-0.flac")
    if listed:
        (tmp_path / "a.trans.txt").write_text("a-0 HELLO\n")
    else:
        (tmp_path / "a-0.txt").write_text("HELLO\n")
    entries = list(open_corpus(tmp_path).entries())
    assert entries == [Utterance("a-0", tmp_path / "a-0.flac", "HELLO")]


def test_a_folder_of_audio_is_read_at_any_depth_in_sorted_order_with_the_texts_beside(tmp_path: Path) -> None:
    for name in ("b.wav", "a.wav", "deep/er/c.flac", "a2/d.WAV", ".hidden.wav", ".cache/e.wav"):
        sound(tmp_path / name)
    (tmp_path / "b.txt").write_text("\ufeffwhat was\n said\n", encoding="utf-8")
    (tmp_path / "readme.md").write_text("nothing to hear")
    assert [(each.id, each.text) for each in open_corpus(tmp_path)] == [
        ("a", None),
        ("b", "what was said"),
        ("a2/d", None),
        ("deep/er/c", None),
    ]


@pytest.mark.parametrize("data", [".", "a.wav"])
def test_audio_beside_a_text_that_is_none_is_there_to_be_heard(tmp_path: Path, data: str) -> None:
    sound(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    (utterance,) = open_corpus(tmp_path / data)
    assert utterance.text is None
    assert "a.txt cannot be read as UTF-8 text" in str(utterance.flaw)


def test_a_transcript_may_have_its_ending_in_capitals_as_its_audio_has(tmp_path: Path) -> None:
    sound(tmp_path / "A.wav").rename(tmp_path / "A.WAV")
    (tmp_path / "A.TXT").write_text("hello")
    assert [each.text for each in open_corpus(tmp_path)] == ["hello"]


def test_audio_in_a_format_that_cannot_be_read_is_skipped_by_name_unless_it_is_there_in_another(
    tmp_path: Path,
) -> None:
    sound(tmp_path / "a.wav")
    for name in ("a.mp4", "b.m4a"):
        (tmp_path / name).write_bytes(b"not for soundfile")
    skips = SkipLog()
    assert [each.id for each in open_corpus(tmp_path).utterances(skips)] == ["a"]
    assert skips.first == [
        Skipped(str(tmp_path / "b.m4a"), "is in a format that cannot be read: convert it to FLAC or WAV")
    ]
    with pytest.raises(SecateurError, match=r"b\.m4a is in a format that cannot be read: convert it"):
        open_corpus(tmp_path / "b.m4a")


def test_a_folder_that_cannot_be_listed_is_skipped_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/a.wav", "b/b.wav", "c/c.wav"):
        sound(tmp_path / name)
    listed = os.scandir

    def closed(folder: str) -> Iterator[os.DirEntry[str]]:
        if Path(folder).name in ("b", "c"):
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", closed)
    skips = SkipLog()
    assert [each.id for each in open_corpus(tmp_path).utterances(skips)] == ["a/a"]
    assert [each.name for each in skips.first] == [str(tmp_path / name) for name in "bc"]
    assert "cannot be listed (Permission denied)" in skips.summary()


def test_links_to_folders_are_followed_into_each_folder_once(tmp_path: Path) -> None:
    sound(tmp_path / "elsewhere" / "deep" / "a.wav")
    speech = tmp_path / "speech"
    sound(speech / "b.wav")
    (speech / "one").symlink_to(tmp_path / "elsewhere")
    (speech / "two").symlink_to(tmp_path / "elsewhere" / "deep")
    (tmp_path / "elsewhere" / "back").symlink_to(speech)
    assert [each.id for each in open_corpus(speech)] == ["b", "two/a"]
    (tmp_path / "elsewhere" / "latest").symlink_to(tmp_path / "elsewhere" / "deep")
    (tmp_path / "elsewhere" / "also").symlink_to(tmp_path / "elsewhere" / "deep")
    assert [each.id for each in open_corpus(tmp_path / "elsewhere")] == ["back/b", "deep/a"]


def test_a_name_that_is_no_text_is_that_of_a_file_all_the_same(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    try:
        sound(tmp_path / "a.wav").rename(tmp_path / name)
    except OSError:
        pytest.skip("this system has names that are text only")
    assert audio_seconds(tmp_path / name) == pytest.approx(0.1)


def test_a_list_that_is_longer_than_a_name_may_be_is_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(tmp_path / "a.wav")
    monkeypatch.chdir(tmp_path)
    assert len(list(open_corpus(",".join(["a.wav"] * 100)))) == 100


def test_a_name_in_the_home_folder_may_begin_with_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(tmp_path / "a.wav")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert [each.path for each in open_corpus("~/a.wav")] == [tmp_path / "a.wav"]


def test_one_audio_file_is_a_corpus(tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav")
    assert list(open_corpus(path)) == [Utterance("a", path)]
    (tmp_path / "a.txt").write_text("hello")
    assert list(open_corpus(str(path))) == [Utterance("a", path, "hello")]


def test_an_audio_file_is_recognised_by_its_content_whatever_its_name(tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav").rename(tmp_path / "recording")
    assert [each.path for each in open_corpus(path)] == [path]


# NeMo manifests


def test_a_manifest_resolves_paths_against_its_folder_and_reads_offset_and_duration(tmp_path: Path) -> None:
    path = manifest(
        tmp_path / "m.json",
        {"audio_filepath": "audio/a.wav", "text": "hello", "duration": 1.5, "speaker": 7},
        {"audio_filepath": "/else/where/b.wav", "offset": 2, "duration": None},
        "",
        {"audio_filepath": "audio/a.wav", "text": "", "offset": 1.25, "duration": 0.5},
    )
    assert list(open_corpus(path)) == [
        Utterance("audio/a", tmp_path / "audio/a.wav", "hello", 0.0, 1.5),
        Utterance("/else/where/b@2.0", Path("/else/where/b.wav"), None, 2.0, None),
        Utterance("audio/a@1.25", tmp_path / "audio/a.wav", "", 1.25, 0.5),
    ]


BROKEN = [
    ("{not json", "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ('["a.wav"]', "is not a JSON object"),
    ({"text": "no path"}, "has no audio_filepath"),
    ({"audio_filepath": ""}, "has no audio_filepath"),
    ({"audio_filepath": 3}, "has no audio_filepath"),
    ({"audio_filepath": "a.wav", "text": 3}, "has 3 for its text, which is no string"),
    ({"audio_filepath": "a.wav", "offset": "1"}, "has '1' for its offset, which is no number of seconds"),
    ({"audio_filepath": "a.wav", "offset": -1}, "has -1 for its offset, which is no number of seconds"),
    ({"audio_filepath": "a.wav", "offset": True}, "has True for its offset, which is no number of seconds"),
    ({"audio_filepath": "a.wav", "duration": float("nan")}, "has nan for its duration"),
    ({"audio_filepath": "a.wav", "duration": 10**400}, "has 1000"),
    ({"audio_filepath": "a.wav", "duration": 0}, "has a duration of 0"),
]


@pytest.mark.parametrize(("line", "reason"), BROKEN)
@pytest.mark.parametrize("broken_first", [False, True])
def test_a_broken_manifest_line_is_named_counted_and_skipped(
    tmp_path: Path, line: object, reason: str, broken_first: bool
) -> None:
    good = {"audio_filepath": "a.wav"}
    path = manifest(tmp_path / "m.jsonl", *([line, good] if broken_first else [good, line]))
    skips = SkipLog()
    assert [each.id for each in open_corpus(path).utterances(skips)] == ["a"]
    assert (skips.read, skips.skipped) == (1, 1)
    assert skips.first[0].name == f"m.jsonl:{1 if broken_first else 2}"
    assert skips.first[0].reason.startswith(reason)


def test_a_manifest_names_files_in_its_folder_from_where_one_is_or_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sets/both.wav", "both.wav", "here.wav", "home/own.wav"):
        sound(tmp_path / name)
    lines = [{"audio_filepath": name} for name in ("both.wav", "here.wav", "~/own.wav", "nowhere.wav")]
    data = manifest(tmp_path / "sets" / "a.jsonl", *lines)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    places = [each.path.absolute().relative_to(tmp_path).as_posix() for each in open_corpus(data)]
    assert places == ["sets/both.wav", "here.wav", "home/own.wav", "sets/nowhere.wav"]


def test_a_manifest_line_that_is_not_utf8_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"audio_filepath": "a.wav"}\n{"audio_filepath": "\xff.wav"}\n')
    assert reasons(open_corpus(path)) == ["m.jsonl:2: is not JSON"]


def test_too_many_broken_lines_are_an_error(tmp_path: Path) -> None:
    path = manifest(tmp_path / "m.jsonl", {"audio_filepath": "a.wav"}, *["{"] * 20)
    with pytest.raises(
        SecateurError, match=r"too much of the data .*skipped 11 of 12: m.jsonl:2: is not JSON"
    ):
        list(open_corpus(path))


def test_a_manifest_may_be_gzipped_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl.gz"
    lines = b"".join(b'{"audio_filepath": "%d.wav"}\n' % number for number in range(3_000))
    path.write_bytes(gzip.compress(lines))
    assert sum(1 for _ in open_corpus(path)) == 3_000
    path.write_bytes(path.read_bytes()[:-2_000])
    with pytest.raises(SecateurError, match=r"m\.jsonl\.gz cannot be read"):
        list(open_corpus(path))


def test_the_tail_of_a_manifest_is_not_read_before_it_is_reached(tmp_path: Path) -> None:
    # The file is all holes after its first lines: 64 GB that nobody could read in time, and whose one
    # endless line no memory could hold.
    path = tmp_path / "m.jsonl"
    head = b"".join(b'{"audio_filepath": "%d.wav", "text": "x"}\n' % number for number in range(1000))
    with path.open("wb") as file:
        file.write(head)
        file.truncate(64 << 30)
    start = time.perf_counter()
    utterances = iter(open_corpus(path))
    first = [next(utterances).id for _ in range(3)]
    assert first == ["0", "1", "2"]
    assert len(list(open_corpus(path, limit=1000))) == 1000
    assert time.perf_counter() - start < 1.0


# Any corpus


def test_a_corpus_can_be_read_again_and_again(tmp_path: Path) -> None:
    path = manifest(tmp_path / "m.jsonl", *({"audio_filepath": f"{number}.wav"} for number in range(5)))
    corpus = open_corpus(path)
    assert [each.id for each in corpus] == [each.id for each in corpus] == list("01234")


def test_a_limit_takes_the_first_utterances_and_counts_no_broken_lines(tmp_path: Path) -> None:
    path = manifest(
        tmp_path / "m.jsonl", {"audio_filepath": "a"}, "{", *({"audio_filepath": c} for c in "bcd")
    )
    assert [each.id for each in open_corpus(path, limit=2)] == ["a", "b"]
    with pytest.raises(SecateurError, match="a limit of 0"):
        open_corpus(path, limit=0)


def test_a_repeated_id_is_numbered(tmp_path: Path) -> None:
    names = ["a.wav", "a.flac", "a.wav", "a#2.wav", "b.wav"]
    path = manifest(tmp_path / "m.jsonl", *({"audio_filepath": name} for name in names))
    ids = [each.id for each in open_corpus(path)]
    assert ids == ["a", "a#2", "a#3", "a#2#2", "b"]
    assert ids == [each.id for each in open_corpus(path)]


def test_several_kinds_of_data_are_one_corpus_in_their_order(tmp_path: Path) -> None:
    for name in ("one/b.wav", "one/a.wav", "two/a.wav", "with, comma/c.wav"):
        sound(tmp_path / name)
    lines = manifest(tmp_path / "some.jsonl", {"audio_filepath": "one/b.wav", "text": "x"})
    both = open_corpus(f"{tmp_path / 'one'}, {tmp_path / 'two'},{lines}")
    assert [(each.id, each.text) for each in both] == [
        ("a", None), ("b", None), ("a#2", None), ("one/b", "x")
    ]  # fmt: skip
    assert len(list(both)) == 4
    assert len(list(open_corpus(f"{tmp_path / 'one'},{lines}", limit=1))) == 1
    assert [each.id for each in open_corpus(str(tmp_path / "with, comma"))] == ["c"]
    with pytest.raises(
        SecateurError,
        match="nothing there does not exist, or is closed to this user: give a LibriSpeech folder",
    ):
        open_corpus(f"{tmp_path / 'one'},nothing there")


@pytest.mark.parametrize("form", ["{},", ",{}", "{},,{}"])
def test_a_comma_with_nothing_beside_it_is_refused(tmp_path: Path, form: str) -> None:
    """As a path, nothing would be the working directory."""
    sound(tmp_path / "a.wav")
    with pytest.raises(SecateurError, match="has nothing between two commas, or at an end"):
        open_corpus(form.format(tmp_path, tmp_path))


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_refused(name: str) -> None:
    with pytest.raises(SecateurError, match="the name of the speech is empty"):
        open_corpus(name)


def test_any_function_that_yields_utterances_is_a_source(tmp_path: Path) -> None:
    def dataset() -> Iterator[Utterance | Skipped]:
        yield Utterance("a", tmp_path / "a.wav", "hello")
        yield Skipped("row 2", "has no audio")

    skips = SkipLog()
    assert [each.text for each in Corpus(dataset).utterances(skips)] == ["hello"]
    assert skips.summary() == "skipped 1 of 2: row 2: has no audio"


def test_what_is_no_corpus_is_refused_in_one_sentence_that_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("hello")
    (tmp_path / "model.bin").write_bytes(bytes(range(256)))
    manifest(tmp_path / "empty.jsonl")
    manifest(tmp_path / "other.jsonl", {"path": "a.wav"})
    manifest(tmp_path / "array.json", '[{"audio_filepath": "a.wav"}]')
    for name, message in {
        "nothing": "does not exist, or is closed to this user: give a LibriSpeech folder",
        "empty": "holds no audio file at any depth",
        "texts": "holds no audio file at any depth",
        "model.bin": "is none of what was looked for: give a LibriSpeech folder",
        "empty.jsonl": "it has no lines",
        "other.jsonl": "line 1 has keys path",
        "array.json": "line 1 is not a JSON object",
    }.items():
        with pytest.raises(SecateurError, match=message) as raised:
            open_corpus(tmp_path / name)
        assert name in str(raised.value)
        assert "\n" not in str(raised.value)


# Lhotse cut sets


def cut(path: str, **changes: object) -> dict[str, object]:
    recording = {
        "id": "r",
        "sources": [{"type": "file", "channels": [0], "source": path}],
        "sampling_rate": 16000,
        "num_samples": 32000,
        "duration": 2.0,
        "channel_ids": [0],
    }
    words = [
        {"id": "2", "recording_id": "r", "start": 0.5, "duration": 0.5, "channel": 0, "text": "world"},
        {"id": "1", "recording_id": "r", "start": 0, "duration": 0.5, "channel": 0, "text": "hello"},
    ]
    return {
        "id": "c1",
        "start": 0.5,
        "duration": 1.0,
        "channel": 0,
        "supervisions": words,
        "recording": recording,
        "type": "MonoCut",
    } | changes


def test_a_cut_set_written_by_lhotse_is_read(tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    path = sound(tmp_path / "a.wav", 2.0)
    recording = lhotse.Recording.from_file(path)
    said = lhotse.SupervisionSegment("s", recording.id, 0, 1.0, text="hello")
    cuts = [
        lhotse.MonoCut("c1", 0.5, 1.0, 0, supervisions=[said], recording=recording),
        lhotse.MonoCut("c2", 0, 2.0, 0, recording=recording),
    ]
    for name in ("cuts.jsonl", "cuts.jsonl.gz"):
        lhotse.CutSet.from_cuts(cuts).to_file(tmp_path / name)
        assert list(open_corpus(tmp_path / name)) == [
            Utterance("c1", path, "hello", 0.5, 1.0),
            Utterance("c2", path, None, 0.0, 2.0),
        ]


def test_a_cut_that_holds_a_part_of_a_supervision_has_no_transcript(tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    recording = lhotse.Recording.from_file(sound(tmp_path / "a.wav", 4.0))
    said = [
        lhotse.SupervisionSegment("1", recording.id, 0, 1.95, text="hello"),
        lhotse.SupervisionSegment("2", recording.id, 2.5, 1.0, text="world"),
    ]
    whole = lhotse.MonoCut("c", 0, 4.0, 0, supervisions=said, recording=recording)
    lhotse.CutSet.from_cuts([whole]).cut_into_windows(2.0, hop=1.0).to_file(tmp_path / "cuts.jsonl")
    texts = {each.offset: (each.text, each.flaw is None) for each in open_corpus(tmp_path / "cuts.jsonl")}
    assert texts[0.0] == ("hello", True)
    assert texts[1.0] == (None, False)
    assert texts[2.0] == ("world", True)
    skips = SkipLog()
    scorable = Corpus(open_corpus(tmp_path / "cuts.jsonl").scorable)
    assert [each.text for each in scorable.utterances(skips)] == ["hello", "world"]
    assert "has a supervision that goes beyond it" in skips.summary()


def test_a_cut_has_its_supervisions_texts_in_order_and_a_path_beside_the_cut_set(tmp_path: Path) -> None:
    pytest.importorskip("lhotse")
    sound(tmp_path / "a.wav", 2.0)
    path = manifest(tmp_path / "cuts.jsonl", cut("a.wav"))
    assert list(open_corpus(path)) == [Utterance("c1", tmp_path / "a.wav", "hello world", 0.5, 1.0)]


def test_cuts_that_are_not_one_file_as_it_is_are_skipped_by_name(tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    plain = lhotse.serialization.deserialize_item(cut("a.wav"))
    two = dict(cut("a.wav")["recording"], channel_ids=[0, 1])  # type: ignore[call-overload]
    two["sources"] = [{"type": "file", "channels": [0, 1], "source": "a.wav"}]
    piped = dict(cut("a.wav")["recording"])  # type: ignore[call-overload]
    piped["sources"] = [{"type": "command", "channels": [0], "source": "cat a.wav"}]
    path = manifest(
        tmp_path / "cuts.jsonl",
        plain.pad(3.0).with_id("padded").to_dict(),
        plain.perturb_speed(1.1).to_dict(),
        cut("a.wav", recording=two),
        cut("a.wav", recording=piped),
        {key: value for key, value in cut("a.wav").items() if key != "recording"},
        cut("a.wav", duration="long"),
        "{",
    )
    assert [reason.split(": ", 1)[1] for reason in reasons(open_corpus(path))] == [
        "cut padded is a MixedCut: only MonoCut is supported",
        "cut c1_sp1.1 changes its recording by [Speed(factor=1.1)]: save the audio changed",
        "cut c1 takes one of 2 channels: split the recording",
        "cut c1 has a recording of ['command']: only one source of type file is supported",
        "cut c1 has no recording, only features",
        "cut c1 makes no sense (could not convert string to float: 'long')",
        "is not JSON",
    ]


def test_a_cut_set_without_lhotse_is_an_error_that_names_the_extra(tmp_path: Path) -> None:
    path = manifest(tmp_path / "cuts.jsonl", cut("a.wav"))
    program = (
        "import sys; sys.modules['lhotse'] = None\n"
        "from secateur.errors import SecateurError\n"
        "from secateur.speech.corpus import open_corpus\n"
        f"try: open_corpus({str(path)!r})\n"
        "except SecateurError as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install '.[lhotse]'" in ran.stdout


def test_lhotse_is_not_imported_until_a_cut_set_is_opened() -> None:
    program = "import sys, secateur.speech.corpus, secateur.speech.batching; print('lhotse' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


# Real corpora


def test_real_librispeech_has_its_utterances_and_hours(shared: Path) -> None:
    utterances = list(open_corpus(shared / "data/librispeech/valid"))
    assert len(utterances) == 462
    assert sum(audio_seconds(each.path) for each in utterances) / 3600 == pytest.approx(1.08, rel=0.01)
    assert all(each.text for each in utterances)
    assert len({each.id for each in utterances}) == 462


def test_a_real_manifest_and_a_real_folder_without_transcripts_are_read(shared: Path) -> None:
    utterances = list(open_corpus(shared / "data/an4/train.jsonl"))
    assert len(utterances) == 948
    for each in utterances[:50]:
        assert each.text
        assert each.duration == pytest.approx(audio_seconds(each.path), abs=0.1)
    assert [each.text for each in open_corpus(shared / "data/unlabelled", limit=20)] == [None] * 20
