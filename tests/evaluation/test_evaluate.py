"""Evaluating a recogniser on a corpus, and comparing two evaluations."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console

from secateur.decoding import Transcript
from secateur.errors import SecateurError
from secateur.evaluation.comparison import compare
from secateur.evaluation.error_rate import Counts, total
from secateur.evaluation.evaluate import evaluate
from secateur.models.conformer import ConformerConfig, ConformerForCTC
from secateur.progress import ProgressBar
from secateur.recognizer import load
from secateur.speech.corpus import open_corpus
from secateur.speech.skips import SkipLog
from secateur.structure import counting

SPOKEN = {"long": "IT WAS THE BEST OF TIMES", "mid": "It was, the worst", "tiny": "yes"}
HEARD = {"long": "it was the rest of times", "mid": "it was the worst", "tiny": "oh yes"}
SECONDS = {"tiny": 0.2, "mid": 0.5, "long": 0.9}


class ScriptedRecognizer:
    """Runs a tiny model, and says of each waveform what its length stands for."""

    sample_rate = 8000

    def __init__(self, heard: dict[str, str]) -> None:
        self.heard = heard
        self.model = ConformerForCTC(
            ConformerConfig(
                vocab_size=5,
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=8,
                subsampling_conv_channels=4,
            )
        ).eval()

    @torch.inference_mode()
    def transcribe_batch(self, waveforms):
        self.model(torch.zeros(len(waveforms), 16, self.model.config.num_mel_bins))
        names = {round(seconds * self.sample_rate): name for name, seconds in SECONDS.items()}
        return [
            Transcript(self.heard[names[len(wave)]], len(wave) / self.sample_rate, confidence=0.5)
            for wave in waveforms
        ]


@pytest.fixture
def folder(tmp_path):
    speech = tmp_path / "speech"
    speech.mkdir()
    for name, seconds in SECONDS.items():
        soundfile.write(speech / f"{name}.wav", np.zeros(round(seconds * 8000)), 8000)
        (speech / f"{name}.txt").write_text(SPOKEN[name])
    return speech


def test_the_figures_are_those_counted_by_hand(folder):
    evaluation = evaluate(ScriptedRecognizer(HEARD), folder)
    # Of 11 words one is heard wrongly and one is added; of the 43 characters one, and three with the space.
    assert evaluation.words == Counts(hits=10, substitutions=1, insertions=1)
    assert evaluation.wer == 2 / 11
    assert evaluation.cer == 4 / (len("it was the best of times") + len("it was the worst") + len("yes"))
    assert evaluation.interval.low <= evaluation.wer <= evaluation.interval.high
    assert evaluation.utterances == 3
    assert evaluation.audio_seconds == pytest.approx(1.6)
    assert evaluation.skipped == 0
    assert evaluation.peak_memory_mb > 10


def test_cost_is_counted_on_the_model(folder):
    recognizer = ScriptedRecognizer(HEARD)
    evaluation = evaluate(recognizer, folder)
    assert evaluation.params == sum(parameter.numel() for parameter in recognizer.model.parameters())
    assert evaluation.macs_per_second == counting.macs(recognizer.model, 10.0) / 10


def test_rows_stand_in_the_order_of_the_corpus_whatever_the_batches(folder):
    several = evaluate(ScriptedRecognizer(HEARD), folder, batch_seconds=0.2)
    one = evaluate(ScriptedRecognizer(HEARD), folder, batch_seconds=100)
    assert [row.id for row in one.rows] == [utterance.id for utterance in open_corpus(folder)]
    assert one.rows == several.rows
    assert total(row.words for row in one.rows) == one.words


def test_time_in_the_model_is_part_of_the_time_of_the_whole(folder):
    recognizer = ScriptedRecognizer(HEARD)
    recognizer.model.ctc_head.register_forward_pre_hook(lambda *_: time.sleep(0.1))
    evaluation = evaluate(recognizer, folder, batch_seconds=0.2)
    assert 0.3 <= evaluation.model_seconds < evaluation.wall_seconds
    assert evaluation.rtf == evaluation.wall_seconds / evaluation.audio_seconds
    assert evaluation.rtf_model < evaluation.rtf
    assert len(recognizer.model._forward_hooks) == 0


def test_without_normalisation_case_and_commas_are_errors(folder):
    assert evaluate(ScriptedRecognizer(HEARD), folder, normalise="none").words.substitutions == 6 + 2


def test_a_limit_takes_the_first_utterances(folder):
    assert [row.id for row in evaluate(ScriptedRecognizer(HEARD), folder, limit=2).rows] == ["long", "mid"]
    with pytest.raises(SecateurError, match="limit of 0"):
        evaluate(ScriptedRecognizer(HEARD), open_corpus(folder), limit=0)


def test_a_limit_counts_utterances_wherever_it_is_said(folder):
    (folder / "long.txt").unlink()
    ways = (
        evaluate(ScriptedRecognizer(HEARD), folder, limit=2),
        evaluate(ScriptedRecognizer(HEARD), open_corpus(folder), limit=2),
        evaluate(ScriptedRecognizer(HEARD), open_corpus(folder, limit=2)),
    )
    assert [[row.id for row in each.rows] for each in ways] == [["mid"]] * 3
    assert [each.skipped for each in ways] == [1] * 3


def test_speech_without_transcripts_is_refused_by_name_and_a_way_out(folder):
    for text in folder.glob("*.txt"):
        text.unlink()
    with pytest.raises(
        SecateurError, match=r"long\.wav has no transcript to measure on: give transcribed speech"
    ):
        evaluate(ScriptedRecognizer(HEARD), folder)


def test_an_utterance_without_a_transcript_is_counted_and_the_rest_is_scored(folder):
    (folder / "mid.txt").unlink()
    skips = SkipLog()
    evaluation = evaluate(ScriptedRecognizer(HEARD), folder, skips=skips)
    assert [row.id for row in evaluation.rows] == ["long", "tiny"]
    assert "mid: has no transcript" in skips.summary()


def test_a_transcript_that_says_nothing_makes_what_is_heard_insertions(folder):
    (folder / "tiny.txt").write_text("")
    evaluation = evaluate(ScriptedRecognizer(HEARD), folder)
    assert evaluation.rows[-1].words == Counts(insertions=2)


def test_speech_in_which_no_word_is_said_has_no_word_error_rate(folder):
    for text in folder.glob("*.txt"):
        text.write_text(" - ")
    with pytest.raises(SecateurError, match="there is no word in the transcripts to measure on"):
        evaluate(ScriptedRecognizer(HEARD), folder)


def test_a_transcript_that_cannot_be_read_is_counted_and_the_rest_is_scored(folder):
    (folder / "mid.txt").write_bytes("déjà".encode("latin-1"))
    skips = SkipLog()
    evaluation = evaluate(ScriptedRecognizer(HEARD), folder, skips=skips)
    assert [row.id for row in evaluation.rows] == ["long", "tiny"]
    assert "mid.txt cannot be read as UTF-8 text" in skips.summary()


def test_what_cannot_be_read_is_counted_and_the_rest_is_scored(folder):
    (folder / "mid.wav").write_bytes(b"RIFF....WAVEnothing")
    skips, told = SkipLog(), list[str]()
    evaluation = evaluate(ScriptedRecognizer(HEARD), folder, skips=skips, tell=told.append)
    assert evaluation.skipped == skips.skipped == 1
    assert ["of the speech to measure on: skipped 1 of 3" in sentence for sentence in told] == [True]
    assert [row.id for row in evaluation.rows] == ["long", "tiny"]
    with pytest.raises(SecateurError, match="mid"):
        evaluate(ScriptedRecognizer(HEARD), folder, skips=SkipLog(limit=0, share=0))


def test_the_worst_utterances_come_first_and_those_without_errors_not_at_all(folder):
    assert [row.id for row in evaluate(ScriptedRecognizer(HEARD), folder).worst()] == ["tiny", "long"]


def test_progress_knows_how_many_utterances_there_are_and_shows_the_error_rate(folder):
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    with ProgressBar("evaluating", console=console) as bar:
        evaluate(ScriptedRecognizer(HEARD), folder, progress=bar)
        assert bar.total == 3
    assert "WER 18.18%" in console.file.getvalue()


def test_json_holds_every_figure(folder):
    figures = json.loads(json.dumps(evaluate(ScriptedRecognizer(HEARD), folder).to_json(), allow_nan=False))
    assert figures["wer"] == 2 / 11
    assert figures["cer"] == 4 / 43
    assert figures["utterances"] == 3
    assert {
        "audio_seconds",
        "rtf",
        "rtf_model",
        "params",
        "macs_per_second",
        "peak_memory_mb",
    } < figures.keys()
    assert figures["worst"][0]["id"] == "tiny"


def test_jsonl_holds_a_row_for_each_utterance(folder, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("old")
    evaluate(ScriptedRecognizer(HEARD), folder).write_jsonl(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0] == {
        "id": "long",
        "reference": "it was the best of times",
        "hypothesis": "it was the rest of times",
        "seconds": 0.9,
        "confidence": 0.5,
        "words": 6,
        "errors": 1,
        "substitutions": 1,
        "deletions": 0,
        "insertions": 0,
    }
    assert len(rows) == 3
    assert sorted(item.name for item in tmp_path.iterdir()) == ["rows.jsonl", "speech"]


def test_jsonl_that_cannot_be_written_is_an_error_that_names_the_file(folder, tmp_path):
    evaluation = evaluate(ScriptedRecognizer(HEARD), folder)
    with pytest.raises(
        SecateurError, match=r"nowhere/rows\.jsonl cannot be written: No such file or directory"
    ):
        evaluation.write_jsonl(tmp_path / "nowhere" / "rows.jsonl")


def test_a_failing_disk_leaves_the_old_file_and_no_partial_one(folder, tmp_path, monkeypatch):
    evaluation = evaluate(ScriptedRecognizer(HEARD), folder)
    path = tmp_path / "rows.jsonl"
    path.write_text("old")

    def full(self, *_, **__):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SecateurError, match="No space left on device"):
        evaluation.write_jsonl(path)
    assert path.read_text() == "old"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["rows.jsonl", "speech"]


def test_two_evaluations_are_compared_by_both_tests(folder):
    first = evaluate(ScriptedRecognizer(HEARD), folder)
    second = evaluate(ScriptedRecognizer(SPOKEN), folder)
    comparison = compare(first, second)
    assert comparison.difference == first.wer - second.wer == 2 / 11
    assert comparison.matched_pairs.segments == 2
    assert compare(first, first).bootstrap.p == compare(first, first).matched_pairs.p == 1
    figures = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert figures["wer"] == [2 / 11, 0]
    assert figures["mapsswe"]["segments"] == 2


def test_evaluations_of_different_utterances_are_not_compared(folder):
    first = evaluate(ScriptedRecognizer(HEARD), folder)
    with pytest.raises(SecateurError, match=r"3 utterances .* 2 "):
        compare(first, evaluate(ScriptedRecognizer(HEARD), folder, limit=2))
    with pytest.raises(SecateurError, match="'none'"):
        compare(first, evaluate(ScriptedRecognizer(HEARD), folder, normalise="none"))
    (folder / "mid.txt").write_text("something else")
    with pytest.raises(SecateurError, match="'mid' and 'mid'"):
        compare(first, evaluate(ScriptedRecognizer(HEARD), folder))


def test_the_real_recogniser_hears_real_speech(shared):
    recognizer = load(shared / "models" / "conformer-ctc-small.nemo")
    corpus = open_corpus(shared / "data" / "librispeech" / "valid" / "1919")
    evaluation = evaluate(recognizer, corpus, limit=6, batch_seconds=30)
    assert evaluation.utterances == 6
    assert evaluation.wer < 0.12
    assert evaluation.cer < evaluation.wer
    assert round(evaluation.params / 1e6, 2) == 13.15
    assert 0 < evaluation.rtf_model < evaluation.rtf < 1
