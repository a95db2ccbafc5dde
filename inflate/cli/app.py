"""The command ``inflate``: registers the commands, and turns errors into messages."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import typer

from inflate._version import __version__
from inflate.cli.console import guarded_streams, print_json, say
from inflate.cli.help import EXAMPLES, Command, Commands, typer_of
from inflate.cli.options import option
from inflate.errors import InflateError, OutputError, nearest
from inflate.signals import end_on_signals

ClickException: Any = next(k for k in typer.BadParameter.__mro__ if k.__name__ == "ClickException")
"""The base of all usage errors: from click, or from its copy in newer versions of Typer."""

CANNOT_RUN = 2
BUG = 70
"""The exit code of a bug: EX_SOFTWARE of sysexits.h."""


class _App(Commands):
    """Exceptions for which click's exit codes differ from ours."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # Not from stdout, which is guarded. Typer would exit with 1.
            traceback.print_exc()
            raise typer.Exit(BUG) from error
        except KeyboardInterrupt as error:
            # The exception may say what was already finished.
            say(": ".join(filter(None, ("interrupted", *map(str, error.args)))), err=True)
            raise typer.Exit(130) from error


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"inflate {__version__}")
        raise typer.Exit


def _options(
    ctx: typer.Context,
    version: bool = option(  # noqa: ARG001
        "-V",
        "--version",
        default=False,
        callback=_print_version,
        is_eager=True,
        help="Show the version and exit.",
    ),
) -> None:
    """Turn pretrained image autoencoders into video decoders with the same output."""
    if ctx.invoked_subcommand is None:
        say(ctx.get_help(), err=True)
        raise typer.Exit(CANNOT_RUN)


def app_for(words: Sequence[str] = ()) -> typer.Typer:
    """The app with only the command in ``words``; with all commands if there is none.

    Loading the other commands would take a fifth of the time of a short command.
    """
    app = typer_of(_App)
    app.callback()(_options)
    for name in words[:1] if words and words[0] in EXAMPLES else EXAMPLES:
        command = getattr(import_module(f"inflate.cli.{name}"), name)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, epilog=EXAMPLES[name])
        else:
            app.command(cls=Command, epilog=EXAMPLES[name])(command)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done, and parity held. 1: it ran, but parity did not hold. 2: it could not run. 70: a bug,
    with a traceback. 128 + N: ended by signal N, such as 130 for Ctrl-C.
    """
    with guarded_streams():
        end_on_signals()
        # Libraries create many long-lived objects on import: with Python's default thresholds,
        # garbage collection takes a twentieth of a short command.
        gc.set_threshold(200_000, *gc.get_threshold()[1:])
        words = sys.argv[1:] if arguments is None else list(arguments)
        try:
            code = _run(words)
            if code != CANNOT_RUN:
                sys.stdout.flush()  # Raises OutputError if the result could not be written.
            return code
        except InflateError as error:
            kind, message, path = type(error).__name__, str(error), error.path
        except ClickException as error:
            kind, message, path = "UsageError", _usage_text(error), None
        say(f"error: {message}", err=True)
        if "--json" in words:
            from inflate.report.documents import error_document

            with suppress(OutputError):  # stdout itself may be the problem.
                print_json(error_document(kind, message, path))
        return CANNOT_RUN


def _usage_text(error: Any) -> str:
    message: str = error.format_message().rstrip(".")
    ctx = error.ctx
    # For an unknown option: our suggestions are better than click's.
    if ctx is not None and hasattr(error, "possibilities"):
        known = [name for param in ctx.command.get_params(ctx) for name in param.opts]
        name = error.option_name[:80]
        message = f"{name!r} is not an option{nearest(name, known)}"
    if ctx is None:
        return message
    return f"{message}{' See' if message.endswith('?') else '; see'} '{ctx.command_path} --help'"


def _run(arguments: Sequence[str]) -> int:
    try:
        code = app_for(arguments)(list(arguments), prog_name="inflate", standalone_mode=False)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except (InflateError, ClickException, KeyboardInterrupt):
        raise
    except BaseException:  # noqa: BLE001 - a bug must not exit with 1, which is failed parity.
        traceback.print_exc()
        return BUG
    return code if isinstance(code, int) else 0
