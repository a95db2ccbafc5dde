"""MkDocs hook: append the help of every command to the page ``commands.md``."""

from __future__ import annotations

import os
from typing import Any

import typer
from typer.testing import CliRunner

from inflate.cli.app import app_for


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Add a section per command to the page of commands; leave other pages as they are."""
    if page.file.src_uri != "commands.md":
        return markdown
    os.environ |= {"COLUMNS": "100", "NO_COLOR": "1"}
    group: Any = typer.main.get_command(app_for())
    words: list[list[str]] = []
    for name, command in group.commands.items():
        words += [[name], *([name, inner] for inner in getattr(command, "commands", {}))]
    sections = [f"## inflate {' '.join(line)}\n\n```text\n{_help(line)}\n```" for line in words]
    return "\n\n".join([markdown.rstrip(), *sections])


def _help(words: list[str]) -> str:
    done = CliRunner().invoke(app_for(), [*words, "--help"], prog_name="inflate")
    if done.exit_code != 0:
        raise RuntimeError(f"inflate {' '.join(words)} --help failed: {done.output}")
    return done.output.strip()
