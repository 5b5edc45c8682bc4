from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LasrCTCConfig, PreTrainedConfig, PreTrainedModel, Wav2Vec2BertConfig, WhisperConfig

from secateur.errors import SecateurError
from secateur.structure import checkpoint, surgery
from secateur.structure.checkpoint import check_free, load_model, new_folder, save_pruned
from secateur.structure.groups import find_groups
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model

MakeModel = Callable[..., PreTrainedModel]
Inputs = Callable[[PreTrainedModel], dict[str, Tensor]]


@pytest.fixture(scope="module")
def pruned(make_model: MakeModel) -> tuple[PreTrainedModel, PruningPlan]:
    model = make_model("conformer").float()
    groups = find_groups(model)
    plan = PruningPlan.keep(groups, {"layers.0.conv.channels": [], "layers.1.self_attn.heads": [0, 2]})
    return slice_model(model, plan), plan


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_holds_the_model_its_plan_and_the_code_that_rebuilds_it(
    pruned: tuple[PreTrainedModel, PruningPlan], tmp_path: Path
) -> None:
    save_pruned(*pruned, tmp_path / "out", beside=lambda folder: (folder / "report.json").write_text("{}"))
    assert names(tmp_path / "out") == [
        "config.json",
        "conformer.py",
        "model.safetensors",
        "modeling_pruned.py",
        "plan.json",
        "report.json",
        "surgery.py",
    ]
    assert names(tmp_path) == ["out"]
    # Who may read one file of it may read all.
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1


def test_a_dense_model_loads_the_same_way(make_model: MakeModel, inputs_for: Inputs, tmp_path: Path) -> None:
    model = make_model("wav2vec2").float()
    model.save_pretrained(tmp_path)
    assert torch.equal(load_model(tmp_path)(**inputs_for(model)).logits, model(**inputs_for(model)).logits)


def without(model: PreTrainedModel, *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name not in names}


def test_a_checkpoint_without_the_vector_that_masks_frames_in_training_is_whole(
    make_model: MakeModel, inputs_for: Inputs, tmp_path: Path
) -> None:
    model = make_model("wav2vec2").float()
    model.save_pretrained(tmp_path, state_dict=without(model, "wav2vec2.masked_spec_embed"))
    loaded = load_model(tmp_path)
    assert not loaded.wav2vec2.masked_spec_embed.any()
    assert torch.equal(loaded(**inputs_for(model)).logits, model(**inputs_for(model)).logits)


def test_a_checkpoint_that_lacks_a_weight_is_refused_by_its_name(
    make_model: MakeModel, tmp_path: Path
) -> None:
    model = make_model("wav2vec2").float()
    lacking = ("wav2vec2.masked_spec_embed", "wav2vec2.encoder.layer_norm.bias")
    model.save_pretrained(tmp_path, state_dict=without(model, *lacking))
    with pytest.raises(SecateurError, match=f"lacks {lacking[1]}, so the model is not whole"):
        load_model(tmp_path)


def test_a_pruned_model_survives_being_saved_as_any_transformers_model(
    pruned: tuple[PreTrainedModel, PruningPlan], inputs_for: Inputs, tmp_path: Path
) -> None:
    model, _ = pruned
    model.save_pretrained(tmp_path)
    assert torch.equal(load_model(tmp_path)(**inputs_for(model)).logits, model(**inputs_for(model)).logits)


def test_an_earlier_result_is_replaced(pruned: tuple[PreTrainedModel, PruningPlan], tmp_path: Path) -> None:
    save_pruned(*pruned, tmp_path / "out", beside=lambda folder: (folder / "test.jsonl").touch())
    save_pruned(*pruned, tmp_path / "out")
    assert "test.jsonl" not in names(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(
    pruned: tuple[PreTrainedModel, PruningPlan], tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SecateurError, match="holds something else than a pruned model"):
        save_pruned(*pruned, tmp_path)
    assert names(tmp_path) == ["thesis.tex"]
    with pytest.raises(SecateurError, match="is a file"):
        save_pruned(*pruned, tmp_path / "thesis.tex")


@pytest.mark.parametrize("mine", ["notes.md", "listening/", ".git/"])
def test_what_was_put_beside_an_earlier_result_is_named_and_left_alone(
    pruned: tuple[PreTrainedModel, PruningPlan], tmp_path: Path, mine: str
) -> None:
    save_pruned(*pruned, tmp_path / "out")
    (tmp_path / "out" / mine).mkdir() if mine.endswith("/") else (tmp_path / "out" / mine).touch()
    before = names(tmp_path / "out")
    with pytest.raises(SecateurError, match=rf"out holds {mine.strip('/')} beside a pruned model"):
        save_pruned(*pruned, tmp_path / "out")
    assert names(tmp_path / "out") == before


def test_what_file_managers_leave_is_nobodys(
    pruned: tuple[PreTrainedModel, PruningPlan], tmp_path: Path
) -> None:
    save_pruned(*pruned, tmp_path / "out")
    (tmp_path / "out" / ".DS_Store").touch()
    save_pruned(*pruned, tmp_path / "out")
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("how", ["busy", "filled meanwhile"])
def test_a_result_that_cannot_be_moved_to_its_place_is_kept_beside_it(
    pruned: tuple[PreTrainedModel, PruningPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    out = tmp_path / "out"
    save_pruned(*pruned, out)
    rename = Path.rename

    def busy(self: Path, target: Path) -> Path:
        if self == out:
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    def beside(_: Path) -> None:
        if how == "busy":
            monkeypatch.setattr(Path, "rename", busy)
        else:
            (out / "notes.md").touch()

    with pytest.raises(
        SecateurError, match="the result is whole in .*partial-[0-9a-f]*, but could not be moved to"
    ):
        save_pruned(*pruned, out, beside=beside)
    (kept,) = tmp_path.glob("out.partial-*")
    assert names(tmp_path) == ["out", kept.name]
    load_model(kept)
    load_model(out)


def test_a_pruned_model_is_never_in_memory_at_full_size(
    pruned: tuple[PreTrainedModel, PruningPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pruned(*pruned, tmp_path / "out")
    seen, reshape = set(), surgery.reshape

    def watched(model: torch.nn.Module, structure: surgery.Structure) -> None:
        seen.update(each.device.type for each in model.parameters())
        reshape(model, structure)

    monkeypatch.setattr(surgery, "reshape", watched)
    load_model(tmp_path / "out")
    assert seen == {"meta"}


def test_a_result_that_is_kept_beside_survives_the_next_run(
    pruned: tuple[PreTrainedModel, PruningPlan], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    kept = [tmp_path / f"out.{what}-{os.getpid()}" for what in ("partial", "earlier")]
    for folder in kept:
        save_pruned(*pruned, folder)
    for _ in range(2):
        save_pruned(*pruned, out)
    assert names(tmp_path) == sorted(["out", *(folder.name for folder in kept)])
    for folder in (out, *kept):
        load_model(folder)


def test_a_result_is_written_where_a_link_leads(
    pruned: tuple[PreTrainedModel, PruningPlan], tmp_path: Path
) -> None:
    (tmp_path / "disk" / "here").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "here")
    for _ in range(2):
        save_pruned(*pruned, tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert names(tmp_path) == ["disk", "out"]
    load_model(tmp_path / "disk" / "here")
    (tmp_path / "disk" / "here" / "thesis.tex").touch()
    with pytest.raises(SecateurError, match=r"thesis\.tex beside a pruned model"):
        check_free(tmp_path / "out")


def test_a_place_where_a_disk_is_mounted_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(
        SecateurError,
        match="is where a disk is mounted, and cannot be replaced as a whole; give a folder in it",
    ):
        check_free(tmp_path)
    check_free(tmp_path / "out")


def test_a_place_that_is_closed_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SecateurError, match="file is a file, so that there can be no "):
        check_free(tmp_path / "file" / "out")
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    with pytest.raises(
        SecateurError, match="out cannot be written: .* is closed to this user; choose another place"
    ):
        check_free(tmp_path / "deep" / "out")


@pytest.mark.parametrize(
    ("plan", "config"),
    [
        ('{"format": "holidays"}', '{"secateur_structure": {}}'),
        ('{"format": "secateur-plan"}', '{"model_type": "wav2vec2"}'),
        ('{"format": "secateur-plan"}', None),
        ("[]", '{"secateur_structure": {}}'),
        ("not JSON", '{"secateur_structure": {}}'),
    ],
)
def test_a_folder_whose_plan_or_configuration_is_not_of_a_pruned_model_is_something_else(
    pruned: tuple[PreTrainedModel, PruningPlan], tmp_path: Path, plan: str, config: str | None
) -> None:
    (tmp_path / "plan.json").write_text(plan)
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    before = names(tmp_path)
    with pytest.raises(SecateurError, match="holds something else than a pruned model"):
        save_pruned(*pruned, tmp_path)
    assert names(tmp_path) == before


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_halfway_leaves_the_earlier_result(
    pruned: tuple[PreTrainedModel, PruningPlan], tmp_path: Path, failure: BaseException
) -> None:
    def fail(folder: Path) -> None:
        raise failure

    save_pruned(*pruned, tmp_path / "out", beside=lambda folder: (folder / "report.html").touch())
    expected = SecateurError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        save_pruned(*pruned, tmp_path / "out", beside=fail)
    assert names(tmp_path) == ["out"]
    assert "report.html" in names(tmp_path / "out")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from secateur.errors import SecateurError
from secateur.structure.checkpoint import load_model, save_pruned
from secateur.structure.plan import PruningPlan

source, target = map(Path, sys.argv[1:])
model, plan = load_model(source), PruningPlan.load(source / "plan.json")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    save_pruned(model, plan, target)
except SecateurError as error:
    print(error)
"""


def test_a_disk_that_does_not_take_the_weights_is_named_in_one_sentence(
    pruned: tuple[PreTrainedModel, PruningPlan], tmp_path: Path
) -> None:
    save_pruned(*pruned, tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "out"), str(tmp_path / "full")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(f"{tmp_path}/full cannot be written: "), done.stderr
    assert names(tmp_path) == ["out"]


def test_a_context_that_ends_well_makes_the_folder(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "out") as partial:
        (partial / "file").touch()
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path / "deep" / "out") == ["file"]


def damage(folder: Path, how: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    weights = folder / "model.safetensors"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "no weights":
        weights.unlink()
    elif how == "no configuration":
        (folder / "config.json").unlink()
    elif how == "other structure":
        config["secateur_structure"]["tensors"]["encoder.layers.0.feed_forward1.linear1.weight"] = [3, 16]
    elif how == "unknown module":
        config["secateur_structure"]["modules"]["encoder.layers.7.conv"] = {"kind": "identity"}
    elif how == "no structure":
        config["secateur_structure"] = {}
    if how != "no configuration":
        (folder / "config.json").write_text(json.dumps(config))


def test_a_name_that_is_neither_here_nor_on_the_hub_is_said_to_be_missing_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr(checkpoint.AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(
        SecateurError, match="there is no file or folder smaler here, and as a name on the Hugging"
    ):
        load_model("smaler")


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("truncated", "the weights do not load"),
        ("no weights", "the weights do not load"),
        ("no configuration", "is no checkpoint that transformers can read"),
        ("other structure", "their shapes are not those that its config.json describes"),
        ("unknown module", "no model can be built as its config.json says"),
        ("no structure", "no model can be built as its config.json says"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_sentence(
    pruned: tuple[PreTrainedModel, PruningPlan], tmp_path: Path, how: str, sentence: str
) -> None:
    save_pruned(*pruned, tmp_path / "out")
    damage(tmp_path / "out", how)
    with pytest.raises(SecateurError) as error:
        load_model(tmp_path / "out")
    assert str(error.value).startswith(str(tmp_path / "out"))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", [WhisperConfig(), Wav2Vec2BertConfig(), LasrCTCConfig()])
def test_a_model_of_another_kind_is_refused_by_name(tmp_path: Path, config: PreTrainedConfig) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(SecateurError, match=f"is a {config.model_type} model; supported are CTC models"):
        load_model(tmp_path)


def test_the_folder_one_is_in_is_a_place_for_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    with new_folder(".") as partial:
        (partial / "plan.json").write_text("{}", encoding="utf-8")
    assert names(tmp_path) == ["here"]
    assert names(place) == ["plan.json"]
