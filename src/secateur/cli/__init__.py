"""The command line: parse, call, print; the work is done elsewhere, and imported when a command runs."""

from __future__ import annotations

import os
from typing import Any

import click
from click.exceptions import Exit

from secateur import __version__
from secateur.cli import compare, demo, evaluate, inspect, prune, report, train, transcribe
from secateur.cli.output import say
from secateur.errors import SecateurError, reason
from secateur.training.interrupt import stoppable

INTERRUPTED = 130  # 128 and the number of Ctrl-C's signal, as shells have it.


class Refusal(click.ClickException):
    """A request that cannot be met, in one sentence on standard error."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"secateur: {self.message}", file=file, err=file is None)


class Commands(click.Group):
    """Turns what users can put right into a sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with stoppable() as stop:
                try:
                    return super().invoke(ctx)
                except Exception as error:
                    # Imports that were stopped fail by any name.
                    if stop.asked and not isinstance(error, (SecateurError, click.ClickException, Exit)):
                        raise KeyboardInterrupt from error
                    raise
        except BrokenPipeError:
            raise
        except SecateurError as error:
            raise Refusal(str(error)) from error
        except (MemoryError, RuntimeError) as error:
            # By its name, as PyTorch takes a second to import and may not have been; on a CPU it has no name of its own.
            of_memory = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
            if not isinstance(error, MemoryError) and not of_memory:
                raise
            raise Refusal(
                f"there is not enough memory ({reason(error) or 'Python cannot have more'}): make room, or give it less: --batch-seconds to train, to evaluate or to transcribe, --refit-minutes to prune, --batch to inspect"
            ) from error
        except OSError as error:
            # Of a folder that is closed to the user, say, which is met with in many places.
            if error.filename is None:
                raise
            raise Refusal(
                f"{os.fsdecode(error.filename)} cannot be read or written: {reason(error)}"
            ) from error
        except KeyboardInterrupt as interrupt:
            say(str(interrupt) or "stopped before the end")
            ctx.exit(INTERRUPTED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="secateur")
def main() -> None:
    """Prune trained speech recognisers.

    MODEL is a .nemo archive, a folder with a transformers or Secateur checkpoint, or the name of one on the Hugging Face Hub.

    DATA is speech, transcribed or not: a LibriSpeech folder, a NeMo manifest, a Lhotse cut set, a folder of audio with or
    without .txt files beside it, an audio file, several of these with commas between, or synthetic, which espeak-ng speaks
    (synthetic:valid and synthetic:test are said by other voices).
    """


for command in (
    demo.demo,
    inspect.inspect,
    evaluate.evaluate,
    transcribe.transcribe,
    train.train,
    prune.prune,
    compare.compare,
    report.report,
):
    main.add_command(command)
