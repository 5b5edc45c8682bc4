"""The folder that a pruned model is kept in: written whole or not at all, read without pickle.

config.json         the dense architecture, and in ``secateur_structure`` what pruning made of it
model.safetensors   the weights that stayed
plan.json           which units those are
modeling_pruned.py, surgery.py (and conformer.py)
what plain transformers needs to load it, with ``trust_remote_code``; Secateur runs no code from a folder
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCTC, PreTrainedConfig, PreTrainedModel

from secateur.errors import SecateurError, reason
from secateur.files import is_there, share_weights
from secateur.models import conformer
from secateur.models.kinds import HEARD
from secateur.structure import surgery
from secateur.structure.plan import FORMAT, PruningPlan
from secateur.structure.slicing import dense_class

PLAN = "plan.json"

# Every file that a result may hold, those of any tokenizer of a CTC model and what a killed writer left included: an earlier
# result is replaced only where there is nothing else.
RESULT = """
    config.json generation_config.json model*.safetensors model.safetensors.index.json
    plan.json modeling_pruned.py surgery.py conformer.py
    preprocessor_config.json tokenizer*.json special_tokens_map.json added_tokens.json
    vocab.json vocab.txt tokenizer.model spiece.model sentencepiece.bpe.model
    run.yaml report.json report.html test.jsonl .*.partial
""".split()

# What file managers leave wherever somebody looks.
LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})

ALIGNMENT = 64
"""Bytes that PyTorch's own tensors begin at multiples of."""

# What SpecAugment puts in the place of frames that it masks; published checkpoints of wav2vec 2.0 lack it.
ONLY_TRAINED_WITH = "masked_spec_embed"

# Transformers copies the file that a class says it is from, and what that imports, when it saves a model again.
MODELING = """\
from {source} import {dense}

from .surgery import pruned_class

Pruned{dense} = pruned_class({dense})
Pruned{dense}.__module__ = __name__
"""

# Where Secateur is imported, AutoModelForCTC prefers what is known here to an auto_map, and chooses by the architecture that
# config.json names. Not in conformer.py, which checkpoints carry: each of them is to be rebuilt by its own code.
AutoConfig.register(
    conformer.ConformerConfig.model_type,
    conformer.ConformerConfig,
    exist_ok=True,
)
AutoModelForCTC.register(
    conformer.ConformerConfig,
    (conformer.ConformerForCTC, surgery.pruned_class(conformer.ConformerForCTC)),
    exist_ok=True,
)


def save_pruned(
    model: PreTrainedModel,
    plan: PruningPlan,
    folder: str | Path,
    *,
    beside: Callable[[Path], None] | None = None,
) -> None:
    """Write a sliced model and its plan, so that Secateur and plain transformers can load it.

    Args:
        model: what `slice_model` made.
        plan: the plan it was made by.
        folder: a new or empty folder, or one with an earlier result, which is replaced.
        beside: writes further files (tokenizer, report) into the folder that it is given.

    Raises:
        SecateurError: the folder holds something else, or the disk does not take it all; then nothing is left behind.
    """
    with new_folder(folder) as partial:
        write_model(model, partial)
        plan.save(partial / PLAN)
        if beside is not None:
            beside(partial)


def write_model(model: PreTrainedModel, folder: str | Path) -> None:
    """Write a model into a folder, without pickle; a pruned one with the code that plain transformers loads it by."""
    model.save_pretrained(folder)
    share_weights(folder)
    dense, folder = dense_class(model), Path(folder)
    if dense is type(model):
        return
    auto_map = {"AutoModelForCTC": f"modeling_pruned.Pruned{dense.__name__}"}
    source, carried = "transformers", [surgery]
    if dense.__module__ == conformer.__name__:
        auto_map["AutoConfig"] = f"conformer.{type(model.config).__name__}"
        source, carried = ".conformer", [surgery, conformer]
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    modeling = MODELING.format(source=source, dense=dense.__name__)
    (folder / "modeling_pruned.py").write_text(modeling, encoding="utf-8")
    for module in carried:
        file = Path(str(module.__file__))
        shutil.copyfile(file, folder / file.name)


def load_model(folder: str | Path) -> PreTrainedModel:
    """Load a CTC model in evaluation mode, pruned or not; no code that lies beside it is run.

    Full-size weights of a pruned model are never in memory.

    Raises:
        SecateurError: there is no checkpoint, it is damaged, or it is of a kind that cannot be heard.
    """
    source = str(folder)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except StrictDataclassError as error:
        raise SecateurError(
            f"{source}: its config.json makes no sense: {' '.join(str(error).split())}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        what, instead = f"{source} is no checkpoint that transformers can read", ""
        if not Path(source).exists():
            what = f"there is no file or folder {source} here, and as a name on the Hugging Face Hub it does not load"
            instead = "; a .nemo file of the Hub is to be downloaded first (hf download NAME FILE.nemo --local-dir .)"
        raise SecateurError(f"{what}: {reason(error)}{instead}") from None
    model_class = _model_class(source, config)
    # No pickle is read from a folder of ours; transformers reads other ones' in its safe mode.
    safe = {"use_safetensors": True} if hasattr(config, "secateur_structure") else {}
    try:
        model, report = model_class.from_pretrained(source, config=config, output_loading_info=True, **safe)
    except (KeyError, TypeError, AttributeError) as error:
        raise SecateurError(
            f"{source}: no model can be built as its config.json says ({reason(error)})"
        ) from None
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        other_shapes = "ignore_mismatched_sizes" in str(error)
        why = "their shapes are not those that its config.json describes" if other_shapes else reason(error)
        raise SecateurError(f"{source}: the weights do not load: {why}") from None
    lacking = {name for name in report["missing_keys"] if not name.endswith(ONLY_TRAINED_WITH)}
    if lacking:
        raise SecateurError(f"{source}: the checkpoint lacks {min(lacking)}, so the model is not whole")
    for name in report["missing_keys"]:
        torch.nn.init.zeros_(model.get_parameter(name))
    for tensor in [*model.parameters(), *model.buffers()]:
        # As it lies in the file it may begin anywhere, and products are rounded by where it does.
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()
    loaded: PreTrainedModel = model.eval()
    return loaded


def _model_class(source: str, config: PreTrainedConfig) -> Any:
    """The class of the CTC model that a configuration describes, which may be a pruned one."""
    if config.model_type not in HEARD:
        raise SecateurError(
            f"{source} is a {config.model_type} model; supported are CTC models of the kinds {', '.join(sorted(HEARD))}"
        )
    if getattr(config, "add_adapter", False):
        raise SecateurError(
            f"{source} has an adapter behind its encoder (add_adapter), which changes its frame rate and cannot be heard"
        )
    known = AutoModelForCTC._model_mapping[type(config)]
    dense = known[0] if isinstance(known, tuple) else known
    return surgery.pruned_class(dense) if hasattr(config, "secateur_structure") else dense


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``folder`` when the context ends well and vanishes when it does not.

    Raises:
        SecateurError: the disk does not take it all; or ``folder`` cannot be replaced, for instance as it holds something other than
            an earlier result: then what was written stays, where the sentence says.
    """
    # So that a folder given as "." has a name, and neighbours, and one that a link leads to is written where it is.
    folder = Path(os.path.realpath(folder))
    # By no process's number, which in a container is always the same.
    partial = folder.with_name(f"{folder.name}.partial-{token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        yield partial
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not isinstance(error, (OSError, SafetensorError)):
            raise
        raise SecateurError(
            f"{folder} cannot be written: {reason(error)}; free or choose another place"
        ) from None
    _replace(folder, partial)


def _replace(folder: Path, written: Path) -> None:
    """Move what was written to where it belongs, in place of an earlier result."""
    earlier = folder.with_name(f"{folder.name}.earlier-{token_hex(4)}")
    try:
        check_free(folder)
        if folder.exists():
            folder.rename(earlier)
        written.rename(folder)
    except (OSError, SecateurError) as error:
        raise SecateurError(
            f"the result is whole in {written}, but could not be moved to {folder}: {reason(error)}"
        ) from None
    finally:
        if earlier.exists() and not folder.exists():
            earlier.rename(folder)
        shutil.rmtree(earlier, ignore_errors=True)


def check_free(folder: Path) -> None:
    """Refuse a place that holds anything but an earlier result, or that cannot be written to."""
    folder = Path(os.path.realpath(folder))
    check_place(folder)
    if folder.is_dir():
        held = sorted(path for path in folder.iterdir() if path.name not in LITTER)
        if held and not _is_result(folder):
            raise SecateurError(
                f"{folder} holds something else than a pruned model; give a new or an empty folder"
            )
        for path in held:
            if not (path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in RESULT)):
                raise SecateurError(
                    f"{folder} holds {path.name} beside a pruned model, which would be lost; move it, or give a new or an "
                    "empty folder"
                )
    elif folder.exists():
        raise SecateurError(f"{folder} is a file; give a new or an empty folder")


def check_place(folder: Path) -> None:
    """Refuse a place where no folder can be made, or put in place of what is there."""
    folder = Path(os.path.realpath(folder))
    if os.path.ismount(folder):
        raise SecateurError(
            f"{folder} is where a disk is mounted, and cannot be replaced as a whole; give a folder in it"
        )
    parent = next(each for each in folder.parents if is_there(each))
    if not parent.is_dir():
        raise SecateurError(f"{parent} is a file, so that there can be no {folder}; give another place")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise SecateurError(
            f"{folder} cannot be written: {parent} is closed to this user; choose another place"
        )


def _is_result(folder: Path) -> bool:
    plan, config = (_json(folder / name) for name in (PLAN, "config.json"))
    return plan.get("format") == FORMAT and "secateur_structure" in config


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
