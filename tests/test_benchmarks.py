"""The benchmarks, each on a tiny untrained model and noise; and the README's figures, from made-up results."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import ParakeetFeatureExtractor

from secateur.demo.run import MODEL
from secateur.models.conformer import ConformerConfig, ConformerForCTC
from secateur.models.vocabulary import tokenizer_from_pieces
from secateur.recognizer import Recognizer

ROOT = Path(__file__).resolve().parents[1]
Figures = dict[str, Any]
Run = Callable[..., dict[str, Figures]]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out like the shared one: an untrained model of two layers, and seconds of noise."""
    shared = tmp_path_factory.mktemp("shared")
    torch.manual_seed(0)
    config = ConformerConfig(
        vocab_size=5,
        pad_token_id=4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_kernel_size=3,
        subsampling_conv_channels=4,
    )
    tokenizer = tokenizer_from_pieces(["▁a", "b", "c", "d"])
    recognizer = Recognizer(ConformerForCTC(config), ParakeetFeatureExtractor(), tokenizer)
    recognizer.save_pretrained(shared / "models" / "conformer-ctc-small.nemo")
    noise = np.random.default_rng(0)
    for name in ("fit", "valid", "test"):
        folder = shared / "data" / "librispeech" / name
        folder.mkdir(parents=True)
        for number in range(4):
            soundfile.write(
                folder / f"{number}.wav", noise.normal(scale=0.1, size=16000 + 4000 * number), 16000
            )
            (folder / f"{number}.txt").write_text("a word or two", encoding="utf-8")
    return shared


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks can be imported."""
    monkeypatch.syspath_prepend(ROOT)


@pytest.fixture
def run(stand_in: Path, benchmarks: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """``run("accuracy", "--limit", 2)``: what was recorded, by name."""
    monkeypatch.setenv("SECATEUR_SHARED", str(stand_in))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    results = tmp_path / "results"

    def run(name: str, *arguments: object) -> dict[str, Figures]:
        module = importlib.import_module(f"benchmarks.{name}")
        module.main(["--threads", "1", "--results", str(results), *map(str, arguments)])
        return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in results.glob("*.json")}

    return run


def test_a_result_says_all_that_its_figures_depend_on(run: Run) -> None:
    result = run("accuracy", "--sets", "test", "--limit", 3)["accuracy_test"]
    assert result["command"].startswith("python -m benchmarks.accuracy --threads 1")
    assert len(result["commit"]) == 40
    assert isinstance(result["dirty"], bool)
    assert {"cpu", "cores", "threads", "torch", "load_average"} <= set(result["machine"])
    assert result["figures"]["utterances"] == 3


def test_a_result_holds_nobodys_words(run: Run) -> None:
    assert "a word or two" not in json.dumps(run("accuracy", "--sets", "test"))


def test_both_ways_to_hear_a_set_hear_the_same(run: Run) -> None:
    figures = run("throughput", "--block", 2)["throughput"]["figures"]
    assert figures["utterances"] == 4
    assert figures["texts_that_differ"] == 0
    assert figures["ratio"] == figures["seconds"]["batched"] / figures["seconds"]["alone"]
    assert set(figures["stages"]["alone"]) == {"reading", "features", "model", "decoding"}
    assert figures["operators"]["batched"][0]["share"] > 0


def test_a_long_recording_is_transcribed_in_a_process_of_its_own(run: Run) -> None:
    figures = run("long_recording", "--seconds", 3)["long_recording"]["figures"]
    assert figures["audio_seconds"] == pytest.approx(3.75)  # 1 + 1.25 + 1.5: the first sum above 3
    assert figures["utterances"]["utterances"] == 3
    assert 50 < figures["peak_memory_mb"] < 5000
    again = run("long_recording", "--seconds", 1, "--pruned", MODEL)["long_recording_pruned"]["figures"]
    assert again["parameters"] > figures["parameters"]


def test_pruning_goes_on_where_it_was_interrupted(run: Run, tmp_path: Path) -> None:
    some = ["--budgets", "params=80%", "--methods", "magnitude", "--models", tmp_path / "models"]
    first = run("oneshot", *some)
    assert set(first) == {"magnitude_params80"}
    assert 0.7 < first["magnitude_params80"]["figures"]["kept"]["params"] <= 0.8
    second = run("oneshot", *some, "--publish")
    assert second["magnitude_params80"] == first["magnitude_params80"]
    assert second["magnitude_params80_test"]["figures"]["utterances"] == 4
    assert set(run("oneshot", *some, "--again")) == {"magnitude_params80"}, (
        "the test figures were another model's"
    )


def test_the_arena_records_a_row_at_a_time_and_says_what_could_not_be(run: Run, tmp_path: Path) -> None:
    some = [
        "--keep",
        "80%",
        "--steps",
        1,
        "--refit-minutes",
        0.02,
        "--refit-steps",
        2,
        "--models",
        tmp_path / "models",
    ]
    first = run("arena", *some, "--methods", "magnitude")
    assert set(first) == {"arena_magnitude_params80_macs80"}
    row = first["arena_magnitude_params80_macs80"]["figures"]["row"]
    assert row["error"] is None
    assert 0.6 < row["kept"]["params"] <= 0.8
    assert {"wer", "wer_interval"} <= row["test"].keys()
    second = run("arena", *some, "--methods", "magnitude", "layerdrop")
    assert second["arena_magnitude_params80_macs80"] == first["arena_magnitude_params80_macs80"]
    made = (tmp_path / "models" / "seed0" / "magnitude_params80_macs80" / "report.json").stat().st_mtime_ns
    run("arena", *some, "--methods", "magnitude", "--again")
    assert (
        tmp_path / "models" / "seed0" / "magnitude_params80_macs80" / "report.json"
    ).stat().st_mtime_ns > made
    readme = importlib.import_module("benchmarks.readme")
    text = readme.section(tmp_path / "results")
    assert "| `params=80%,macs=80%` | `magnitude` |" in text
    assert second["arena_layerdrop_params80_macs80"]["figures"]["row"]["error"] is None
    some[1] = "30%"
    error = run("arena", *some, "--methods", "layerdrop")["arena_layerdrop_params30_macs30"]["figures"][
        "row"
    ]["error"]
    assert "cannot be met" in error
    text = readme.section(tmp_path / "results")
    assert f"`layerdrop` at `params=30%,macs=30%`: {error}." in text


def test_a_learned_row_is_published_with_its_plan(run: Run, tmp_path: Path) -> None:
    some = ["--budgets", "params=80%", "--steps", 2, "--models", tmp_path / "models"]
    made = run("learned", *some, "--publish")
    assert set(made) == {"recovered_params80", "recovered_params80_test"}
    figures = made["recovered_params80"]["figures"]
    assert 0.7 < figures["kept"]["params"] <= 0.8
    assert figures["history"]["recover"][-1]["step"] == 2
    assert made["recovered_params80_test"]["figures"]["utterances"] == 4
    plans = list((tmp_path / "results" / "plans").iterdir())
    assert [plan.name for plan in plans] == ["recovered_params80.json"]
    assert plans[0].read_bytes() == (tmp_path / "models" / "recovered_params80" / "plan.json").read_bytes()
    assert run("learned", *some)["recovered_params80"] == made["recovered_params80"]


def test_runs_without_a_part_share_what_that_part_does_not_change(run: Run, tmp_path: Path) -> None:
    variants = ["default", "plain_divergence", "without_front_end_groups", "with_search_from_open_gates"]
    some = ["--keep", "params=80%", "--steps", "4", "--models", tmp_path / "models"]
    results = {
        name: each["figures"] for name, each in run("ablation", "--variants", *variants, *some).items()
    }
    assert set(results) == {f"ablation_{name}_params80" for name in variants}
    default, plain, front_end, searched = (results[f"ablation_{name}_params80"] for name in variants)
    assert all(each["kept"]["params"] <= 0.8 for each in results.values())
    assert plain["units"] == default["units"]
    for stage in ("start", "reconstruct"):
        assert plain["phase_seconds"][stage] == default["phase_seconds"][stage]
    assert plain["settings"]["distillation"]["speech_weight"] == 0
    assert not any(name.startswith("subsampling") for name in front_end["units"])
    assert set(searched["history"]) == {"search", "recover"}


@pytest.mark.parametrize(
    ("variant", "shared"),
    [
        ("plain_divergence", ["start", "reconstruct"]),
        ("with_search", ["start"]),
        ("without_refitting", ["start"]),
        ("without_front_end_groups", []),
        ("in_two_strides", []),
        ("with_search_from_open_gates", []),
    ],
)
def test_a_run_shares_the_stages_that_it_would_make_alike(
    benchmarks: None, variant: str, shared: list[str]
) -> None:
    from benchmarks.ablation import VARIANTS, settings_of, shared_stages

    options = argparse.Namespace(keep="params=80%", limit=None, seed=0, minutes=1.0, steps=None)
    default = settings_of({}, options)
    assert shared_stages(settings_of(VARIANTS[variant], options), default) == shared


def test_the_encoder_is_timed_before_and_after_pruning(run: Run, tmp_path: Path) -> None:
    models = tmp_path / "models"
    run("oneshot", "--budgets", "params=80%", "--methods", "magnitude", "--models", models)
    pruned = models / "magnitude_params80"
    figures = run("encoder_time", "--pruned", pruned, "--seconds", 1, "--rounds", 2)["encoder_time"][
        "figures"
    ]
    assert figures["measured"]["median"] > 0
    assert 0.7 < figures["params_kept"] <= 0.8
    assert "feed_forward1" in figures["parts"]


def test_a_large_model_is_measured_step_by_step(benchmarks: None, tmp_path: Path) -> None:
    large = importlib.import_module("benchmarks.large")
    made = large.make(tmp_path / "pruned", layers=1, width=64, seed=0)
    assert list(made["steps"]) == ["build", "plan", "slice", "save"]
    assert made["params_after"] <= 0.5 * made["params"]
    assert large.reload(tmp_path / "pruned")["params_after"] == made["params_after"]


@pytest.mark.slow  # it speaks twelve hundred utterances
def test_the_demo_runs_in_a_process_of_its_own(run: Run) -> None:
    results = run("demo", "--steps", 2, "--sets", "valid")
    assert results["demo"]["figures"]["kept"]["params"] <= 0.5
    assert results["demo_valid"]["figures"]["utterances"] == 4


@pytest.mark.slow  # two processes that import all of transformers
def test_a_large_model_is_made_and_reloaded_in_processes_of_their_own(run: Run) -> None:
    figures = run("large", "--layers", 1, "--width", 64)["large"]["figures"]
    assert list(figures["steps"]) == ["build", "plan", "slice", "save", "reload"]


def made_up(name: str, **figures: object) -> Figures:
    machine = {"cpu": "A processor", "cores": "2", "torch": "2.13.0", "threads": "1"}
    return {
        "name": name,
        "commit": "0123456789abcdef",
        "dirty": False,
        "machine": machine,
        "figures": figures,
    }


def write(folder: Path, *results: Figures) -> Path:
    for result in results:
        (folder / f"{result['name']}.json").write_text(json.dumps(result), encoding="utf-8")
    return folder


WER = {"wer": 0.04, "wer_interval": [0.03, 0.05], "cer": 0.012, "audio_seconds": 3600.0}
COSTS = {"params": 13154033, "macs_per_second": 5.45e8}


def test_without_results_the_readme_says_so(benchmarks: None, tmp_path: Path) -> None:
    readme = importlib.import_module("benchmarks.readme")
    assert readme.section(tmp_path) == "No figures have been recorded yet."


def test_what_was_not_measured_has_no_row(benchmarks: None, tmp_path: Path) -> None:
    readme = importlib.import_module("benchmarks.readme")
    text = readme.section(write(tmp_path, made_up("accuracy_valid", **WER, **COSTS)))
    assert "| LibriSpeech dev-clean, 8 speakers | 1.00 h | 4.00 % | 3.00 to 5.00 | 1.20 % |" in text
    assert "AN4" not in text
    assert "pruning" not in text
    assert "Measured on A processor, 2 cores; PyTorch 2.13.0." in text


def test_pruned_models_stand_below_the_unpruned_one(benchmarks: None, tmp_path: Path) -> None:
    readme = importlib.import_module("benchmarks.readme")
    row = {
        "settings": {"reconstruct_steps": 200},
        "wall_seconds": {"read": 60, "prune": 120},
        "valid": WER | {"params": 6.5e6, "macs_per_second": 2.7e8},
    }
    write(tmp_path, made_up("accuracy_valid", **WER, **COSTS), made_up("oneshot_params50_macs50", **row))
    text = readme.section(tmp_path)
    assert "| everything | unpruned | 13.15 M | 545 M | 4.00 % |  |" in text
    assert "| `params=50%,macs=50%` | `oneshot` | 6.50 M | 270 M | 4.00 % | 3.0 min, 1 thread |" in text
    assert "WER test-clean" not in text
    write(tmp_path, made_up("recovered_params50_macs50", **row | {"settings": {"oneshot": {}}}))
    assert "| `params=50%,macs=50%` | `learned`, earlier version |" in readme.section(tmp_path)
    assert readme.summary(tmp_path) == ""
    write(
        tmp_path,
        made_up("accuracy_test", **WER, **COSTS),
        made_up("oneshot_params50_macs50_test", **row["valid"]),
    )
    assert readme.summary(tmp_path).splitlines()[2:] == [
        "| unpruned | 13.15 M | 545 M | 4.00 % |  |",
        "| `oneshot`, 50 % of parameters and MACs | 6.50 M | 270 M | 4.00 % | 3.0 min, 1 thread |",
    ]


@pytest.mark.parametrize("name", ["demo", "demo_valid", "demo_an4"])
def test_what_is_published_of_the_demo_is_of_the_model_that_comes_along(name: str) -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    carried = (MODEL / "model.safetensors").read_bytes()
    assert result["figures"]["model_sha256"] == hashlib.sha256(carried).hexdigest()


def test_the_demo_has_a_sentence_of_its_own(benchmarks: None, tmp_path: Path) -> None:
    readme = importlib.import_module("benchmarks.readme")
    measured = WER | COSTS | {"utterances": 200}
    write(
        tmp_path,
        made_up("demo", seconds=90, forward={"ratio": {"median": 0.6}}, before=measured, after=measured),
    )
    assert "`secateur demo` took 1.5 min" in readme.section(tmp_path)
    assert "human" not in readme.section(tmp_path)
    write(tmp_path, made_up("demo_an4", **WER))
    assert "a WER of 4.00 % on AN4" in readme.section(tmp_path)


def test_the_readme_has_the_figures_of_the_results(benchmarks: None) -> None:
    importlib.import_module("benchmarks.readme").main(["--check"])


def test_a_figure_that_was_edited_by_hand_is_noticed(
    benchmarks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = importlib.import_module("benchmarks.readme")
    edited = tmp_path / "README.md"
    _, end = readme.markers("summary")
    shutil.copyfile(ROOT / "README.md", edited)
    edited.write_text(edited.read_text(encoding="utf-8").replace(end, f"0.1 % WER\n{end}"), "utf-8")
    monkeypatch.setattr(readme, "README", edited)
    with pytest.raises(SystemExit, match="run python -m benchmarks.readme"):
        readme.main(["--check"])
    readme.main([])
    readme.main(["--check"])
