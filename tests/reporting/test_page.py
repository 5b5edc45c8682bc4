from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from secateur.errors import SecateurError
from secateur.reporting.page import comparison_page, run_page

MakeResult = Callable[..., Path]
MakeReport = Callable[..., dict[str, Any]]

SPACES = dict.fromkeys(map(ord, "\N{NARROW NO-BREAK SPACE}\N{NO-BREAK SPACE}"), " ")
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&"


class Text(HTMLParser):
    """The words of a page, and its tags with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1][0] != "style":
            self.words += data.translate(SPACES).split()

    def __str__(self) -> str:
        return " ".join(self.words)


def timed_sides(report: dict[str, Any]) -> dict[str, Any]:
    """Figures before and after with what a table of times predicted."""
    return {name: report[name] | {"latency": seconds} for name, seconds in (("before", 0.3), ("after", 0.1))}


def test_the_page_of_a_run_says_what_was_asked_and_what_came_out(make_result: MakeResult) -> None:
    text = str(Text(run_page(make_result())))
    for expected in (
        "big, pruned",
        "at most 50 % of the parameters",
        "49.2 % of the parameters",
        "6.4 M of 13 M",
        "5.00 % before 4.00 %",
        "+1.00 points ( 95 % interval +0.40 to +1.60), which is more than chance",
        "p < 0.001 by paired bootstrap, p = 0.031 by matched pairs over 20 segments",
        "prune 28 min 20 s",
        "Expected parameters",
        "limit 50 %",
        "Validation WER",
        "No layer and no module was removed as a whole.",
    ):
        assert expected.replace("( ", "(") in text


def test_a_limit_above_what_there_was_is_said_to_hold_nothing_back_and_has_no_mark(
    make_result: MakeResult,
) -> None:
    page = run_page(make_result(budget="params=50%,macs=1G"))
    assert "at most 192 % of the MACs, which holds nothing back" in str(Text(page))
    assert page.count('class="limit" x1="50.0%"') == 1
    assert 'x1="192' not in page


def test_a_long_recording_says_how_much_of_it_is_there(
    make_result: MakeResult, make_report: MakeReport
) -> None:
    (quote,) = make_report()["changed"]
    folder = make_result(changed=[quote | {"seconds": 125.0}])
    assert "The first" not in str(Text(run_page(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secateur.reporting.page.recordings", lambda *_: {"one": "data:audio/flac;base64,AA=="})
        assert "The first 40 s of 2 min 05 s." in str(Text(run_page(folder)))


def test_folders_of_one_name_are_told_apart(make_result: MakeResult, tmp_path: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
    folders = [make_result(f"{parent}/pruned") for parent in ("a", "b")]
    text = str(Text(comparison_page([*folders, make_result("other")])))
    for folder in folders:
        assert str(folder) in text
    assert str(tmp_path / "other") not in text


def test_the_command_that_repeats_the_run_can_be_pasted(
    make_result: MakeResult, make_report: MakeReport
) -> None:
    folder = make_result("my model")
    command = f"secateur prune --config '{folder}/run.yaml' --out again"
    assert command in str(Text(run_page(folder)))
    assert f"{command} --device" not in str(Text(run_page(folder)))
    on_another = make_result("another", environment={"device": "cuda:0", "dtype": "bfloat16"})
    command = f"secateur prune --config {on_another}/run.yaml --out again"
    assert f"{command} --device cuda:0 --dtype bfloat16" in str(Text(run_page(on_another)))
    # Time is limited as so many threads take it.
    environment = {"device": "cpu", "threads": "2"}
    timed = make_result("timed", **timed_sides(make_report()), budget="latency=60%", environment=environment)
    assert f"{timed}/run.yaml --out again --threads 2" in str(Text(run_page(timed)))
    # The checkpoint may be in another precision than it was pruned in.
    usual = make_result("usual", environment={"device": "cpu", "dtype": "float32"})
    assert f"{usual}/run.yaml --out again --dtype float32" in str(Text(run_page(usual)))


def test_a_run_that_no_file_says_how_to_repeat_is_not_said_to_be_repeatable(make_result: MakeResult) -> None:
    folder = make_result()
    (folder / "run.yaml").unlink()
    text = str(Text(run_page(folder)))
    assert "--config" not in text
    assert "the folder holds no run.yaml" in text


def test_time_that_was_measured_in_turns_is_what_a_page_shows(
    make_result: MakeResult, make_report: MakeReport
) -> None:
    spread = {"low": 0.1, "high": 0.3}
    forward = {"before": {"median": 0.2504, **spread}, "after": {"median": 0.1252, **spread},
               "ratio": {"median": 0.49, **spread}}  # fmt: skip
    text = str(Text(run_page(make_result(forward=forward))))
    assert "Time of a forward pass 125.2 ms of 250.4 ms" in text
    assert "Forward pass, measured 250.4 ms 125.2 ms 49.0 %" in text
    assert "Time to hear a second" not in text
    assert "Forward pass, measured" not in str(Text(run_page(make_result("other"))))
    # A prediction of it is not in its place, also where that was limited.
    sides = timed_sides(make_report())
    text = str(Text(run_page(make_result("timed", **sides, budget="latency=60%", forward=forward))))
    assert "Time of a forward pass 125.2 ms of 250.4 ms" in text
    assert "Forward pass, predicted 300.0 ms 100.0 ms 33.3 %" in text


def test_each_unit_says_its_numbers_when_pointed_at(make_result: MakeResult) -> None:
    text = str(Text(run_page(make_result())))
    assert "Layer 1, feed-forward 1, units: 15 of 40 kept (38%)" in text
    assert "subsampling 0 channels: 67 of 176 kept (38%)" in text


def test_what_was_measured_twice_and_may_be_chance_is_called_that(
    make_result: MakeResult, make_report: MakeReport
) -> None:
    comparison = make_report()["comparison"]
    comparison["mapsswe"]["p"] = 0.2
    assert "may be chance" in str(Text(run_page(make_result(comparison=comparison))))


@pytest.mark.parametrize("part", ["history", "changed", "comparison"])
def test_what_a_report_may_lack_is_left_out(make_result: MakeResult, part: str) -> None:
    heading = {"history": "How it was trained", "changed": "changed most", "comparison": "than chance"}[part]
    assert heading in str(Text(run_page(make_result("whole"))))
    assert heading not in str(Text(run_page(make_result(**{part: None}))))


def test_a_run_without_a_measurement_or_training_has_a_page(make_result: MakeResult) -> None:
    bare = {
        name: {"params": params, "macs_per_second": 40.0 * params}
        for name, params in (("before", 9000), ("after", 4500))
    }
    folder = make_result(**bare, method="oneshot", history={}, changed=None, comparison=None)
    (folder / "run.yaml").unlink()
    text = str(Text(run_page(folder)))
    assert "4.5 k of 9 k" in text
    assert "Nothing was measured" in text
    assert "None of these runs measured" in str(Text(comparison_page([folder, folder])))


def test_a_training_that_diverged_has_a_page(make_result: MakeResult) -> None:
    rows = [{"step": 1.0, "output": 2.0, "hidden": float("nan")}, {"step": 2.0, "output": float("inf")}]
    text = str(Text(run_page(make_result(history={"recover": rows}))))
    assert "Loss: output distributions" in text
    assert "Loss: residual streams" not in text


def test_a_limit_on_latency_and_absolute_limits_are_shown(
    make_result: MakeResult, make_report: MakeReport
) -> None:
    report = make_report()
    text = str(Text(run_page(make_result(**timed_sides(report), budget="params=6.5M,latency=60%"))))
    assert "at most 50 % of the parameters and at most 60 % of the time" in text
    assert "100.0 ms of 300.0 ms" in text


def test_removed_modules_and_layers_are_drawn_as_removed(
    make_result: MakeResult, make_report: MakeReport
) -> None:
    units = make_report()["units"] | {"layers.0": [0, 1], "layers.1.self_attn": [0, 1]}
    text = str(Text(run_page(make_result(units=units))))
    assert "Removed as a whole: 1 layer and 1 module." in text
    assert "Layer 0: removed" in text
    assert "Layer 1, self-attention: removed" in text


def test_recordings_that_are_at_hand_can_be_played(make_result: MakeResult, recording: Path) -> None:
    page = Text(run_page(make_result(settings={"valid": str(recording)})))
    players = [attributes for tag, attributes in page.tags if tag == "audio"]
    assert [str(each["src"])[:11] for each in players] == ["data:audio/"]
    absent = Text(run_page(make_result("other")))
    assert "audio" not in [tag for tag, _ in absent.tags]
    assert "Its recording was not found." in str(absent)


def test_nothing_that_a_report_says_becomes_markup(
    make_result: MakeResult, make_training: MakeResult, make_report: MakeReport
) -> None:
    report = make_report()
    quote = report["changed"][0] | {
        "id": HOSTILE,
        "reference": HOSTILE,
        "hypotheses": [HOSTILE, f"a {HOSTILE}"],
    }
    folder = make_result(
        "<b>&'",
        settings={"model": HOSTILE, "data": HOSTILE, "valid": f"/nowhere/{HOSTILE}\n"},
        method=HOSTILE,
        changed=[quote],
        history={HOSTILE: [{"step": 1.0, HOSTILE: 2.0}]},
        environment={HOSTILE: HOSTILE},
        wall_seconds={HOSTILE: 1.0},
        units=report["units"] | {HOSTILE: [1, 2], "a\nb.c": [1, 2]},
    )
    row = {"id": HOSTILE, "reference": HOSTILE, "hypothesis": f"a {HOSTILE}", "seconds": 1.0, "errors": 1}
    training = make_training(
        "<i>&'",
        settings={"data": HOSTILE, "valid": f"/nowhere/{HOSTILE}\n", "valid_utterances": HOSTILE},
        valid=report["after"] | {"worst": [row]},
        history={HOSTILE: [{"step": 1.0, HOSTILE: 2.0}]},
        kinds=[{"kind": HOSTILE, "params": 1, "macs": 1}],
        shape=dict.fromkeys(("layers", "width", "heads", "channels", "kernel"), HOSTILE),
        environment={HOSTILE: HOSTILE},
    )
    for page in (run_page(folder), run_page(training), comparison_page([folder, folder, training])):
        text = Text(page)
        tags = {tag for tag, _ in text.tags}
        assert not tags & {"script", "img", "b&'", "i&'"}
        assert not [name for _, attributes in text.tags for name in attributes if name.startswith("on")]
        assert "<script>alert(1)</script>" in str(text)


def test_a_page_names_no_address_that_a_browser_would_ask(
    make_result: MakeResult, make_training: MakeResult, recording: Path
) -> None:
    folders = [make({True: "a", False: "b"}[make is make_result], {"valid": str(recording)})
               for make in (make_result, make_training)]  # fmt: skip
    for page in (*map(run_page, folders), comparison_page(folders)):
        asked = [
            value
            for _, attributes in Text(page).tags
            for name, value in attributes.items()
            if name in {"src", "href", "srcset", "action", "poster", "data"}
        ]
        assert asked
        assert all(str(value).startswith("data:") for value in asked)
        assert not re.search(r"url\(|@import", page)


def test_several_runs_stand_side_by_side(make_result: MakeResult, make_report: MakeReport) -> None:
    after = make_report()["after"] | {"wer": 0.08, "wer_interval": [0.07, 0.09], "params": 3_000_000}
    page = Text(
        comparison_page([make_result("half"), make_result("quarter", after=after, budget="params=25%")])
    )
    text = str(page)
    for expected in (
        "2 pruned models side by side",
        "Word error rates are on 12 utterances",
        "unpruned 4.00 % 3.60 to 4.40 13 M",
        "A half 5.00 %",
        "B quarter 8.00 % 7.00 to 9.00 3 M",
        "WER against parameters",
        "WER against MACs",
    ):
        assert expected in text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_any_number_of_runs_has_letters_of_their_own(make_result: MakeResult) -> None:
    page = comparison_page([make_result(f"run_{number}") for number in range(54)])
    assert "54 pruned models side by side" in page
    for letters, number in (("Z", 25), ("AA", 26), ("AZ", 51), ("BB", 53)):
        assert f"<b>{letters}</b>" in page
        assert f'<span class="letter">{letters}</span> run_{number}</h3>' in page


def test_measured_times_are_drawn_where_all_are_known(make_result: MakeResult) -> None:
    folders = [make_result(name) for name in ("one", "two")]
    page = comparison_page(folders, {"one": 0.525, "two": 0.7})
    assert "WER against time, of the unpruned model" in page
    assert "one: WER 5.00 %, 52.5 %" in page
    assert "WER against time" not in comparison_page(folders, {"one": 0.525})


def test_each_run_is_beside_its_own_time_of_what_it_was_before_pruning(make_result: MakeResult) -> None:
    slow, fast = ({"ratio": {"median": ratio}} for ratio in (0.525, 0.31))
    before = {"before": {"median": 0.2}, "after": {"median": 0.1}}
    folders = [make_result("one", forward=before | slow), make_result("two", forward=before | fast)]
    text = str(Text(comparison_page(folders)))
    assert "6.4 M 256 M 52.5 % params=50%" in text
    assert "6.4 M 256 M 31.0 % params=50%" in text
    assert "WER against time, of the unpruned model" in text


def test_strides_are_not_said_to_be_of_one_model(make_result: MakeResult, make_report: MakeReport) -> None:
    first = make_result("first")
    second = make_result("second", before=make_report()["after"])
    assert "Not all were pruned from the same model" in str(Text(comparison_page([first, second])))
    assert "Not all were pruned" not in str(Text(comparison_page([first, first])))


def test_runs_measured_on_different_speech_are_not_compared_silently(
    make_result: MakeResult, make_report: MakeReport
) -> None:
    other = make_report()["before"] | {"words": 99}
    text = str(Text(comparison_page([make_result("one"), make_result("two", before=other)])))
    assert "Not all were measured on the same speech" in text
    assert "unpruned" not in text


def test_the_page_of_a_training_says_what_was_asked_and_what_came_out(make_training: MakeResult) -> None:
    text = str(Text(run_page(make_training())))
    for expected in (
        "tiny, trained from nothing",
        "a Conformer of 12 layers, 96 wide, that learns from speech for 1 h 00 min.",
        "2.8 M parameters, with a word error rate of 8.00 %",
        "95 % interval 7.20 to 8.80",
        "20 h 00 min 24,000 utterances, heard 2.5 times",
        "1 h 00 min 300 steps",
        "Character error rate 2.67 %",
        "Loss: CTC for a token from 3.81 at step 1",
        "Validation WER from 20 % at step 150 to 10 % at step 300",
        "The last model that was not clearly worse in it than the best was kept, that of step 225.",
        "heard, 3 wrong … bat",
        "feed-forward 1.8 M · 94.7 %",
        "24,000 utterances; 3 without words or longer than a batch were left out",
        "read 1 min 01 s",
    ):
        assert expected.replace("… ", "the ") in text


def test_the_command_that_repeats_a_training_can_be_pasted(make_training: MakeResult) -> None:
    folder = make_training("my model", environment={"device": "cpu", "dtype": "float32"})
    text = str(Text(run_page(folder)))
    assert f"secateur train --config '{folder}/run.yaml' --out again" in text
    assert "--dtype" not in text


def test_steps_that_were_asked_for_are_said_instead_of_minutes(make_training: MakeResult) -> None:
    assert "learns from speech in 5,000 steps." in str(
        Text(run_page(make_training(settings={"steps": 5000})))
    )


def test_a_training_that_measured_nothing_has_a_page(make_training: MakeResult) -> None:
    history = {"train": [{"step": 1.0, "loss": 4.0}, {"step": 2.0, "loss": float("nan")}]}
    bare = make_training(
        valid=None, kinds=None, heard_seconds=None, phase_seconds=None, wall_seconds=None, environment=None,
        history=history, kept_step=None,
    )  # fmt: skip
    (bare / "run.yaml").unlink()
    text = str(Text(run_page(bare)))
    assert "a Conformer of 12 layers, 96 wide. Came out: 2.8 M parameters." in text
    assert "Nothing was measured" in text
    assert "hears worst" not in text
    assert "was kept" not in text
    assert "None of these runs measured" in str(Text(comparison_page([bare, bare])))


def test_what_a_trained_model_hears_worst_can_be_played_if_it_is_at_hand(
    make_training: MakeResult, recording: Path
) -> None:
    page = Text(run_page(make_training(settings={"valid": str(recording)})))
    players = [attributes for tag, attributes in page.tags if tag == "audio"]
    assert [str(each["src"])[:11] for each in players] == ["data:audio/"]
    assert "Its recording was not found." in str(Text(run_page(make_training("other"))))


def test_a_trained_model_stands_among_pruned_ones(make_result: MakeResult, make_training: MakeResult) -> None:
    page = Text(comparison_page([make_result("half"), make_training(), make_training("other")]))
    text = str(page)
    for expected in (
        "3 models side by side",
        "Word error rates are on 12 utterances",
        "unpruned 4.00 % 3.60 to 4.40 13 M",
        "B tiny 8.00 % 7.20 to 8.80 2.8 M 112 M trained from nothing",
        "tiny: WER 8.00 %, 2.8 M",
        "B and C were trained, not pruned, and kept everything.",
    ):
        assert expected in text
    alone = str(Text(comparison_page([make_training("one"), make_training("two")])))
    assert "unpruned" not in alone
    assert "share of the units that stayed" not in alone


def damaged(**changes: Any) -> Callable[[MakeReport], str]:
    return lambda make: json.dumps(make(**changes))


def test_a_folder_of_results_leads_to_them(make_result: MakeResult) -> None:
    one, two = make_result("one"), make_result("two")
    with pytest.raises(SecateurError, match="holds no report.json: give") as refused:
        run_page(one.parent)
    assert str(refused.value).endswith(f"give {one} {two}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda _: None, "holds no report.json: give a folder that `secateur prune` has written"),
        (lambda _: "{", "report.json is not as Secateur writes it"),
        (lambda _: "[1]", "report.json is not as"),
        (damaged(units=None), "it lacks 'units'"),
        (damaged(units={"a": 3}), "report.json is not as"),
        (damaged(units={"a": [1, 0]}), "a keeps 1 of 0 units"),
        (damaged(before={"params": 0, "macs_per_second": 1}), "not all numbers above nothing"),
        (damaged(before={"params": "many", "macs_per_second": 1}), "report.json is not as"),
        (damaged(after={"wer": 0.1, "params": 1, "macs_per_second": 1}), "it lacks 'cer'"),
        (damaged(budget="half"), "the budget 'half'"),
        (damaged(method=None), "method"),
    ],
)
def test_a_bad_folder_is_one_sentence(
    make_result: MakeResult,
    make_report: MakeReport,
    content: Callable[[MakeReport], str | None],
    said: str,
) -> None:
    good, bad = make_result("good"), make_result("bad")
    text = content(make_report)
    (bad / "report.json").unlink() if text is None else (bad / "report.json").write_text(text)
    for make in (lambda: run_page(bad), lambda: comparison_page([good, bad])):
        with pytest.raises(SecateurError, match=re.escape(said)) as caught:
            make()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"params": 0}, "not all numbers above nothing"),
        ({"params": None}, "it lacks 'params'"),
        ({"valid": {"wer": 0.1}}, "it lacks 'cer'"),
        ({"valid": 3}, "report.json is not as Secateur writes it"),
        ({"shape": {}}, "has no attribute 'layers'"),
        ({"steps": None}, "has no attribute 'steps'"),
        ({"audio_seconds": "long"}, "report.json is not as Secateur writes it"),
        ({"kinds": [{"kind": "norms"}]}, "it lacks 'params'"),
        ({"history": {"train": [{"WER": 0.1}]}}, "it lacks 'step'"),
    ],
)
def test_a_damaged_report_of_a_training_is_one_sentence(
    make_training: MakeResult, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(SecateurError, match=re.escape(said)) as caught:
        run_page(make_training(**changes))
    assert "\n" not in str(caught.value)


def test_a_damaged_run_yaml_is_one_sentence(make_result: MakeResult) -> None:
    folder = make_result()
    for text in ("a: [", "- 1", "secateur: 3"):
        (folder / "run.yaml").write_text(text)
        with pytest.raises(SecateurError, match="run.yaml is not as"):
            run_page(folder)
