"""The command ``inflate``: its commands are registered here, and errors become messages here."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from inflate._version import __version__
from inflate.cli.batch import batch
from inflate.cli.console import say
from inflate.cli.convert import convert
from inflate.cli.demo import demo
from inflate.cli.inspect import inspect
from inflate.cli.presets import presets
from inflate.cli.report import report
from inflate.cli.verify import verify
from inflate.errors import InflateError


class Commands(TyperGroup):
    """The one place where exceptions become messages and exit codes.

    0: done, and parity held. 1: it ran, and parity did not hold. 2: it could not run. 130:
    interrupted. Bugs keep their traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except InflateError as error:
            say(f"error: {error}", err=True)
            raise typer.Exit(2) from error
        except BrokenPipeError as error:
            # Whoever read the output has gone; nothing more can be said to them.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error
        except KeyboardInterrupt as error:
            # Whoever knows what was left says so in the exception.
            said = ": ".join(filter(None, ("interrupted", *map(str, error.args))))
            say(said, err=True)
            raise typer.Exit(130) from error


app = typer.Typer(
    cls=Commands,
    help="Turn pretrained image autoencoders into video decoders that start out as their equals.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (convert, verify, batch, report, inspect, presets, demo):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"inflate {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    # Libraries make a great many objects that stay while they load: looking through them for
    # cycles as often as Python does takes a twentieth of a short command.
    gc.set_threshold(20_000, *gc.get_threshold()[1:])
    try:
        app(list(arguments) if arguments is not None else None, prog_name="inflate")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def _terminate(number: int, _frame: FrameType | None) -> None:
    # As an exception, so that staged files are removed on the way out.
    raise SystemExit(128 + number)
