"""The command ``inflate``: its commands are registered here, and errors become messages here."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from io import StringIO
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from inflate._version import __version__
from inflate.cli.batch import batch
from inflate.cli.console import print_json, say
from inflate.cli.convert import convert
from inflate.cli.demo import demo
from inflate.cli.inspect import inspect
from inflate.cli.presets import presets
from inflate.cli.report import report
from inflate.cli.streams import guarded_streams
from inflate.cli.verify import verify
from inflate.errors import InflateError, OutputError
from inflate.signals import end_on_signals

ClickException: Any = next(k for k in typer.BadParameter.__mro__ if k.__name__ == "ClickException")
"""The base of all usage errors: click's own, or that of the copy which newer Typers carry."""

CANNOT_RUN = 2
BUG = 70
"""The exit code of a bug: EX_SOFTWARE of sysexits.h."""


class Commands(TyperGroup):
    """The one place where exceptions become messages and exit codes.

    0: done, and parity held. 1: it ran, and parity did not hold. 2: it could not run. 70: a bug,
    with its traceback. 128 + N: ended by signal N, as 130 by Ctrl-C.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # Not of stdout, which is guarded; Typer would end with 1.
            traceback.print_exc()
            raise typer.Exit(BUG) from error
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
    with guarded_streams():
        end_on_signals()
        # Libraries make a great many objects that stay while they load: looking through them for
        # cycles as often as Python does takes a twentieth of a short command.
        gc.set_threshold(20_000, *gc.get_threshold()[1:])
        words = sys.argv[1:] if arguments is None else list(arguments)
        try:
            code = _run(words)
            if code != CANNOT_RUN:
                sys.stdout.flush()
        except InflateError as error:
            say(f"error: {error}", err=True)
            _print_as_json(words, type(error).__name__, str(error), error.path)
            return CANNOT_RUN
        return code


def _print_as_json(
    arguments: Sequence[str], kind: str, message: str, path: str | None = None
) -> None:
    """Print an error on stdout as a document where the arguments ask for JSON."""
    if "--json" in arguments:
        from inflate.report.documents import error_document

        with suppress(OutputError):  # The error may be that stdout cannot be written.
            print_json(error_document(kind, message, path))


def _run(arguments: Sequence[str]) -> int:
    try:
        code = app(list(arguments), prog_name="inflate", standalone_mode=False)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except InflateError:
        raise
    except ClickException as error:
        shown = StringIO()
        error.show(shown)  # Quotes arguments, which may be names of files.
        say(shown.getvalue().rstrip("\n"), err=True)
        _print_as_json(arguments, "UsageError", error.format_message())
        return int(error.exit_code)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a bug, which must not read as "parity did not hold".
        traceback.print_exc()
        return BUG
    return code if isinstance(code, int) else 0
