"""``inflate presets``."""

from __future__ import annotations

import typer

from inflate.cli.console import print_json, say
from inflate.cli.help import Command, Commands, typer_of
from inflate.cli.options import JSON, argument
from inflate.config.presets import Preset, load_presets
from inflate.config.schema import flatten
from inflate.errors import ConfigError, nearest

presets = typer_of(Commands)
NAME = argument("NAME", "Name of a preset.")


@presets.callback()
def list_presets(ctx: typer.Context, as_json: bool = JSON) -> None:
    """List, show or export the built-in architectures.

    Without a command, lists the presets that --config accepts.
    """
    if ctx.invoked_subcommand is not None:
        return
    found = load_presets()
    if as_json:
        from inflate.report.documents import presets_document

        print_json(presets_document(found))
        return
    width = max(map(len, found))
    for name, preset in found.items():
        say(f"{name:<{width}}  {preset.description}")


@presets.command(cls=Command)
def show(name: str = NAME) -> None:
    """Show the settings of a preset, one per line."""
    for key, value in flatten(_preset(name).content).items():
        say(f"{key:<34}{value}")


@presets.command(cls=Command)
def export(name: str = NAME) -> None:
    """Print a preset as YAML, to edit and pass to --config."""
    typer.echo(_preset(name).path.read_text(encoding="utf-8"), nl=False)


def _preset(name: str) -> Preset:
    found = load_presets()
    if name not in found:
        raise ConfigError(
            f"{name[:80]!r} is not a preset{nearest(name, found)}; expected one of "
            f"{', '.join(found)}"
        )
    return found[name]
