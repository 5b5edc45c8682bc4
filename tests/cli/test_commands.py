from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import soundfile
import torch
from click.testing import Result
from rich.text import Text

import secateur.recognizer
import secateur.transcription
from secateur.cli import main
from secateur.cli.output import finish
from secateur.errors import SecateurError

Run = Callable[..., Result]
Refused = Callable[..., str]


def test_inspect_shows_the_kinds_of_parts(run: Run, model: Path) -> None:
    result = run("inspect", model, "--seconds", 1)
    assert result.exit_code == 0
    for expected in ("ConformerForCTC", "front-end", "whole model", "layers.0-1", "It can be pruned."):
        assert expected in result.stdout


def test_inspect_writes_the_figures_and_shows_them_too(run: Run, model: Path, tmp_path: Path) -> None:
    result = run("inspect", model, "--seconds", 1, "--no-measure", "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {"params", "macs_per_second", "parts"} <= figures.keys()
    assert figures["prunable"]
    assert "whole model" in result.stdout


def test_evaluate_writes_the_figures_that_were_promised(run: Run, model: Path, speech: Path) -> None:
    result = run("evaluate", model, "--data", speech, "--json", "-")
    figures = json.loads(result.stdout)
    promised = {"wer", "cer", "utterances", "audio_seconds", "rtf", "params", "macs_per_second"}
    assert promised <= figures.keys()
    assert figures["utterances"] == 3
    assert figures["audio_seconds"] == pytest.approx(6)


def test_evaluate_takes_the_first_utterances_and_writes_each(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    result = run("evaluate", model, "--data", speech, "--limit", 2, "--utterances", rows, "--worst", 1)
    assert [json.loads(line)["id"] for line in rows.read_text().splitlines()] == ["1", "2"]
    assert result.stdout.count("  heard") == 1


def test_evaluate_compares_two_models_on_the_same_utterances(run: Run, model: Path, speech: Path) -> None:
    against = ("--against", model)
    shown = run("evaluate", model, "--data", speech, *against)
    assert f"{model} and {model} have the same WER." in shown.stdout
    figures = json.loads(run("evaluate", model, "--data", speech, *against, "--json", "-").stdout)
    assert figures["comparison"]["difference"] == 0
    assert figures["against"]["wer"] == figures["wer"]
    # A process has one most memory, whichever model it was for.
    assert shown.stdout.count("peak memory") == (figures["peak_memory_mb"] is not None)
    assert figures["against"]["peak_memory_mb"] is None


def test_transcribe_keeps_the_order_of_its_arguments(run: Run, model: Path, speech: Path) -> None:
    result = run("transcribe", model, speech / "3.wav", speech / "1.wav", "--json", "-")
    rows = json.loads(result.stdout)
    assert [row["seconds"] for row in rows] == [3, 1]
    columns = {"id", "path", "offset", "text", "seconds", "confidence", "words"}
    assert all(row.keys() == columns for row in rows)
    assert rows[0]["path"] == str(speech / "3.wav")


def test_transcribe_tells_the_cuts_of_one_recording_apart(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    cuts = [{"audio_filepath": str(speech / "3.wav"), "offset": at, "duration": 1} for at in (0, 1.5)]
    (tmp_path / "cuts.jsonl").write_text("".join(json.dumps(cut) + "\n" for cut in cuts))
    rows = json.loads(run("transcribe", model, tmp_path / "cuts.jsonl", "--json", "-").stdout)
    assert [(row["offset"], row["seconds"]) for row in rows] == [(0, 1), (1.5, 1)]
    assert len({row["id"] for row in rows}) == 2
    lines = run("transcribe", model, tmp_path / "cuts.jsonl").stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        f"{speech / '3.wav'} at {at} s" for at in ("0", "1.5")
    ]


def test_transcribe_hears_what_can_be_read_however_much_cannot(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    for number in range(12):
        (tmp_path / f"{number}.wav").write_bytes(b"RIFF")
    result = run("transcribe", model, tmp_path, speech / "1.wav", "--json", "-")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)) == 1
    assert "skipped 12 of 13: " in result.stderr
    assert all(str(tmp_path / f"{number}.wav") in result.stderr for number in range(12))


def test_figures_are_written_before_anybody_may_stop_reading(
    run: Run, model: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(secateur.cli.output, "put_out", closed)
    run("transcribe", model, speech, "--json", tmp_path / "heard.json")
    assert len(json.loads((tmp_path / "heard.json").read_text(encoding="utf-8"))) == 3


@pytest.mark.parametrize("output", [(), ("--json", "-")])
def test_transcribe_of_one_long_recording_that_is_damaged_is_refused(
    refused: Refused, model: Path, tmp_path: Path, output: tuple[str, ...]
) -> None:
    damaged = tmp_path / "damaged.flac"
    soundfile.write(damaged, np.random.default_rng(0).normal(scale=0.1, size=70 * 8000), 8000)
    damaged.write_bytes(damaged.read_bytes()[:-200_000])
    assert "there is nothing to hear (skipped 1 of 1: " in refused("transcribe", model, damaged, *output)


def test_transcribe_hears_a_folder_and_a_long_recording(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    long = tmp_path / "long.wav"
    soundfile.write(long, np.random.default_rng(0).normal(scale=0.1, size=70 * 8000), 8000)
    rows = json.loads(run("transcribe", model, long, speech, "--json", "-").stdout)
    assert [row["seconds"] for row in rows] == [70, 1, 2, 3]


def test_transcribe_names_what_it_cannot_read_and_goes_on(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    result = run("transcribe", model, broken, speech / "1.wav", "--json", "-")
    assert len(json.loads(result.stdout)) == 1
    assert "skipped 1 of 2: " in result.stderr
    assert str(broken) in result.stderr
    # What is printed is as it would have been had all been read.
    assert run("transcribe", model, broken, speech / "1.wav").stdout.startswith(f"{speech / '1.wav'}: ")


def test_transcribe_names_a_file_that_is_not_there_and_hears_the_others(
    run: Run, model: Path, speech: Path
) -> None:
    result = run("transcribe", model, "nowhere.wav", speech / "1.wav")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{speech / '1.wav'}: ")
    assert "skipped 1 of 2: nowhere.wav: does not exist" in result.stderr


def test_transcribe_keeps_what_it_heard_of_a_long_recording_when_nothing_else_can_be_read(
    run: Run, model: Path, tmp_path: Path
) -> None:
    long, broken = tmp_path / "long.wav", tmp_path / "broken.wav"
    soundfile.write(long, np.zeros(70 * 8000), 8000)
    broken.write_bytes(b"RIFF")
    result = run("transcribe", model, long, broken, "--json", "-")
    assert result.exit_code == 0
    assert [row["seconds"] for row in json.loads(result.stdout)] == [70]
    assert "skipped 1 of 2: " in result.stderr


def test_one_file_is_printed_as_text_alone_and_several_with_their_paths(run: Run, shared: Path) -> None:
    model = shared / "models" / "conformer-ctc-small.nemo"
    first, second = sorted((shared / "data" / "librispeech" / "test").rglob("*-0000.*"))[:2]
    alone = run("transcribe", model, first).stdout
    both = run("transcribe", model, first, second).stdout.splitlines()
    assert both[0] == f"{first}: {alone.strip()}"
    assert both[1].startswith(f"{second}: ")
    transcripts = next(first.parent.glob("*.trans.txt")).read_text().splitlines()
    reference = next(line for line in transcripts if line.startswith(f"{first.stem} "))
    heard, said = set(alone.upper().split()), set(reference.split()[1:])
    assert len(heard & said) > 0.8 * len(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inspect", "nowhere.nemo"), "nowhere.nemo does not exist"),
        (("inspect", "MODEL", "--device", "abacus"), "'abacus'"),
        (("inspect", "MODEL", "--device", "hpu"), "PyTorch cannot compute on 'hpu' here"),
        (("inspect", "MODEL", "--device", "meta"), "'meta' is none of the devices that Secateur computes on"),
        (("inspect", "MODEL", "--json", "/no/such/folder/figures.json"), "/no/such/folder/figures.json"),
        (("inspect", "MODEL", "--seconds", "0.001"), "0.001 s"),
        (("inspect", "MODEL", "--no-measure", "--batch", "2"), "--batch is for measured time"),
        (("demo", "--minutes", "3", "--steps", "2"), "--minutes and --steps both say how long"),
        (("evaluate", "MODEL", "--data", "nowhere"), "nowhere does not exist"),
        (("transcribe", "MODEL", "nowhere.wav"), "nowhere.wav does not exist"),
        (("evaluate", "MODEL", "--data", ".", "--utterances", "-"), "--utterances writes to a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_request_is_one_sentence_and_exit_code_2(
    refused: Refused, model: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(*(model if each == "MODEL" else each for each in arguments))


def test_evaluating_speech_without_transcripts_is_refused(
    refused: Refused, model: Path, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    assert "has no transcript" in refused("evaluate", model, "--data", tmp_path)


def test_a_failure_of_ours_is_not_passed_off_as_a_wrong_request(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(secateur.recognizer, "load", fail)
    result = run("inspect", model)
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nMore"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        ),
    ],
)
def test_too_little_memory_is_one_sentence(
    refused: Refused, model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(secateur.recognizer, "load", fail)
    said = refused("inspect", model)
    assert "there is not enough memory (" in said
    assert "make room, or give it less: --batch-seconds" in said


def test_a_place_that_is_closed_to_the_user_is_one_sentence(
    refused: Refused, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/closed/model")

    monkeypatch.setattr(secateur.recognizer, "load", closed)
    assert (
        refused("inspect", model) == "secateur: /closed/model cannot be read or written: Permission denied\n"
    )


def test_a_name_that_begins_with_the_sign_of_a_home_is_a_name(
    run: Run, model: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~$call.wav").write_bytes(next(speech.glob("*.wav")).read_bytes())
    assert run("transcribe", model, "~$call.wav").exit_code == 0


def test_ctrl_c_ends_with_a_sentence_and_exit_code_130(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(secateur.recognizer, "load", interrupt)
    result = run("inspect", model)
    assert result.exit_code == 130
    assert "stopped before the end" in result.stderr


def test_an_import_that_ctrl_c_cuts_short_is_ctrl_c(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ModuleNotFoundError("Could not import module 'PreTrainedModel'") from None

    monkeypatch.setattr(secateur.recognizer, "load", torn)
    result = run("inspect", model)
    assert result.exit_code == 130
    assert result.stderr == "secateur: stopped before the end\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_one_sentence_and_one_exit_code(unbuffered: str) -> None:
    code = (
        "from rich.text import Text; from secateur.cli import main; from secateur.cli.output import finish\n"
    )
    code += "main.commands['report'].callback = lambda **_: finish({}, None, Text('figures'))\nmain(['report', '.'])"
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            text=True,
        )
    assert ran.returncode == 2
    assert ran.stderr == "secateur: standard output cannot be written: No space left on device\n"


def test_figures_are_written_where_there_is_no_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    finish({"wer": 0.5}, str(tmp_path / "figures.json"), Text("WER"))
    assert json.loads((tmp_path / "figures.json").read_text()) == {"wer": 0.5}


def test_a_name_may_be_as_long_as_the_disk_takes(run: Run, model: Path, tmp_path: Path) -> None:
    figures = tmp_path / f"{'x' * 250}.json"
    assert run("inspect", model, "--no-measure", "--json", figures).exit_code == 0
    assert json.loads(figures.read_text())["params"] > 0


@pytest.mark.parametrize(
    "command", [[], *([name] for name in main.commands)], ids=lambda c: " ".join(c) or "secateur"
)
def test_help_is_there(run: Run, command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_every_option_says_what_it_does() -> None:
    for command in main.commands.values():
        assert command.help
        assert all(option.help for option in command.params if isinstance(option, click.Option))


@pytest.mark.parametrize("module", ["secateur", "secateur.cli"])
def test_the_package_and_its_help_load_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'numpy', 'rich', 'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_public_names_are_all_there() -> None:
    assert all(getattr(secateur, name) for name in secateur.__all__)
    assert set(secateur.__all__) <= set(dir(secateur))
    with pytest.raises(AttributeError, match="no attribute 'prunee'"):
        _ = secateur.prunee


def test_python_m_secateur_is_the_command() -> None:
    said = subprocess.check_output([sys.executable, "-m", "secateur", "--version"], text=True)
    assert said == f"secateur, version {secateur.__version__}\n"


@pytest.mark.parametrize(
    "command",
    [
        "evaluate MODEL --data SPEECH",
        "transcribe MODEL SPEECH",
        "prune MODEL --data SPEECH --keep params=60% --score magnitude --steps 2 --refit-minutes 0.05 --refit-steps 2 --out OUT",
    ],
)
def test_quiet_hides_the_progress_that_a_terminal_would_show(
    run: Run,
    model: Path,
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    for quiet in (True, False):
        places = {"MODEL": model, "SPEECH": speech, "OUT": tmp_path / f"quiet{quiet}"}
        result = run(*(places.get(word, word) for word in command.split()), *(["--quiet"] if quiet else []))
        assert result.exit_code == 0
        assert ("\x1b[" in result.stderr) is not quiet


def test_figures_that_cannot_be_written_are_shown(
    run: Run, refused: Refused, model: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("transcribe", model, speech / "1.wav", "--json", tmp_path / "figures.json")
    heard = run("transcribe", model, speech / "1.wav").stdout

    def full(*_: object, **__: object) -> None:
        raise SecateurError("figures.json cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(secateur.cli.output, "write_text", full)
        result = run(*asked)
    assert result.exit_code == 2
    assert result.stderr == "secateur: figures.json cannot be written: No space left on device\n"
    assert result.stdout == heard
    # What can be known before is refused before.
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != tmp_path)
    assert "as its folder is closed to this user" in refused(*asked)


@pytest.mark.skipif(sys.platform == "win32", reason="links are for administrators there")
def test_a_link_stays_one_and_what_it_leads_to_is_replaced(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "latest.json").symlink_to(tmp_path / "figures.json")
    assert run("inspect", model, "--no-measure", "--json", tmp_path / "latest.json").exit_code == 0
    assert (tmp_path / "latest.json").is_symlink()
    assert json.loads((tmp_path / "figures.json").read_text())["params"] > 0


def test_programs_are_given_utf_8_whatever_a_terminal_has(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    spoken = tmp_path / "речь.wav"
    shutil.copy(speech / "1.wav", spoken)
    code = "from secateur.cli import main; main()"
    command = [sys.executable, "-c", code, "transcribe", str(model), str(spoken), "--quiet", "--json", "-"]
    ran = subprocess.run(
        command, env=os.environ | {"PYTHONIOENCODING": "cp1252"}, capture_output=True, check=True
    )
    assert json.loads(ran.stdout.decode("utf-8"))[0]["path"] == str(spoken)


def test_what_was_heard_is_not_lost_with_what_comes_after(
    run: Run, model: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nowhere").mkdir()
    measured = run(
        "evaluate",
        model,
        "--data",
        speech,
        "--against",
        tmp_path / "nowhere",
        "--json",
        tmp_path / "one.json",
    )
    assert measured.exit_code == 2
    assert "nowhere" in measured.stderr
    assert json.loads((tmp_path / "one.json").read_text())["utterances"] == 3
    # What is not there is missed before the work.
    early = run(
        "evaluate", model, "--data", speech, "--against", tmp_path / "gone", "--json", tmp_path / "two.json"
    )
    assert f"{tmp_path / 'gone'} does not exist" in early.stderr
    assert not (tmp_path / "two.json").exists()
    whole = json.loads(run("transcribe", model, speech, "--json", "-").stdout)
    batches = secateur.transcription.read_batches

    def stopped(*arguments: Any, **options: Any) -> Iterator[Any]:
        yield next(iter(batches(*arguments, **options)))
        raise KeyboardInterrupt

    monkeypatch.setattr(secateur.transcription, "read_batches", stopped)
    heard = run("transcribe", model, speech, "--batch-seconds", 2.5, "--json", "-")
    assert heard.exit_code == 130
    rows = json.loads(heard.stdout)
    assert len(rows) == 1
    assert rows[0] in whole
    # The first of several says whose it is, though it is alone.
    printed = run("transcribe", model, speech, "--batch-seconds", 2.5).stdout.splitlines()
    assert printed == [f"{rows[0]['path']}: {rows[0]['text']}".rstrip()]
