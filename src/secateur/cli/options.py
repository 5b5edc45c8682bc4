"""What commands take: options, what is refused of them before the work, and the model that they ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from secateur.cli.output import STANDARD_OUTPUT
from secateur.errors import SecateurError
from secateur.files import expanded, written_at

if TYPE_CHECKING:
    from secateur.recognizer import Recognizer

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Folder(click.Path):
    """A folder's name; a ~ in it is the user's own, where no shell has seen to that."""

    def __init__(self) -> None:
        super().__init__(file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(str(expanded(value)), param, ctx)


def usable_device(_context: click.Context, _option: click.Parameter, name: str) -> str:
    """Refuse before the work rather than in the midst of it."""
    import torch

    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ImportError):
        raise SecateurError(
            f"PyTorch cannot compute on {name!r} here: give --device cpu, or cuda where it sees a GPU"
        ) from None
    if device.type not in ("cpu", "cuda"):
        # Others lack double precision, or tell no times.
        raise SecateurError(
            f"{name!r} is none of the devices that Secateur computes on: give --device cpu or cuda"
        )
    if device.type == "cuda":
        # Convolutions on a GPU would compute in half of what a float32 holds, whatever --dtype and --precision say.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return name


def writable_file(_context: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """Refuse before the work rather than after it."""
    if name == STANDARD_OUTPUT:
        raise SecateurError(f"{option.opts[0]} writes to a file: give the name of one")
    if name is not None:
        path = expanded(name).absolute()
        if path.is_dir() or not path.parent.is_dir():
            raise SecateurError(f"{name} cannot be written: give a file in a folder that exists")
        place = written_at(path)
        if not os.access(path if place is None else place.parent, os.W_OK):
            raise SecateurError(
                f"{name} cannot be written, as its folder is closed to this user: give another"
            )
        return str(expanded(name))
    return None


def writable_output(context: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """The same where standard output will do."""
    return name if name == STANDARD_OUTPUT else writable_file(context, option, name)


def names(_context: click.Context, _option: click.Parameter, text: str) -> tuple[str, ...]:
    """What stands between the commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


device_option = click.option(
    "--device",
    default="cpu",
    show_default=True,
    callback=usable_device,
    help="Where the model computes: cpu, cuda, cuda:1.",
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "float64", "bfloat16", "float16"]),
    help="Precision of the weights; the checkpoint's own by default.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads of PyTorch; as many as there are cores by default.",
)
json_option = click.option(
    "--json",
    "json_file",
    metavar="FILE",
    callback=writable_output,
    help="Write the figures to FILE; - is standard output, and nothing else goes there.",
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress bar.")


def _together(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """One decorator for several options, which help shows in this order."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


model_options = _together(device_option, dtype_option, threads_option, json_option, quiet_option)
"""What every command that loads a model takes."""

training_options = _together(device_option, threads_option, json_option, quiet_option)
"""What a command that makes a model takes."""

speech_options = _together(
    click.option(
        "--score-minutes",
        type=click.FloatRange(0, min_open=True),
        default=20.0,
        show_default=True,
        help="Minutes of audio to score units on.",
    ),
    click.option(
        "--refit-minutes",
        type=click.FloatRange(0),
        default=60.0,
        show_default=True,
        help="Minutes of audio to refit the remaining weights on; 0 switches refitting off.",
    ),
    click.option(
        "--refit-steps",
        type=click.IntRange(0),
        default=200,
        show_default=True,
        help="Gradient steps in which each layer by itself is refitted further; 0: in closed form alone.",
    ),
)
"""How much speech a command that prunes looks at."""

structure_options = _together(
    click.option(
        "--multiple-of",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Hold the numbers of units to multiples of this.",
    ),
    click.option(
        "--min-heads",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Heads that every attention keeps; from 1 on no attention and no layer goes.",
    ),
    click.option(
        "--width",
        is_flag=True,
        help="Prune the residual width too; needs a score that judges it, such as fisher: obs does not.",
    ),
    click.option(
        "--whole",
        metavar="GROUPS",
        default="",
        callback=names,
        help="Groups that stay whole, by name or pattern, with commas between: 'layers.0.*'.",
    ),
)
"""What a command that prunes may touch, and in what steps."""

seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Random seed."
)


def loop_options(batch_seconds: float = 30.0, prefix: str = "") -> Callable[[_Command], _Command]:
    """How a command trains.

    Args:
        batch_seconds: the default.
        prefix: of what help says, for a command that may not train.
    """

    def told(text: str) -> str:
        return prefix + text[0].lower() + text[1:] if prefix else text

    return _together(
        _batch_seconds(batch_seconds, told("Seconds of audio in a batch of training, padding included.")),
        click.option(
            "--augment",
            type=click.Choice(["speeds", "masks", "all", "none"]),
            default="speeds",
            show_default=True,
            help=told(
                "How speech is varied in training. speeds: faster or slower each time; masks: also hides frequency bands and "
                "stretches of time; all: also rooms, noise and splices."
            ),
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "bfloat16"]),
            default="auto",
            show_default=True,
            help=told("What training computes in; auto: bfloat16 where the processor has it."),
        ),
    )


def _batch_seconds(default: float, text: str) -> Callable[[_Command], _Command]:
    return click.option(
        "--batch-seconds",
        type=click.FloatRange(0, min_open=True),
        default=default,
        show_default=True,
        help=text,
    )


batch_seconds_option = _batch_seconds(
    30.0, "Seconds of audio, padding included, that the model is given at once."
)


def given(context: click.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a command's options that the user gave, rather than left as they are by default."""
    return {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }


def prepare(threads: int | None) -> None:
    """Set up the libraries before a model is loaded or made."""
    import logging

    import torch
    from transformers.utils import logging as transformers_logging

    from secateur.timing import hold_memory

    # transformers reports on its own loading and writing, and the hub on each try; what matters of it comes back as errors.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    hold_memory()
    if threads is not None:
        torch.set_num_threads(threads)


def load_recognizer(model: str, device: str, dtype: str | None, threads: int | None) -> Recognizer:
    """The recogniser that the options of `model_options` ask for."""
    import torch

    from secateur.recognizer import load

    prepare(threads)
    return load(model, device=device, dtype=getattr(torch, dtype) if dtype else None)


def check_apart(first: tuple[str, str | None], second: tuple[str, str | None]) -> None:
    """Refuse two options, each with the file that it was given, that would write to one place."""
    (one, here), (other, there) = first, second
    if here is None or there is None:
        return
    if here == there == STANDARD_OUTPUT or Path(here).resolve() == Path(there).resolve():
        raise SecateurError(
            f"{one} {here} and {other} {there} are one place: give another file to one of them"
        )


def check_beside(curves: str | None, out: str | Path) -> None:
    """Refuse a folder of curves within that of the result, which appears whole when all is done."""
    if curves is not None and Path(curves).resolve().is_relative_to(Path(out).resolve()):
        raise SecateurError(
            f"--tensorboard {curves} lies in {out}, where the result is put in the end: give a folder beside it"
        )
