"""Training from scratch on a language of three words: it is learned, kept, gone on with, and refused where it cannot be."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

import secateur
from secateur.errors import SecateurError
from secateur.progress import ProgressBar
from secateur.pruning.oneshot import OneShot
from secateur.pruning.settings import PruneSettings
from secateur.recognizer import Recognizer, load
from secateur.runs import SECTION
from secateur.speech.audio import read_audio
from secateur.speech.skips import SkipLog
from secateur.supervised.beginning import going_on, with_vocabulary
from secateur.supervised.objective import Transcription
from secateur.supervised.pieces import find_pieces
from secateur.supervised.settings import SIZES, TrainSettings
from secateur.supervised.train import Trained, _parameters, train
from secateur.training import trainer
from secateur.training.feed import Batch
from secateur.training.precision import Working

# What the module makes once is made once only if all of it runs in one process.
pytestmark = pytest.mark.xdist_group("train")


def settings(data: Path | str, **others: object) -> TrainSettings:
    toy = TrainSettings(
        data, size="toy", vocabulary=12, steps=70, rate=5e-3, batch_seconds=12.0, dropout=0.0,
        augment="none", precision="float32", validations=2,
    )  # fmt: skip
    return toy.changed(others)


def texts(recognizer: Recognizer, folder: Path) -> list[str]:
    waves = [read_audio(path, recognizer.sample_rate) for path in sorted(folder.glob("*.wav"))]
    return [transcript.text for transcript in recognizer.transcribe_batch(waves)]


def references(folder: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("result") / "out"


@pytest.fixture(scope="module")
def learned(speech: Path, valid: Path, result: Path) -> Trained:
    return train(settings(speech, valid=valid), result)


def test_a_language_of_three_words_is_learned(learned: Trained, speech: Path, valid: Path) -> None:
    losses = [row["loss"] for row in learned.report["history"]["train"] if "loss" in row]
    assert losses[0] > 2
    assert losses[-1] < 0.2
    assert texts(learned.recognizer, speech) == references(speech)
    assert learned.report["valid"]["wer"] < 0.2


def test_what_is_loaded_hears_what_was_trained(learned: Trained, result: Path, valid: Path) -> None:
    loaded = secateur.load(result)
    assert texts(loaded, valid) == texts(learned.recognizer, valid)
    assert loaded.blank == len(loaded.tokenizer) - 1 == learned.report["vocabulary"]
    for name, tensor in learned.recognizer.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name


def test_training_goes_on_from_what_was_learned(learned: Trained, result: Path, speech: Path) -> None:
    more = train(TrainSettings(speech, init=result, steps=2, rate=1e-4, batch_seconds=12.0, augment="none"))
    losses = [row["loss"] for row in more.report["history"]["train"]]
    assert max(losses) < 0.3
    assert more.report["shape"] == learned.report["shape"]
    assert more.recognizer.tokenizer.get_vocab() == learned.recognizer.tokenizer.get_vocab()
    assert texts(more.recognizer, speech) == references(speech)


def test_a_model_learns_to_write_with_other_pieces(learned: Trained, result: Path, speech: Path) -> None:
    more = train(
        TrainSettings(speech, init=result, vocabulary=16, steps=1, batch_seconds=12.0, augment="none")
    )
    assert more.report["vocabulary"] == len(more.recognizer.tokenizer) - 1 > learned.report["vocabulary"]
    assert more.recognizer.blank == more.report["vocabulary"]
    kept, before = more.recognizer.model.state_dict(), learned.recognizer.model.state_dict()
    assert {name for name in before if kept[name].shape != before[name].shape} == {
        "ctc_head.weight",
        "ctc_head.bias",
    }
    # The encoder is where it was but for one small step.
    assert all(
        torch.allclose(kept[name], before[name], atol=0.05)
        for name in before
        if name.startswith("encoder") and ".norm.running" not in name and "num_batches" not in name
    )


@pytest.mark.usefixtures("learned")
def test_what_a_trained_model_goes_on_with_sounds_different_from_the_first_epoch_on(
    result: Path, speech: Path
) -> None:
    asked = TrainSettings(speech, init=result, steps=1, batch_seconds=12.0)
    losses = [
        train(replace(asked, clean_epochs=epochs)).report["history"]["train"] for epochs in (None, 0, 1)
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.usefixtures("learned")
def test_dropout_is_what_is_asked_for_or_what_the_model_has(result: Path) -> None:
    def rates(dropout: float | None) -> set[float]:
        model = going_on(result, "cpu", dropout).model
        config = model.config
        found = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
        return {config.dropout, config.attention_dropout, *found}

    assert rates(None) == {0.0}
    assert rates(0.2) == {0.2}


@pytest.mark.usefixtures("learned")
def test_with_the_pieces_that_it_had_a_model_writes_what_it_wrote(result: Path, speech: Path) -> None:
    begun = load(result)
    had = [piece for piece, _ in sorted(begun.tokenizer.get_vocab().items(), key=lambda entry: entry[1])][:-1]
    weight, bias = (
        each.detach().clone() for each in (begun.model.ctc_head.weight, begun.model.ctc_head.bias)
    )
    again = with_vocabulary(begun, *find_pieces(references(speech), len(had)), seed=0)
    assert again.tokenizer.get_vocab() == begun.tokenizer.get_vocab()
    assert torch.equal(again.model.ctc_head.weight, weight)
    assert torch.equal(again.model.ctc_head.bias, bias)


@pytest.mark.usefixtures("learned")
def test_new_pieces_are_as_likely_together_as_the_piece_was_that_they_end_with(
    result: Path, speech: Path
) -> None:
    begun = load(result)
    had, old = begun.tokenizer.get_vocab(), copy.deepcopy(begun.model.ctc_head)
    more = with_vocabulary(begun, *find_pieces(references(speech), len(had) + 4), seed=0)
    new, head = more.tokenizer.get_vocab(), more.model.ctc_head
    assert len(new) > len(had)
    by_end: dict[str, list[int]] = {}
    for piece, row in new.items():
        end = piece if piece in had else max((tail for tail in had if piece.endswith(tail)), key=len)
        by_end.setdefault(end, []).append(row)
    assert any(len(rows) > 1 for rows in by_end.values())
    for end, rows in by_end.items():
        assert torch.equal(head.weight[rows], old.weight[had[end]].expand(len(rows), -1))
        assert float(head.bias[rows].logsumexp(0)) == pytest.approx(float(old.bias[had[end]]), abs=1e-5)


def test_words_that_a_model_has_no_letters_for_are_refused(
    learned: Trained, result: Path, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    (tmp_path / "a.txt").write_text("quiz", encoding="utf-8")
    with pytest.raises(SecateurError, match="cannot write 'q', which is in the transcripts"):
        train(TrainSettings(tmp_path, init=result, steps=1))


def test_a_run_that_goes_on_writes_with_the_pieces_that_it_began_with(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, out = tmp_path / "speech", tmp_path / "out"
    shutil.copytree(speech, heard)
    asked = settings(str(heard), steps=1, vocabulary=20)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("secateur.supervised.train._learned", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(asked, out)
    letters = sorted({*"".join(references(heard))} - {" "})
    soundfile.write(heard / "more.wav", np.zeros(16000), 16000)
    (heard / "more.txt").write_text(letters[0], encoding="utf-8")
    with pytest.raises(SecateurError, match="the speech has changed since it began"):
        train(asked, out)
    for more in heard.glob("more.*"):
        more.unlink()
    # What is said in it is not looked at.
    for spoken in heard.glob("*.txt"):
        spoken.write_text(letters[0] * 3 + " " + letters[-1] * 3, encoding="utf-8")
    vocabulary = train(asked, out).recognizer.tokenizer.get_vocab()
    pieces = [piece for piece, _ in sorted(vocabulary.items(), key=lambda entry: entry[1])][:-1]
    assert pieces == find_pieces(references(speech), 20)[0]
    assert pieces != find_pieces(references(heard), 20)[0]


@pytest.mark.usefixtures("learned")
def test_a_step_that_is_not_taken_leaves_no_trace_in_the_norms(result: Path, speech: Path) -> None:
    recognizer = load(result, dtype=torch.float32)
    objective = Transcription(recognizer, Working(recognizer.model, None), seed=0)
    inputs = recognizer.prepare([np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)])
    inputs["input_features"] *= torch.inf
    before = {name: buffer.clone() for name, buffer in recognizer.model.named_buffers()}
    loss, _ = objective.loss(Batch(0, inputs, references(speech)[:1], 1.0, None), 0.0)
    assert not torch.isfinite(loss)
    objective.skipped()
    for name, buffer in recognizer.model.named_buffers():
        if buffer.is_floating_point():
            assert torch.equal(buffer, before[name]), name


def test_a_pruned_model_is_not_trained_on(
    learned: Trained, result: Path, speech: Path, tmp_path: Path
) -> None:
    asked = PruneSettings(result, data=speech, keep="params=80%", method="oneshot",
                          oneshot=OneShot(score="magnitude", reconstruct_minutes=0))  # fmt: skip
    secateur.prune(asked, tmp_path / "pruned")
    with pytest.raises(SecateurError, match="from unpruned Conformer-CTC models only"):
        train(TrainSettings(speech, init=tmp_path / "pruned", steps=1))


def test_a_result_tells_what_it_is_and_how_to_make_it_again(
    learned: Trained, result: Path, speech: Path, valid: Path
) -> None:
    report = json.loads((result / "report.json").read_text())
    assert report == learned.report
    assert report["params"] == sum(p.numel() for p in learned.recognizer.model.parameters())
    assert (report["utterances"], report["left_out"], report["steps"]) == (16, 0, 70)
    assert report["heard_seconds"] > report["audio_seconds"]
    assert sum(part["params"] for part in report["kinds"]) == report["params"]
    # After half of the steps and after all; of an untrained model there is nothing to know.
    assert [row["step"] for row in report["history"]["train"] if "WER" in row] == [35, 70]
    assert TrainSettings.from_yaml(result / "run.yaml") == settings(str(speech), valid=str(valid))
    assert list(result.parent.iterdir()) == [result]


def test_norms_learn_the_statistics_of_speech_whatever_training_computes_in(speech: Path) -> None:
    for precision in ("float32", "bfloat16"):
        trained = train(settings(speech, steps=3, precision=precision))
        norm = trained.recognizer.model.encoder.layers[0].conv.norm
        assert int(norm.num_batches_tracked) == 3
        assert norm.running_var.dtype == torch.float32
        assert not torch.equal(norm.running_var, torch.ones(32))
        assert {p.dtype for p in trained.recognizer.model.parameters()} == {torch.float32}


class Killed(BaseException):
    """What no code of ours catches, as SIGKILL."""


class Deadly(ProgressBar):
    """Kills the run within that step."""

    def __init__(self, step: int) -> None:
        super().__init__("", quiet=True)
        self.left = step

    def advance(self, steps: float = 1, *, audio_seconds: float = 0.0, **figures: object) -> None:
        if "loss" in figures:
            self.left -= 1
            if not self.left:
                raise Killed


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(
    speech: Path, valid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", float("inf"))
    wanted = settings(
        speech, valid=valid, steps=8, dropout=0.1, augment="all", clean_epochs=0, precision="bfloat16"
    )
    whole = train(wanted)
    out, told = tmp_path / "out", []
    for step in (2, 4):  # The second of the whole run, and the fourth of what was left of it.
        with pytest.raises(Killed):
            train(wanted, out, progress=Deadly(step))
    with pytest.raises(SecateurError, match=r"unfinished run with other settings \(rate was 0.005, is 0.1\)"):
        train(replace(wanted, rate=0.1), out)
    resumed = train(wanted, out, tell=told.append)
    assert told == [f"going on with the run in {out}.unfinished"]
    assert resumed.report["history"] == whole.report["history"]
    for name, tensor in whole.recognizer.model.state_dict().items():
        assert torch.equal(resumed.recognizer.model.state_dict()[name], tensor), name
    assert list(tmp_path.iterdir()) == [out]


def test_an_average_is_of_weights_that_the_rate_never_fell_for(
    learned: Trained, result: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[float, dict[str, torch.Tensor]]] = []
    step = trainer.Trainer.step

    def watched(self: trainer.Trainer, batch: Batch) -> None:
        step(self, batch)
        rate = self.optimizers[0].param_groups[0]["lr"]
        steps.append((rate, self.objective.model_state()))

    monkeypatch.setattr(trainer.Trainer, "step", watched)
    wanted = settings(speech, init=str(result), steps=8, average=True, warm_up=1, rate=1e-3)
    averaged = train(wanted).recognizer.model.state_dict()
    assert [rate for rate, _ in steps] == [1e-3] * 8
    assert not torch.equal(steps[-1][1]["ctc_head.weight"], averaged["ctc_head.weight"])
    for name, tensor in averaged.items():
        if tensor.is_floating_point():
            mean = torch.stack([state[name] for _, state in steps[2:]]).mean(dim=0)
            torch.testing.assert_close(tensor, mean, msg=name)


@pytest.mark.parametrize(
    ("chosen", "init", "by_muon"),
    [(None, False, True), ("adamw", False, False), (None, True, False), ("muon", True, True)],
)
def test_muon_moves_the_matrices_of_layers_where_it_should(
    learned: Trained, result: Path, *, chosen: str | None, init: bool, by_muon: bool
) -> None:
    working = Working(learned.recognizer.model, None)
    wanted = settings("speech", optimizer=chosen, init=str(result) if init else None)
    rest, *matrices = _parameters(wanted, working)
    assert rest["lr"] == wanted.rate
    names = {id(tensor): name for name, tensor in working.model.named_parameters()}
    assert sorted(names) == sorted(id(tensor) for group in (rest, *matrices) for tensor in group["params"])
    if by_muon:
        (group,) = matrices
        assert group["lr"] == 2 * wanted.rate
        moved = {names[id(tensor)] for tensor in group["params"]}
        assert all(tensor.dim() == 2 for tensor in group["params"])
        assert "encoder.layers.0.feed_forward1.linear1.weight" in moved
        assert not {"ctc_head.weight", "encoder.layers.0.feed_forward1.linear1.bias"} & moved
    else:
        assert not matrices


def test_what_cannot_be_learned_from_is_left_out_and_counted(speech: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(speech, data)
    (data / "0.txt").unlink()
    (data / "1.txt").write_text("...", encoding="utf-8")
    soundfile.write(data / "long.wav", np.zeros(20 * 16000), 16000)
    (data / "long.txt").write_text("low", encoding="utf-8")
    (data / "broken.wav").write_bytes(b"RIFF")
    (data / "broken.txt").write_text("high", encoding="utf-8")
    told: list[str] = []
    skips = SkipLog()
    report = train(settings(data, steps=1), tell=told.append, skips=skips).report
    assert told == ["left out 3 utterances: 2 without a transcript, 1 longer than a batch of 12 s"]
    assert (report["utterances"], report["left_out"], report["skipped"]) == (14, 3, 1)


def test_words_are_learned_as_error_rates_compare_them(speech: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(speech, data)
    for path in data.glob("*.txt"):
        path.write_text(path.read_text().upper().replace(" ", ", ") + ".", encoding="utf-8")
    shouted = train(settings(data, steps=1)).recognizer
    plain = train(settings(speech, steps=1)).recognizer
    assert shouted.tokenizer.get_vocab() == plain.tokenizer.get_vocab()


def test_speech_to_measure_on_that_is_not_there_is_refused_before_the_work(
    speech: Path, tmp_path: Path
) -> None:
    lines = [{"audio_filepath": f"{number}.wav", "text": "a word"} for number in range(11)]
    manifest = tmp_path / "valid.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(
        SecateurError, match="too much of the data has to be left out .skipped 11 of 11: .*0.wav"
    ):
        train(settings(speech, valid=manifest), tmp_path / "out")
    # Fewer than are skipped without a word are all that there is.
    manifest.write_text(json.dumps(lines[0]) + "\n", encoding="utf-8")
    with pytest.raises(SecateurError, match="0.wav"):
        train(settings(speech, valid=manifest), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_text_that_its_audio_cannot_hold_counts_for_nothing_and_is_told(speech: Path, tmp_path: Path) -> None:
    folder, told = tmp_path / "speech", list[str]()
    shutil.copytree(speech, folder)
    (folder / "0.txt").write_text("low high " * 50, encoding="utf-8")
    train(settings(folder, steps=1), tell=told.append)
    assert any("1 of" in sentence and "more text than their audio can hold" in sentence for sentence in told)


def test_speech_without_any_transcript_is_refused(speech: Path, tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    silent.mkdir()
    shutil.copy(speech / "0.wav", silent)
    with pytest.raises(
        SecateurError, match="has nothing to learn from .*1 without a transcript.*give transcribed speech"
    ):
        train(settings(silent), tmp_path / "out")
    with pytest.raises(SecateurError, match="0.wav has no transcript to measure on"):
        train(settings(speech, valid=silent), tmp_path / "out")
    assert list(tmp_path.iterdir()) == [silent]


def test_speech_of_moments_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "click.wav", np.ones(1600), 16000)
    (tmp_path / "click.txt").write_text("click", encoding="utf-8")
    with pytest.raises(SecateurError, match="no speech of 0.3 s or more"):
        train(settings(tmp_path))


def test_a_vocabulary_smaller_than_the_alphabet_is_refused(speech: Path) -> None:
    with pytest.raises(
        SecateurError, match="a vocabulary of 4 pieces cannot hold the 10 characters of the transcripts"
    ):
        train(settings(speech, vocabulary=4))


def test_a_folder_that_holds_something_is_not_replaced(speech: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SecateurError, match="is not empty: give a new or an empty folder"):
        train(settings(speech), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"size": "huge"}, "there is no size 'huge'; choose one of tiny, small"),
        ({"width": 100, "heads": 3}, "a width of 100 does not go with 3 heads"),
        ({"width": 99, "heads": 3}, "a width of 99 does not go with 3 heads"),
        ({"layers": 0}, "layers is 0; give a finite number above 0"),
        ({"minutes": float("nan")}, "minutes is nan; give a finite number above 0"),
        ({"dropout": 1.0}, "dropout is 1.0; give 0 or more, and less than 1"),
        ({"precision": "int8"}, "there is no precision 'int8'"),
        ({"seed": -1}, "the seed is -1; give one of 0 to"),
        ({"augment": "echo"}, "there is no augmentation 'echo'; give speeds, masks, all, none"),
        ({"optimizer": "sgd"}, "there is no optimizer 'sgd'; give muon or adamw"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(SecateurError, match=said):
        TrainSettings("speech", **values)


def test_a_file_of_settings_may_say_little_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({SECTION: {"data": "synthetic", "rate": "1e-3"}}), encoding="utf-8")
    assert TrainSettings.from_yaml(path) == TrainSettings("synthetic", rate=1e-3)
    path.write_text(yaml.safe_dump({SECTION: {"data": "synthetic", "keep": "params=50%"}}), encoding="utf-8")
    with pytest.raises(SecateurError, match="keep is 'params=50%', but there is no such setting"):
        TrainSettings.from_yaml(path)


def test_dimensions_that_are_given_stand_in_for_those_of_the_size() -> None:
    assert TrainSettings("speech").shape == SIZES["tiny"]
    assert TrainSettings("speech", layers=6, width=64).shape == replace(SIZES["tiny"], layers=6, width=64)
