"""The command ``inflate``: registers the commands, and turns errors into messages."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from io import StringIO
from typing import Annotated, Any

import typer

from inflate._version import __version__
from inflate.cli.batch import batch
from inflate.cli.console import guarded_streams, print_json, say
from inflate.cli.convert import convert
from inflate.cli.demo import demo
from inflate.cli.help import EXAMPLES, Command, Commands, typer_of
from inflate.cli.inspect import inspect
from inflate.cli.presets import presets
from inflate.cli.report import report
from inflate.cli.verify import verify
from inflate.errors import InflateError, OutputError
from inflate.signals import end_on_signals

ClickException: Any = next(k for k in typer.BadParameter.__mro__ if k.__name__ == "ClickException")
"""The base of all usage errors: click's own, or that of the copy in newer Typers."""

CANNOT_RUN = 2
BUG = 70
"""The exit code of a bug: EX_SOFTWARE of sysexits.h."""


class _App(Commands):
    """The one place where exceptions become messages and exit codes.

    0: done, and parity held. 1: it ran, and parity did not hold. 2: it could not run. 70: a bug,
    with its traceback. 128 + N: ended by signal N, such as 130 by Ctrl-C.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # Not from stdout, which is guarded; Typer would exit with 1.
            traceback.print_exc()
            raise typer.Exit(BUG) from error
        except KeyboardInterrupt as error:
            # The exception may carry what was finished before.
            say(": ".join(filter(None, ("interrupted", *map(str, error.args)))), err=True)
            raise typer.Exit(130) from error


app = typer_of(_App, no_args_is_help=True)
for command in (convert, verify, batch, report, inspect, demo):
    app.command(cls=Command, epilog=EXAMPLES[command.__name__])(command)
app.add_typer(presets, name="presets", epilog=EXAMPLES["presets"])


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"inflate {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "-V",
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Show the version and exit.",
            rich_help_panel="Basics",
        ),
    ] = False,
) -> None:
    """Turn pretrained image autoencoders into video decoders with the same output."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    with guarded_streams():
        end_on_signals()
        # Loading libraries makes many objects that stay: collecting garbage as often as Python
        # does by default takes a twentieth of a short command.
        gc.set_threshold(20_000, *gc.get_threshold()[1:])
        words = sys.argv[1:] if arguments is None else list(arguments)
        try:
            code = _run(words)
            if code != CANNOT_RUN:
                sys.stdout.flush()
        except InflateError as error:  # The result could not be written.
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
        page = StringIO()
        error.show(page)  # Quotes arguments, which may be names of files.
        say(page.getvalue().rstrip("\n"), err=True)
        _print_as_json(arguments, "UsageError", error.format_message())
        return int(error.exit_code)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a bug must not exit with 1, which is failed parity.
        traceback.print_exc()
        return BUG
    return code if isinstance(code, int) else 0
