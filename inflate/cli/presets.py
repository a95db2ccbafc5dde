"""``inflate presets``."""

from __future__ import annotations

from inflate.cli.console import print_json, say
from inflate.cli.options import Json


def presets(as_json: Json = False) -> None:
    """List the architectures that come with the package, for --config."""
    from inflate.config.presets import load_presets

    found = load_presets()
    if as_json:
        from inflate.report.documents import presets_document

        print_json(presets_document(found))
        return
    width = max(map(len, found))
    for name, preset in found.items():
        say(f"{name:<{width}}  {preset.description}")
