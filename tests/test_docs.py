"""What the documentation says can be done: commands, options, targets, files and the example of the README."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
import torch
from transformers import ParakeetFeatureExtractor

from secateur.cli import main
from secateur.models.conformer import ConformerConfig, ConformerForCTC
from secateur.models.vocabulary import tokenizer_from_pieces
from secateur.recognizer import Recognizer

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def lines(text: str) -> list[str]:
    """The lines of a page's code blocks."""
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


COMMANDS = [line.split("  #")[0] for line in lines(README) if line.startswith("secateur ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_parses(command: str) -> None:
    _, name, *arguments = shlex.split(command)
    command_line = main.commands[name]
    values, unread, _ = command_line.make_parser(click.Context(command_line)).parse_args(arguments)
    assert any(values.get(name) for name in ("model", "config", "folders", "data"))
    assert unread == []


def test_the_readme_shows_every_command() -> None:
    assert {command.split()[1] for command in COMMANDS} == set(main.commands)


def test_targets_of_make_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:^    |`)make (\w+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {"try", "test"} <= named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    rooms = "src|docs|tests|benchmarks|structure|pruning|training|models|speech|evaluation|reporting|cli"
    named = re.findall(rf"`((?:{rooms})/[\w./]+)`", page.read_text(encoding="utf-8"))
    bases = (ROOT, ROOT / "src" / "secateur")
    missing = [name for name in named if not any((base / name).exists() for base in bases)]
    assert [name for name in missing if "NAME" not in name] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_benchmarks_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"benchmarks\.(\w+)", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / "benchmarks" / f"{name}.py").is_file()] == []


def example() -> str:
    """The Python of the README."""
    block = re.search(r"(?:^    .*\n|^\n)+", README[README.index("    import secateur") :], re.MULTILINE)
    assert block is not None
    return "\n".join(line.removeprefix("    ") for line in block.group().splitlines())


def test_the_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
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
    model = ConformerForCTC(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=1.0)  # An untrained model hears no difference between sounds.
    tokenizer = tokenizer_from_pieces(["▁a", "b", "c", "d"])
    Recognizer(model, ParakeetFeatureExtractor(), tokenizer).save_pretrained("model.nemo")
    noise = np.random.default_rng(0)
    for folder in ("speech", "valid"):
        Path(folder).mkdir()
        soundfile.write(f"{folder}/a.wav", noise.normal(scale=0.1, size=32000), 16000)
    Path("valid/a.txt").write_text("a word or two", encoding="utf-8")
    exec(compile(example(), "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert Path("smaller/plan.json").is_file()
