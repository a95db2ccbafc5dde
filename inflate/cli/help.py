"""Help pages: options in groups, complete summaries, examples."""

from __future__ import annotations

from typing import Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from inflate.options import Group

WIDTH = 120
SUMMARY = 60
"""The maximum length of the summary of a command or option."""

EXAMPLES = {
    "convert": """
inflate convert img.ckpt --time-mode all
inflate convert img.ckpt --dry-run --verbose
inflate convert img.ckpt --config kl-f8 --dtype float16 -o half.safetensors
inflate convert img.video.safetensors --layout decoder""",
    "verify": """
inflate verify img.ckpt img.video.safetensors
inflate verify img.video.safetensors
inflate verify img.ckpt img.video.safetensors --bisect
inflate verify img.ckpt img.video.safetensors --report report.html --json""",
    "batch": """
inflate batch 'ckpts/*.safetensors' --time-mode all -o out/ --dry-run
inflate batch manifest.yaml --jobs 2 --report-dir reports""",
    "report": """
inflate report report.json
inflate report report.json --to html
inflate report report.json --to md -o -""",
    "inspect": """
inflate inspect img.ckpt
inflate inspect hf://stabilityai/sd-vae-ft-mse --json""",
    "presets": """
inflate presets
inflate presets show kl-f8
inflate presets export kl-f8 > my.yaml""",
    "demo": """
inflate demo
inflate demo out --device cpu""",
}


class _Help:
    """Common code for commands and command groups."""

    def collect_usage_pieces(self: Any, ctx: Any) -> list[str]:
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        pieces = [p.metavar if p.required else f"[{p.metavar}]" for p in arguments]
        return [*pieces, "[OPTIONS]", *(["COMMAND"] if isinstance(self, TyperGroup) else [])]

    def format_options(self: Any, ctx: Any, formatter: Any) -> None:
        commands = getattr(self, "commands", {})
        rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Commands": []}
        rows |= {group: [] for group in get_args(Group)}
        rows["Commands"] = [(name, summary_of(command)) for name, command in commands.items()]
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                rows["Arguments"].append((param.metavar, param.help))
            elif (record := param.get_help_record(ctx)) is not None:
                rows[panel_of(param)].append((record[0], record[1].replace("  [", " [")))
        # Summaries start in the same column in every section and fit one line on a wide terminal.
        most = max(24, formatter.width - SUMMARY - 4)
        firsts = [len(first) for found in rows.values() for first, _ in found]
        column = max((length for length in firsts if length <= most), default=0)
        for title, found in rows.items():
            if found:
                with formatter.section(title):
                    formatter.write_dl([(f"{a:<{column}}", b) for a, b in found], col_max=column)

    def format_epilog(self: Any, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.strip().splitlines():
                    formatter.write(f"  {line}\n")


class Command(_Help, TyperCommand):
    """A command with our help page."""


class Commands(_Help, TyperGroup):
    """A group of commands with our help page."""


def panel_of(option: Any) -> str:
    """The group of an option; options that Typer adds have none."""
    if "--help" in option.opts:
        return "Basics"
    return getattr(option, "rich_help_panel", None) or "Advanced"


def summary_of(command: Any) -> str:
    """The first line of a command's help."""
    return str(command.help).strip().splitlines()[0]


def typer_of(cls: type[TyperGroup]) -> typer.Typer:
    """A Typer app with plain-text help, without rich; it also runs without a command."""
    return typer.Typer(
        cls=cls,
        invoke_without_command=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
    )
