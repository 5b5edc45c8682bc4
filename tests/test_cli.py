from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result
from transformers import HubertConfig, HubertForCTC, ParakeetFeatureExtractor, Wav2Vec2FeatureExtractor

import secateur.pruning.prune
import secateur.recognizer
from secateur.cli import main
from secateur.models.conformer import ConformerConfig, ConformerForCTC
from secateur.models.vocabulary import tokenizer_from_pieces
from secateur.recognizer import Recognizer


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained recogniser on disk."""
    torch.manual_seed(0)
    config = ConformerConfig(
        vocab_size=5,
        pad_token_id=4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        conv_kernel_size=3,
        subsampling_conv_channels=4,
    )
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tokenizer_from_pieces(["▁a", "b", "c", "d"])
    Recognizer(ConformerForCTC(config), ParakeetFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three transcribed recordings of noise: 1, 2 and 3 seconds."""
    folder = tmp_path_factory.mktemp("speech")
    noise = np.random.default_rng(0).normal(scale=0.1, size=48000)
    for seconds in (1, 2, 3):
        soundfile.write(folder / f"{seconds}.wav", noise[: 16000 * seconds], 16000)
        (folder / f"{seconds}.txt").write_text("a word or two", encoding="utf-8")
    return folder


def test_inspect_shows_the_kinds_of_parts(model: Path) -> None:
    result = run("inspect", model, "--seconds", 1)
    assert result.exit_code == 0
    for expected in ("ConformerForCTC", "front-end", "whole model", "layers.0-1"):
        assert expected in result.stdout


def test_inspect_writes_the_figures_and_shows_them_too(model: Path, tmp_path: Path) -> None:
    result = run("inspect", model, "--seconds", 1, "--no-measure", "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {"params", "macs_per_second", "parts"} <= figures.keys()
    assert "whole model" in result.stdout


def test_evaluate_writes_the_figures_that_were_promised(model: Path, speech: Path) -> None:
    result = run("evaluate", model, "--data", speech, "--json", "-")
    figures = json.loads(result.stdout)
    promised = {"wer", "cer", "utterances", "audio_seconds", "rtf", "params", "macs_per_second"}
    assert promised <= figures.keys()
    assert figures["utterances"] == 3
    assert figures["audio_seconds"] == pytest.approx(6)


def test_evaluate_takes_the_first_utterances_and_writes_each(
    model: Path, speech: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    result = run("evaluate", model, "--data", speech, "--limit", 2, "--utterances", rows, "--worst", 1)
    assert [json.loads(line)["id"] for line in rows.read_text().splitlines()] == ["1", "2"]
    assert result.stdout.count("  heard") == 1


def test_evaluate_compares_two_models_on_the_same_utterances(model: Path, speech: Path) -> None:
    against = ("--against", model)
    shown = run("evaluate", model, "--data", speech, *against)
    assert "+0.00 points of WER may be chance" in shown.stdout
    figures = json.loads(run("evaluate", model, "--data", speech, *against, "--json", "-").stdout)
    assert figures["comparison"]["difference"] == 0
    assert figures["against"]["wer"] == figures["wer"]


def test_transcribe_keeps_the_order_of_its_arguments(model: Path, speech: Path) -> None:
    result = run("transcribe", model, speech / "3.wav", speech / "1.wav", "--json", "-")
    rows = json.loads(result.stdout)
    assert [row["seconds"] for row in rows] == [3, 1]
    assert all(row.keys() == {"path", "text", "seconds", "confidence", "words"} for row in rows)
    assert rows[0]["path"] == str(speech / "3.wav")


def test_transcribe_hears_a_folder_and_a_long_recording(model: Path, speech: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.wav"
    soundfile.write(long, np.random.default_rng(0).normal(scale=0.1, size=70 * 8000), 8000)
    rows = json.loads(run("transcribe", model, long, speech, "--json", "-").stdout)
    assert [row["seconds"] for row in rows] == [70, 1, 2, 3]


def test_transcribe_names_what_it_cannot_read_and_goes_on(model: Path, speech: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    result = run("transcribe", model, broken, speech / "1.wav", "--json", "-")
    assert len(json.loads(result.stdout)) == 1
    assert "skipped 1 of 2: " in result.stderr
    assert str(broken) in result.stderr


def test_one_file_is_printed_as_text_alone_and_several_with_their_paths(shared: Path) -> None:
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


def refused(result: Result) -> str:
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inspect", "nowhere.nemo"), "nowhere.nemo does not exist"),
        (("inspect", "MODEL", "--device", "abacus"), "'abacus'"),
        (("inspect", "MODEL", "--json", "/no/such/folder/figures.json"), "/no/such/folder/figures.json"),
        (("inspect", "MODEL", "--seconds", "0.001"), "0.001 s"),
        (("evaluate", "MODEL", "--data", "nowhere"), "nowhere does not exist"),
        (("transcribe", "MODEL", "nowhere.wav"), "nowhere.wav does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_request_is_one_sentence_and_exit_code_2(
    model: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(run(*(model if each == "MODEL" else each for each in arguments)))


def test_evaluating_speech_without_transcripts_is_refused(model: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    assert "has no transcript" in refused(run("evaluate", model, "--data", tmp_path))


def test_a_failure_of_ours_is_not_passed_off_as_a_wrong_request(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(secateur.recognizer, "load", fail)
    result = run("inspect", model)
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_ctrl_c_ends_with_a_sentence_and_exit_code_130(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(secateur.recognizer, "load", interrupt)
    result = run("inspect", model)
    assert result.exit_code == 130
    assert "stopped by Ctrl-C" in result.stderr


@pytest.mark.parametrize(
    "command", [[], *([name] for name in main.commands)], ids=lambda c: " ".join(c) or "secateur"
)
def test_help_is_there(command: list[str]) -> None:
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


def prune_arguments(model: Path, speech: Path, out: Path, **others: object) -> list[object]:
    options = {
        "data": speech,
        "keep": "params=60%",
        "out": out,
        "score": "magnitude",
        "minutes": 0.05,
    } | others
    return ["prune", model, *(word for name, value in options.items() for word in (f"--{name}", value))]


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_prune_writes_the_figures_that_its_folder_holds(model: Path, speech: Path, tmp_path: Path) -> None:
    result = run(*prune_arguments(model, speech, tmp_path / "out", valid=speech, json="-"))
    assert result.exit_code == 0
    figures = json.loads(result.stdout)
    assert figures == json.loads((tmp_path / "out" / "report.json").read_text())
    assert figures["after"]["params"] <= 0.6 * figures["before"]["params"]
    assert {"wer", "rtf", "params", "macs_per_second"} <= figures["after"].keys() & figures["before"].keys()
    assert listing(tmp_path) == ["out"]


def test_prune_shows_before_and_after_and_says_where_the_result_is(
    model: Path, speech: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shown = run(*prune_arguments(model, speech, out, valid=speech, limit=2)).stdout
    for expected in ("before", "after", "parameters", "MACs per second", "WER", "95 % interval"):
        assert expected in shown
    assert shown.endswith(f"The pruned model is in {out}.\n")
    assert "WER" not in run(*prune_arguments(model, speech, out)).stdout
    heard = run("transcribe", out, speech / "1.wav", "--json", "-")
    assert json.loads(heard.stdout)[0]["seconds"] == 1


def test_prune_replaces_its_earlier_result(model: Path, speech: Path, tmp_path: Path) -> None:
    first = run(*prune_arguments(model, speech, tmp_path / "out", keep="params=80%", json="-"))
    second = run(*prune_arguments(model, speech, tmp_path / "out", keep="params=50%", json="-"))
    assert json.loads(first.stdout) != json.loads(second.stdout)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(second.stdout)
    assert listing(tmp_path) == ["out"]


def test_prune_names_speech_that_it_cannot_read_and_goes_on(
    model: Path, speech: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(speech, data)
    (data / "broken.wav").write_bytes(b"RIFF")
    result = run(*prune_arguments(model, data, tmp_path / "out", minutes=10))
    assert result.exit_code == 0
    assert "skipped 1 of 4: " in result.stderr
    assert "broken.wav" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": "half"}, "the budget 'half' has 'half' in it"),
        ({"keep": "params=50"}, "params=50 has no unit"),
        ({"keep": "params=0.01%"}, "cannot be met: the smallest possible here is params="),
        ({"data": "nowhere"}, "nowhere does not exist"),
        ({"valid": "nowhere"}, "nowhere does not exist"),
    ],
    ids=lambda value: " ".join(map(str, *value.items())) if isinstance(value, dict) else "",
)
def test_a_prune_that_cannot_be_is_refused_and_leaves_nothing(
    model: Path, speech: Path, tmp_path: Path, options: dict[str, str], said: str
) -> None:
    assert said in refused(run(*prune_arguments(model, speech, tmp_path / "out", **options)))
    assert listing(tmp_path) == []


def test_pruning_into_a_folder_that_holds_something_else_is_refused(
    model: Path, speech: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").touch()
    said = refused(run(*prune_arguments(model, speech, tmp_path)))
    assert "holds something else than a pruned model; give a new or an empty folder" in said
    assert listing(tmp_path) == ["thesis.tex"]


def test_pruning_a_family_without_a_table_is_refused(model: Path, speech: Path, tmp_path: Path) -> None:
    hubert = HubertForCTC(
        HubertConfig(
            vocab_size=5, pad_token_id=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
            conv_dim=(8,) * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        )
    )  # fmt: skip
    tokenizer = tokenizer_from_pieces(["▁a", "b", "c", "d"])
    features = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    Recognizer(hubert, features, tokenizer).save_pretrained(tmp_path / "hubert")
    said = refused(run(*prune_arguments(tmp_path / "hubert", speech, tmp_path / "out")))
    assert (
        "HubertForCTC has no table of groups, so it cannot be pruned; supported are ConformerForCTC" in said
    )
    assert listing(tmp_path) == ["hubert"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_ctrl_c_while_the_result_is_written_leaves_nothing(
    model: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press_ctrl_c(folder: Path, *_: object) -> None:
        assert (folder / "model.safetensors").exists()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(secateur.pruning.prune, "_write_beside", press_ctrl_c)
    result = run(*prune_arguments(model, speech, tmp_path / "out"))
    assert result.exit_code == 130
    assert "stopped by Ctrl-C" in result.stderr
    assert listing(tmp_path) == []
