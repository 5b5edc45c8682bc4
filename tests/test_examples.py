"""Every code block of the README and of the tutorial runs, in the order of the page, with a small model and short noise."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from transformers import ParakeetFeatureExtractor

import secateur.demo.run
from secateur.cli import main
from secateur.models.conformer import ConformerConfig, ConformerForCTC
from secateur.models.vocabulary import tokenizer_from_pieces
from secateur.pruning.oneshot import OneShot
from secateur.pruning.settings import PruneSettings
from secateur.recognizer import Recognizer

ROOT = Path(__file__).resolve().parents[1]

SHORTER = {
    "compare": "--methods magnitude --steps 1 --limit 1",
    "demo": "--steps 1",
    "prune": "--steps 1 --limit 1",
    "train": "--data synthetic:train:6 --valid synthetic:valid:2 --steps 1 --layers 1 --width 16 --heads 2",
}
"""Options that are added to a command, so that it takes seconds; they stand above those that the page gives."""

REMOTE_CODE = "trust_remote_code"
"""What runs the code of a checkpoint changes what transformers knows, and has a process of its own."""


@dataclass(frozen=True)
class Block:
    """A code block of a page; ``line`` is where it begins."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Fenced blocks with their language, and indented ones, whose first word tells it."""
    found = []
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(
        r"^```(\w+)\n(.*?)^```$|(?<=\n\n)(?: {4}[^\n]*\n|\n(?= {4}))+", text, re.M | re.S
    ):
        language, body = match[1], match[2]
        if language is None:
            body = re.sub(r"^ {4}", "", match[0], flags=re.M)
            language = "sh" if body.split()[0] in ("secateur", "make") else "python"
        found.append(Block(language, body, text[: match.start()].count("\n") + 1))
    return found


def commands(text: str) -> list[list[str]]:
    """The words of each command of a block."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def shorter(name: str, arguments: list[str]) -> list[str]:
    """What is typed for a command of a page instead."""
    # Without training there are no steps, and a run.yaml has them already.
    has_steps = "oneshot" not in arguments and "--config" not in arguments
    return [name, *arguments, *(shlex.split(SHORTER.get(name, "")) if has_steps else ())]


def interpret(*arguments: str) -> str:
    """Run Python in a process of its own, and return what it prints."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def recipe(target: list[str]) -> list[list[str]]:
    """What make would run, and does not: what it installs, checks and tests is not for a test to do."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    ran = subprocess.run(
        ["make", "--dry-run", *target], cwd=ROOT, env=quiet, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout
    return commands(ran.stdout)


def run_command(words: list[str]) -> None:
    program, *arguments = words
    if Path(program).name == "secateur":
        result = CliRunner().invoke(main, shorter(arguments[0], arguments[1:]))
        assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"
    elif program == "make":
        for each in recipe(arguments):
            if each[0].endswith("/secateur"):
                run_command(each)
    elif program == "python":
        assert interpret(*arguments)
    else:
        pytest.fail(f"nobody knows how to run this here: {shlex.join(words)}")


def run_python(block: Block, page: Path, names: dict[str, Any]) -> None:
    if named := re.match(r"# (\w+\.py)\n", block.text):
        Path(named[1]).write_text(block.text, encoding="utf-8")
    elif REMOTE_CODE in block.text:
        interpret("-c", block.text)
    else:
        # As many lines before it as on the page, so that a traceback tells the line.
        exec(compile("\n" * block.line + block.text, page.name, "exec"), names)


def tiny_recognizer() -> Recognizer:
    torch.manual_seed(0)
    config = ConformerConfig(
        vocab_size=5,
        pad_token_id=4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_kernel_size=3,
        subsampling_conv_channels=4,
    )
    model = ConformerForCTC(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # An untrained model hears no difference between sounds.
    return Recognizer(model, ParakeetFeatureExtractor(), tokenizer_from_pieces(["▁a", "b", "c", "d"]))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pages speak of, as the working directory: a model, recordings, some of them transcribed."""
    monkeypatch.chdir(tmp_path)
    for cache in ("SECATEUR_CACHE", "XDG_CACHE_HOME", "HF_MODULES_CACHE"):
        monkeypatch.setenv(cache, str(tmp_path / "cache"))
    tiny_recognizer().save_pretrained("model.nemo")
    noise = np.random.default_rng(0).normal(scale=0.1, size=(6, 32000))
    for folder in ("speech", "valid", "test"):
        Path(folder).mkdir()
        for name, samples in zip("ab", noise, strict=False):
            soundfile.write(f"{folder}/{name}.wav", samples, 16000)
            if folder != "speech":
                Path(f"{folder}/{name}.txt").write_text("a word or two", encoding="utf-8")
    soundfile.write("a.wav", noise[4], 16000)
    soundfile.write("b.flac", noise[5], 16000)
    settings = secateur.demo.run.settings

    def with_less_speech(minutes: float, steps: int | None = None) -> PruneSettings:
        little = OneShot(score_minutes=0.1, reconstruct_minutes=0.1, reconstruct_steps=2)
        return replace(
            settings(minutes, steps), data="synthetic:train:6", valid="synthetic:test:4", oneshot=little
        )

    monkeypatch.setattr(secateur.demo.run, "settings", with_less_speech)
    monkeypatch.setattr(secateur.demo.run, "MODEL", tmp_path / "model.nemo")
    return tmp_path


@pytest.fixture
def run_page(scene: Path) -> Callable[[Path], None]:
    def run(page: Path) -> None:
        names: dict[str, Any] = {}
        for block in blocks(page):
            if block.language == "python":
                run_python(block, page, names)
            else:
                assert block.language == "sh", f"{page.name}:{block.line} is neither Python nor commands"
                for words in commands(block.text):
                    run_command(words)

    return run


def test_every_block_of_the_readme_runs(
    run_page: Callable[[Path], None], scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_page(ROOT / "README.md")
    assert len(capsys.readouterr().out.splitlines()) == 2
    for result in ("halved", "faster", "smallest", "out/try"):
        assert (scene / result / "report.html").is_file()
    assert (scene / "comparison.html").is_file()


def test_every_block_of_the_tutorial_runs(run_page: Callable[[Path], None], scene: Path) -> None:
    run_page(ROOT / "docs" / "tutorial.md")
    assert (scene / "both.html").is_file()
    alone = interpret("hear.py", "smaller", "speech/a.wav")
    assert alone.strip() == secateur.load("smaller").transcribe("speech/a.wav").text
