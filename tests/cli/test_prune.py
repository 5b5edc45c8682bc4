from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from transformers import HubertConfig, HubertForCTC, Wav2Vec2FeatureExtractor

import secateur.pruning.prune
from secateur.models.vocabulary import tokenizer_from_pieces
from secateur.recognizer import Recognizer

Run = Callable[..., Result]
Refused = Callable[..., str]


def prune_arguments(model: Path, speech: Path, out: Path, **others: object) -> list[object]:
    options = {
        "data": speech,
        "keep": "params=60%",
        "out": out,
        "score": "magnitude",
        "method": "oneshot",
        "refit-minutes": 0.05,
    } | others
    return ["prune", model, *(word for name, value in options.items() for word in (f"--{name}", value))]


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_prune_writes_the_figures_that_its_folder_holds(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    result = run(*prune_arguments(model, speech, tmp_path / "out", valid=speech, json="-"))
    assert result.exit_code == 0
    figures = json.loads(result.stdout)
    assert figures == json.loads((tmp_path / "out" / "report.json").read_text())
    assert figures["after"]["params"] <= 0.6 * figures["before"]["params"]
    assert {"wer", "rtf", "params", "macs_per_second"} <= figures["after"].keys() & figures["before"].keys()
    assert listing(tmp_path) == ["out"]


def test_prune_shows_before_and_after_and_says_where_the_result_is(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shown = run(*prune_arguments(model, speech, out, valid=speech, limit=2)).stdout
    for expected in ("before", "after", "parameters", "MACs per second", "WER", "95 % interval"):
        assert expected in shown
    assert shown.endswith(f"The pruned model is in {out}.\n")
    assert "WER" not in run(*prune_arguments(model, speech, out)).stdout
    heard = run("transcribe", out, speech / "1.wav", "--json", "-")
    assert json.loads(heard.stdout)[0]["seconds"] == 1


def test_prune_replaces_its_earlier_result(run: Run, model: Path, speech: Path, tmp_path: Path) -> None:
    first = run(*prune_arguments(model, speech, tmp_path / "out", keep="params=80%", json="-"))
    second = run(*prune_arguments(model, speech, tmp_path / "out", keep="params=50%", json="-"))
    assert json.loads(first.stdout) != json.loads(second.stdout)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(second.stdout)
    assert listing(tmp_path) == ["out"]


def test_prune_names_speech_that_it_cannot_read_and_goes_on(
    run: Run, model: Path, speech: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(speech, data)
    (data / "broken.wav").write_bytes(b"RIFF")
    result = run(*prune_arguments(model, data, tmp_path / "out", **{"refit-minutes": 10}))
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
    refused: Refused, model: Path, speech: Path, tmp_path: Path, options: dict[str, str], said: str
) -> None:
    assert said in refused(*prune_arguments(model, speech, tmp_path / "out", **options))
    assert listing(tmp_path) == []


def test_pruning_into_a_folder_that_holds_something_else_is_refused(
    refused: Refused, model: Path, speech: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").touch()
    said = refused(*prune_arguments(model, speech, tmp_path))
    assert "holds something else than a pruned model; give a new or an empty folder" in said
    assert listing(tmp_path) == ["thesis.tex"]


def test_pruning_a_family_without_a_table_is_refused(
    refused: Refused, model: Path, speech: Path, tmp_path: Path
) -> None:
    hubert = HubertForCTC(
        HubertConfig(
            vocab_size=5, pad_token_id=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
            conv_dim=(8,) * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        )
    )  # fmt: skip
    tokenizer = tokenizer_from_pieces(["▁a", "b", "c", "d"])
    features = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    Recognizer(hubert, features, tokenizer).save_pretrained(tmp_path / "hubert")
    said = refused(*prune_arguments(tmp_path / "hubert", speech, tmp_path / "out"))
    assert (
        "HubertForCTC has no table of groups, so it cannot be pruned; supported are ConformerForCTC" in said
    )
    assert listing(tmp_path) == ["hubert"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_ctrl_c_while_the_result_is_written_leaves_nothing(
    run: Run, model: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press_ctrl_c(folder: Path, *_: object) -> None:
        assert (folder / "model.safetensors").exists()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(secateur.pruning.prune, "_write_beside", press_ctrl_c)
    result = run(*prune_arguments(model, speech, tmp_path / "out"))
    assert result.exit_code == 130
    assert "stopped by Ctrl-C" in result.stderr
    assert listing(tmp_path) == []
