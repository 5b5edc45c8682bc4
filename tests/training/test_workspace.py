from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from secateur.errors import SecateurError
from secateur.training.checkpoint import write_state
from secateur.training.workspace import LOCK, SETTINGS, Workspace

BEFORE = {"keep": "params=50%", "learned": {"steps": None, "phases": ["search", "recover"], "rate": 0.1}}


def stopped(result: Path) -> Workspace:
    """The workspace of a run that was stopped after its first stage."""
    workspace = Workspace.of(result, BEFORE)
    workspace.stage("scores", lambda: {"best": torch.ones(3)})
    with pytest.raises(KeyboardInterrupt), workspace:
        raise KeyboardInterrupt
    return workspace


def test_a_stage_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    stopped(tmp_path / "out")
    with Workspace.of(tmp_path / "out", BEFORE) as workspace:
        assert workspace.resumes
        made = workspace.stage("scores", lambda: pytest.fail("it was done again"))
        assert torch.equal(made["best"], torch.ones(3))


def test_a_run_goes_on_only_with_what_it_began_with(tmp_path: Path) -> None:
    workspace = stopped(tmp_path / "out")
    workspace.same("the model", lambda: "0a1b")
    changed = pytest.raises(
        SecateurError, match="the model has changed since it began .from 0a1b to 2c3d.: give what"
    )
    with changed, Workspace.of(tmp_path / "out", BEFORE) as workspace:
        assert workspace.figure("pace", lambda: 0.5) == 0.5
        workspace.same("the model", lambda: "2c3d")
    with Workspace.of(tmp_path / "out", BEFORE) as workspace:
        workspace.same("the model", lambda: "0a1b")
    Workspace(None).same("the model", lambda: "2c3d")


def test_a_run_that_ends_well_leaves_nothing(tmp_path: Path) -> None:
    with Workspace.of(tmp_path / "out", BEFORE) as workspace:
        assert not workspace.resumes
        workspace.stage("scores", dict)
        assert workspace.resumes
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_stopped_before_anything_was_done_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SecateurError), Workspace.of(tmp_path / "out", BEFORE):
        raise SecateurError("no")
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_at_the_same_time_is_refused_and_disturbs_nothing(tmp_path: Path) -> None:
    with Workspace.of(tmp_path / "out", BEFORE) as workspace:
        workspace.stage("scores", lambda: {"best": torch.ones(3)})
        partial = tmp_path / "out.unfinished" / ".search.pt.partial"
        partial.touch()
        for settings in (BEFORE, {"keep": "params=40%"}):
            with pytest.raises(SecateurError, match="another run is at work in .*out.unfinished"):
                Workspace.of(tmp_path / "out", settings)
        assert partial.exists()
        assert workspace.resumes
    assert list(tmp_path.iterdir()) == []


def test_nobody_has_the_place_before_it_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deleted(workspace: Workspace) -> None:
        with pytest.raises(SecateurError, match="another run is at work"):
            Workspace.of(tmp_path / "out", BEFORE)
        close(workspace)

    close = Workspace.close
    monkeypatch.setattr(Workspace, "close", deleted)
    with Workspace.of(tmp_path / "out", BEFORE):
        pass
    assert list(tmp_path.iterdir()) == []


def test_other_settings_are_refused_with_what_differs_in_words(tmp_path: Path) -> None:
    kept = stopped(tmp_path / "out").folder
    now = {"keep": "params=40%", "learned": {"steps": 8, "phases": ["search"], "rate": 0.1}}
    with pytest.raises(SecateurError) as caught:
        Workspace.of(tmp_path / "out", now)
    assert str(caught.value) == (
        f"{kept} holds an unfinished run with other settings (keep was params=50%, is params=40%; learned.steps was not "
        "given, is 8; learned.phases was search,recover, is search): give the same ones to go on with it, or delete the "
        "folder"
    )
    assert Workspace.of(tmp_path / "out", BEFORE).resumes


def test_settings_that_nothing_done_depends_on_may_be_others(tmp_path: Path) -> None:
    kept = stopped(tmp_path / "out").folder
    now = {"keep": "params=50%", "learned": {"steps": None, "phases": ["search", "recover"], "rate": 0.2}}
    with pytest.raises(
        SecateurError, match="keep was params=50%, is params=40%; learned.rate was 0.1, is 0.2"
    ):
        Workspace.of(tmp_path / "out", now | {"keep": "params=40%"}, free=("learned.rate",))
    workspace = Workspace.of(tmp_path / "out", now, free=("learned.rate",))
    assert (workspace.folder, workspace.resumes) == (kept, True)
    with pytest.raises(KeyboardInterrupt), workspace:
        raise KeyboardInterrupt
    with pytest.raises(SecateurError, match="learned.rate was 0.2, is 0.1"):
        Workspace.of(tmp_path / "out", BEFORE)


def test_a_run_that_was_killed_before_anything_was_done_gives_way_to_another(tmp_path: Path) -> None:
    kept = Workspace.of(tmp_path / "out", BEFORE).folder
    assert kept is not None
    assert {file.name for file in kept.iterdir()} == {SETTINGS, LOCK}
    assert not Workspace.of(tmp_path / "out", {"keep": "params=40%"}).resumes


def test_damaged_settings_are_refused(tmp_path: Path) -> None:
    kept = stopped(tmp_path / "out").folder
    assert kept is not None
    (kept / SETTINGS).write_text("{")
    with pytest.raises(SecateurError, match="settings.json cannot be read .* delete its folder"):
        Workspace.of(tmp_path / "out", BEFORE)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        SecateurError, match="file/out.unfinished cannot be written: .*; choose another place"
    ):
        Workspace.of(tmp_path / "file" / "out", BEFORE)


def test_a_folder_that_holds_something_else_stays_as_it_is(tmp_path: Path) -> None:
    thesis = tmp_path / "out.unfinished" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.touch()
    with pytest.raises(SecateurError, match="out.unfinished, where unfinished work is kept, holds something"):
        Workspace.of(tmp_path / "out", BEFORE)
    assert thesis.exists()


def test_stages_of_a_run_that_nobody_knows_are_not_gone_on_with(tmp_path: Path) -> None:
    kept = stopped(tmp_path / "out").folder
    assert kept is not None
    (kept / SETTINGS).unlink()
    with pytest.raises(SecateurError, match="holds something else"):
        Workspace.of(tmp_path / "out", BEFORE | {"keep": "params=40%"})
    assert [*kept.glob("*.pt")]


def test_a_run_that_is_killed_while_it_cleans_up_leaves_nothing_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = stopped(tmp_path / "out")
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    workspace.close()
    assert not Workspace.of(tmp_path / "out", BEFORE | {"keep": "params=40%"}).resumes


def test_a_file_that_was_half_written_when_the_run_was_killed_is_never_read(tmp_path: Path) -> None:
    kept = stopped(tmp_path / "out").folder
    assert kept is not None
    (kept / ".search.pt.1.partial").write_bytes(b"PK")
    with Workspace.of(tmp_path / "out", BEFORE) as workspace:
        assert workspace.stage("search", lambda: {"plan": "new"}) == {"plan": "new"}
        assert not (kept / ".search.pt.1.partial").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_a_stage_had_done_so_far_goes_when_it_is_done(tmp_path: Path) -> None:
    workspace = Workspace.of(tmp_path / "out", BEFORE)
    so_far = workspace.so_far("search")
    assert so_far is not None
    write_state(so_far, {"step": 3})
    assert workspace.resumes

    def make() -> dict[str, int]:
        assert so_far.exists()
        return {"step": 4}

    workspace.stage("search", make)
    assert not so_far.exists()


def test_a_stage_that_fails_is_not_done(tmp_path: Path) -> None:
    workspace = Workspace.of(tmp_path / "out", BEFORE)

    def fail() -> dict[str, int]:
        raise SecateurError("no")

    with pytest.raises(SecateurError):
        workspace.stage("search", fail)
    assert workspace.stage("search", lambda: {"step": 4}) == {"step": 4}


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Workspace(None) as workspace:
        assert [workspace.stage("search", lambda step=step: {"step": step})["step"] for step in (1, 2)] == [
            1,
            2,
        ]
        assert workspace.so_far("search") is None
        assert not workspace.resumes
    assert list(tmp_path.iterdir()) == []
