from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

import secateur
from secateur.errors import SecateurError
from secateur.pruning import oneshot, report
from secateur.pruning import prune as room
from secateur.pruning.learning.learned import Learned
from secateur.pruning.oneshot import OneShot
from secateur.pruning.planning.scope import Scope
from secateur.pruning.prune import PruneSettings, prune
from secateur.recognizer import Recognizer
from secateur.reporting.page import run_page
from secateur.speech.audio import read_audio
from secateur.speech.skips import SkipLog
from secateur.structure import counting
from secateur.structure.groups import find_groups
from secateur.structure.plan import PruningPlan

MakeRecognizer = Callable[..., Recognizer]
RATE = 16000
FILES = [
    "config.json",
    "conformer.py",
    "model.safetensors",
    "modeling_pruned.py",
    "plan.json",
    "preprocessor_config.json",
    "report.json",
    "run.yaml",
    "surgery.py",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.fixture(scope="module")
def model(save_model: Callable[..., Path]) -> Path:
    return save_model(width=32, units=96, channels=12)


@pytest.fixture(scope="module")
def speech(record_noise: Callable[..., Path]) -> Path:
    return record_noise(*(1 + number / 5 for number in range(6)))


@pytest.fixture
def settings(model: Path, speech: Path) -> Callable[..., PruneSettings]:
    def settings(
        keep: str = "params=60%", score: str = "magnitude", seed: int = 0, **others: object
    ) -> PruneSettings:
        minutes = OneShot(
            score=score, score_minutes=0.05, reconstruct_minutes=0.1, reconstruct_steps=2, seed=seed
        )
        return PruneSettings(
            **{
                "model": model,
                "data": speech,
                "keep": keep,
                "oneshot": minutes,
                "method": "oneshot",
                **others,
            }
        )

    return settings


MakeSettings = Callable[..., PruneSettings]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("keep", "score"),
    [
        ("params=50%", "obs"),
        ("params=60%,macs=50%", "obs"),
        ("macs=55%", "magnitude"),
        ("params=25k", "magnitude"),
        ("macs=0.5M", "magnitude"),
    ],
)
def test_the_budget_is_met_and_used(settings: MakeSettings, model: Path, keep: str, score: str) -> None:
    pruned = prune(settings(keep, score))
    dense = secateur.load(model).model
    before, after = pruned.report["before"], pruned.report["after"]
    assert before["params"] == counting.parameters(dense)
    assert after["params"] == counting.parameters(pruned.recognizer.model)
    assert before["macs_per_second"] == counting.macs(dense, 10.0) / 10
    assert after["macs_per_second"] == counting.macs(pruned.recognizer.model, 10.0) / 10
    bounds = secateur.Budget.parse(keep).bounds
    figures = {"params": "params", "macs": "macs_per_second"}
    shares = [after[figures[name]] / limit.of(before[figures[name]], 1.0) for name, limit in bounds.items()]
    assert 0.995 < max(shares) <= 1
    assert pruned.report["kept"]["params"] == after["params"] / before["params"]


def test_an_absolute_limit_on_macs_is_for_a_second_of_audio_of_any_length(settings: MakeSettings) -> None:
    dense = prune(settings("params=100%", "magnitude")).report["before"]["macs_per_second"]
    for seconds in (4.0, 10.0):
        keep = f"macs={0.7 * dense / 1e6}M"
        report = prune(replace(settings(keep, "magnitude"), audio_seconds=seconds)).report
        assert 0.9 < report["after"]["macs_per_second"] / (0.7 * dense) <= 1


def test_the_folder_holds_a_checkpoint_and_where_it_came_from(settings: MakeSettings, tmp_path: Path) -> None:
    wanted = settings(keep="params=60%,macs=70%", score="fisher", seed=3)
    pruned = prune(wanted, tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert set(FILES) <= set(names(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.bin"))
    assert PruningPlan.load(tmp_path / "out" / "plan.json") == pruned.plan
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == pruned.report
    run = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert run["secateur"]["model"] == str(wanted.model)
    assert run["secateur"]["keep"] == "params=60%,macs=70%"
    assert run["secateur"]["oneshot"]["score"] == "fisher"
    assert run["secateur"]["oneshot"]["seed"] == 3
    assert run["environment"]["secateur"] == secateur.__version__
    assert (run["environment"]["device"], run["environment"]["dtype"]) == ("cpu", "float32")


HEAR = """
import sys
import numpy as np, torch
import secateur
recognizer = secateur.load(sys.argv[1])
torch.save(recognizer.logits([np.load(sys.argv[2])])[0], sys.argv[3])
assert not [name for name in sys.modules if name.startswith("secateur.pruning")]
"""


def test_a_fresh_process_hears_the_same_without_the_pruner(
    settings: MakeSettings, speech: Path, tmp_path: Path
) -> None:
    pruned = prune(settings(), tmp_path / "out")
    wave = read_audio(speech / "3.wav", RATE)
    np.save(tmp_path / "wave.npy", wave)
    places = [tmp_path / name for name in ("out", "wave.npy", "logits.pt")]
    subprocess.run([sys.executable, "-c", HEAR, *map(str, places)], check=True)
    assert torch.equal(torch.load(places[2]), pruned.recognizer.logits([wave])[0])


def test_the_same_seed_gives_the_same_plan_and_weights(settings: MakeSettings, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        torch.manual_seed(len(name))
        prune(settings(score="fisher", seed=seed), tmp_path / name)
    one, again, other = (
        [(tmp_path / name / file).read_bytes() for file in ("plan.json", "model.safetensors")]
        for name in ("one", "again", "other")
    )
    assert one == again
    assert one != other


def test_word_error_rates_are_reported_before_and_after(
    settings: MakeSettings, speech: Path, model: Path
) -> None:
    pruned = prune(settings(valid=speech, valid_limit=4))
    report = pruned.report
    dense = secateur.evaluate(secateur.load(model), speech, limit=4)
    after = secateur.evaluate(pruned.recognizer, speech, limit=4)
    assert (report["before"]["wer"], report["after"]["wer"]) == (dense.wer, after.wer)
    assert report["before"]["utterances"] == report["after"]["utterances"] == 4
    assert report["comparison"]["difference"] == pytest.approx(after.wer - dense.wer)
    assert "wer" not in prune(settings()).report["after"]


def test_the_dense_recogniser_stays_as_it_was(settings: MakeSettings, model: Path) -> None:
    recognizer = secateur.load(model)
    before = {name: tensor.clone() for name, tensor in recognizer.model.state_dict().items()}
    prune(settings(), recognizer=recognizer)
    now = recognizer.model.state_dict()
    assert now.keys() == before.keys()
    assert all(torch.equal(now[name], before[name]) for name in before)


def test_a_pruned_model_can_be_pruned_further(settings: MakeSettings, tmp_path: Path) -> None:
    first = prune(settings("params=70%"), tmp_path / "first")
    second = prune(settings("params=50%", model=tmp_path / "first"), tmp_path / "second")
    assert second.report["before"]["params"] == first.report["after"]["params"]
    assert secateur.load(tmp_path / "second").model.num_parameters() == second.report["after"]["params"]


@pytest.mark.parametrize("score", ["fisher", "obs"])
@pytest.mark.parametrize("family", ["parakeet", "wav2vec2"])
def test_other_families_are_pruned_the_same_way(
    make_recognizer: MakeRecognizer,
    settings: MakeSettings,
    tmp_path: Path,
    speech: Path,
    family: str,
    score: str,
) -> None:
    recognizer = make_recognizer(family, width=32, units=64)
    recognizer.model.float()
    pruned = prune(settings("params=70%", score, model=family), tmp_path / "out", recognizer=recognizer)
    assert pruned.report["kept"]["params"] <= 0.7
    wave = read_audio(speech / "1.wav", RATE)
    assert torch.equal(secateur.load(tmp_path / "out").logits([wave])[0], pruned.recognizer.logits([wave])[0])


def test_settings_of_the_groups_are_heeded(settings: MakeSettings) -> None:
    pruned = prune(settings("params=50%", scope=Scope(multiple_of=8, min_heads=2)))
    units = pruned.report["units"]
    assert all(units[name][0] >= 2 for name in units if name.endswith(".heads"))
    assert all(
        kept % 8 == 0 or kept == size for name, (kept, size) in units.items() if name.endswith(".units")
    )


def test_unreadable_speech_is_counted_and_named(settings: MakeSettings, speech: Path, tmp_path: Path) -> None:
    for file in speech.glob("*.wav"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    skips, all_of_it = SkipLog(), OneShot("magnitude", 0.05, reconstruct_minutes=10.0, reconstruct_steps=0)
    report = prune(settings(data=tmp_path, oneshot=all_of_it), skips=skips).report
    assert report["skipped"] == 1
    assert "broken.wav" in skips.summary()


def test_an_earlier_result_is_replaced(settings: MakeSettings, tmp_path: Path) -> None:
    prune(settings("params=80%"), tmp_path / "out")
    (tmp_path / "out" / "test.jsonl").touch()
    second = prune(settings("params=60%"), tmp_path / "out")
    assert "test.jsonl" not in names(tmp_path / "out")
    assert PruningPlan.load(tmp_path / "out" / "plan.json") == second.plan
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("how", ["another utterance", "Ctrl-C", "no memory"])
def test_what_was_pruned_in_one_shot_is_not_lost_with_its_figures(
    settings: MakeSettings, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    own, out = tmp_path / "valid", tmp_path / "out"
    shutil.copytree(speech, own)
    whole = prune(settings(valid=own))

    def pruned(*arguments: Any) -> Any:
        made = oneshot.prune_oneshot(*arguments)
        if how in failures:
            monkeypatch.setattr(room, "evaluate", stopped)
        else:
            next(own.glob("*.wav")).unlink()
        return made

    def stopped(*_: object, **__: object) -> None:
        raise failures[how]

    failures = {"Ctrl-C": KeyboardInterrupt(), "no memory": MemoryError("not so much")}
    said = "not so much" if how == "no memory" else "the pruned model is in .*out all the same"
    monkeypatch.setattr(room, "prune_oneshot", pruned)
    with pytest.raises((SecateurError, KeyboardInterrupt, MemoryError), match=said):
        prune(settings(valid=own), out)
    assert PruningPlan.load(out / "plan.json") == whole.plan
    report = json.loads((out / "report.json").read_text())
    assert report["kept"] == whole.report["kept"]
    assert "wer" not in report["before"]
    run_page(out)


def nothing_there(folder: Path) -> dict[str, object]:
    return {"data": folder / "nowhere"}


def empty_folder(folder: Path) -> dict[str, object]:
    (folder / "empty").mkdir()
    return {"data": folder / "empty"}


def no_audio(folder: Path) -> dict[str, object]:
    (folder / "a.wav").write_bytes(b"RIFF")
    return {"data": folder}


def no_transcripts(folder: Path) -> dict[str, object]:
    soundfile.write(folder / "a.wav", np.zeros(RATE), RATE)
    return {"valid": folder}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (nothing_there, "nowhere does not exist"),
        (empty_folder, "holds no audio file"),
        (no_audio, "nothing to hear"),
        (no_transcripts, "has no transcript"),
        (lambda _: {"model": "nowhere.nemo"}, "nowhere.nemo does not exist"),
        (lambda _: {"keep": "half of it"}, "'half of it'"),
        (lambda _: {"keep": "params=3"}, "params=3 has no unit"),
        (
            lambda _: {"keep": "params=0.1%"},
            r"cannot be met: params=.* \(.*%\) would stay if all went that can$",
        ),
        (
            lambda _: {"keep": "params=50%,macs=0.01%"},
            "cannot be met: params=.*, macs=.*%. would stay if all",
        ),
    ],
    ids=[
        "no data",
        "no files",
        "no audio",
        "no transcripts",
        "no model",
        "no limit",
        "no unit",
        "params",
        "macs",
    ],
)
def test_a_wrong_request_is_one_sentence_and_leaves_nothing(
    settings: MakeSettings,
    tmp_path: Path,
    change: Callable[[Path], dict[str, object]],
    said: str,
) -> None:
    changed = change(tmp_path)
    before = names(tmp_path)
    with pytest.raises(SecateurError, match=said) as caught:
        prune(settings(**changed), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before


def test_the_smallest_possible_budget_that_is_named_is_possible(settings: MakeSettings) -> None:
    def named(budget: str, said: str) -> float:
        with pytest.raises(SecateurError, match=f"cannot be met: .*{said}") as caught:
            prune(settings(budget))
        return float(str(caught.value).rpartition("(")[2].partition("%")[0])

    # Before the work less is known than after it: a layer must stay, and scores say which.
    bound = named("params=0.1%", "would stay")
    smallest = named(f"params={bound * 1.01}%", "the smallest possible here is")
    prune(settings(f"params={smallest * 1.01}%"))
    with pytest.raises(SecateurError, match="cannot be met"):
        prune(settings(f"params={smallest * 0.99}%"))


def test_utterances_that_changed_are_quoted_the_most_harmed_first_and_the_most_mended_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def heard(*errors: int) -> Any:
        rows = [
            SimpleNamespace(
                id=str(number), seconds=1.0, reference="a", hypothesis="b", words=SimpleNamespace(errors=each)
            )
            for number, each in enumerate(errors)
        ]
        return SimpleNamespace(rows=rows)

    def quoted() -> list[tuple[str, list[int]]]:
        changed = report._changed(heard(1, 1, 1, 5, 2), heard(4, 2, 1, 0, 1))
        return [(row["id"], row["errors"]) for row in changed]

    assert quoted() == [("0", [1, 4]), ("1", [1, 2]), ("4", [2, 1]), ("3", [5, 0])]
    monkeypatch.setattr(report, "CHANGED", 1)
    assert quoted() == [("0", [1, 4]), ("3", [5, 0])]


def test_unknown_methods_and_scores_are_refused(model: Path, speech: Path) -> None:
    with pytest.raises(SecateurError, match="no score 'luck'; choose one of"):
        OneShot(score="luck")
    with pytest.raises(SecateurError, match="no method 'scissors'; choose one of"):
        PruneSettings(model, speech, "params=50%", method="scissors")


def test_a_folder_that_holds_something_else_is_refused_before_the_work(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "load", lambda _: pytest.fail("it was loaded"))
    (tmp_path / "thesis.tex").touch()
    for place in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(SecateurError, match="give a new or an empty folder"):
            prune(settings(), place)
    assert names(tmp_path) == ["thesis.tex"]


def test_speech_without_transcripts_is_refused_before_the_work(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "prune_oneshot", lambda *_: pytest.fail("it was pruned"))
    with pytest.raises(SecateurError, match="has no transcript"):
        prune(settings(**no_transcripts(tmp_path)))


@pytest.mark.parametrize("score", ["latent", "layerdrop", "depth"])
def test_what_whole_modules_or_layers_cannot_meet_is_refused_before_the_work(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, score: str
) -> None:
    monkeypatch.setattr(room, "prune_oneshot", lambda *_: pytest.fail("it was pruned"))
    with pytest.raises(SecateurError, match="would stay if all went that can"):
        prune(settings("params=1%", score=score))


def test_what_is_beyond_the_limit_is_not_validated_on_either(
    settings: MakeSettings, speech: Path, tmp_path: Path
) -> None:
    """The last utterance has no transcript, and nobody asked for it."""
    shutil.copytree(speech, tmp_path / "valid")
    (tmp_path / "valid" / "5.txt").unlink()
    learned = Learned(steps=2, phases=("recover",), batch_seconds=2.0, validations=1)
    wanted = settings(method="learned", learned=learned, valid=tmp_path / "valid", valid_limit=3)
    assert prune(wanted).report["after"]["utterances"] == 3


def test_a_seed_below_nothing_is_refused_before_the_work() -> None:
    with pytest.raises(SecateurError, match="the seed is -3; give one of 0 to 4294967295"):
        OneShot(seed=-3)


def test_a_model_without_a_table_is_refused(settings: MakeSettings, make_recognizer: MakeRecognizer) -> None:
    recognizer = make_recognizer("conformer", layers=1)
    recognizer.model.config.subsampling = "stacking"
    with pytest.raises(SecateurError, match="a ConformerForCTC can be .* and not pruned"):
        prune(settings(), recognizer=recognizer)


def test_what_was_pruned_is_pruned_on(settings: MakeSettings, tmp_path: Path) -> None:
    """Each time columns of the table of positions go, which a layer remembers once it has read them."""
    first = prune(settings("params=70%", score="obs"), tmp_path / "first")
    second = prune(settings("params=50%", score="obs", model=tmp_path / "first"))
    kept = [
        {name: count for name, count in pruned.plan.counts().items() if name.endswith(".positions")}
        for pruned in (first, second)
    ]
    assert kept[0].keys() & kept[1].keys()
    parameters = counting.parameters(first.recognizer.model)
    assert counting.parameters(second.recognizer.model) <= 0.5 * parameters


def test_the_plan_of_another_model_is_refused(
    settings: MakeSettings, make_recognizer: MakeRecognizer, tmp_path: Path
) -> None:
    prune(settings(), tmp_path / "out")
    other = find_groups(make_recognizer("conformer", layers=3).model)
    with pytest.raises(
        SecateurError, match=r"plan.json was made for a 2-layer conformer .* 3-layer conformer"
    ) as caught:
        PruningPlan.load(tmp_path / "out" / "plan.json", other)
    assert "\n" not in str(caught.value)


def test_a_damaged_plan_is_refused(settings: MakeSettings, tmp_path: Path) -> None:
    prune(settings(), tmp_path / "out")
    plan = tmp_path / "out" / "plan.json"
    text = plan.read_text()
    for damaged in (
        text[: len(text) // 2],
        text.replace(" of ", " from "),
        text.replace('"version": 1', '"version": 9'),
    ):
        plan.write_text(damaged)
        with pytest.raises(SecateurError, match="plan.json is (damaged|of version 9)") as caught:
            PruningPlan.load(plan)
        assert "\n" not in str(caught.value)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 50 kB, which is less than the weights take."""
    resource = pytest.importorskip("resource", reason="this system has no limits on files")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    settings: MakeSettings, tmp_path: Path, full_disk: None
) -> None:
    with pytest.raises(SecateurError, match="out cannot be written: ") as caught:
        prune(settings("params=80%"), tmp_path / "deep" / "out")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("out*"))


@pytest.mark.parametrize("where", ["reconstruct", "write_beside"])
def test_an_interruption_keeps_the_earlier_result_and_nothing_else(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    first = prune(settings("params=80%"), tmp_path / "out")
    monkeypatch.setattr(oneshot if where == "reconstruct" else room, where, interrupt)
    for place in ("out", "new"):
        with pytest.raises(KeyboardInterrupt):
            prune(settings(), tmp_path / place)
    assert names(tmp_path) == ["out"]
    assert PruningPlan.load(tmp_path / "out" / "plan.json") == first.plan
