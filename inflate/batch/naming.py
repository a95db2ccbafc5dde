"""Output names from templates such as ``out/{stem}.{time_mode}.safetensors``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inflate.config.schema import Settings, Temporal
from inflate.errors import ConfigError, nearest
from inflate.io.location import is_remote
from inflate.options import MATRIX_OPTIONS, SETTINGS, ConvertOptions
from inflate.vocabulary import Target
from inflate.workflow.sources import default_output, name_of, stem_of

FIELDS = ("stem", "name", "parent", "kernel", *MATRIX_OPTIONS)
"""The fields of a template."""

_UNSET = {
    **asdict(ConvertOptions()), **asdict(Temporal()), "attn_type": "source", "dtype": "source",
    "config": "none", "prefix": "", "layout": "autoencoder", "seed": 0, "float32_norms": False,
}  # fmt: skip
"""The text for an option that is not set."""


def name_output(
    template: str | None,
    source: str,
    options: Mapping[str, Any],
    settings: Settings,
    axes: Sequence[str],
) -> str:
    """The output of a job; without a template, the matrix ``axes`` make names distinct.

    A template is a name with fields, or a folder, which ends in a slash. None means the folder of
    the source.

    Raises:
        ConfigError: a field is unknown, or the template is invalid.
    """
    values = _values(source, options, settings)
    if template is not None and not template.endswith("/"):
        return _filled(template, values)
    target: Target = options.get("layout") or "autoencoder"
    stem = stem_of(source)
    # A copy of a video checkpoint is named after its layout, as in convert.
    copied = bool(options.get("layout")) and stem.endswith(".video")
    default = default_output(source, target, inflated=copied)
    # If a layout has a fixed file name, each job needs its own name.
    name = default.name if default.name.startswith(stem) else f"{stem}.{default.name}"
    if axes:
        name = stem + "".join(f".{values[axis]}" for axis in axes) + name.removeprefix(stem)
    if template is None:
        return str(default.with_name(name))
    return _filled(template, values).rstrip("/") + "/" + name


def _filled(template: str, values: Mapping[str, str]) -> str:
    def part(found: re.Match[str]) -> str:
        text = found[0]
        if text in ("{{", "}}"):
            return text[0]
        if text in "{}":
            raise ConfigError(
                f"{template!r} has a brace without a field; write {{{{ or }}}} for a literal brace"
            )
        if text[1:-1] not in FIELDS:
            raise ConfigError(
                f"{text} in {template!r} is unknown{nearest(text[1:-1], FIELDS)}; expected one of "
                f"{', '.join(FIELDS)}"
            )
        return values[text[1:-1]]

    return re.sub(r"\{\{|\}\}|\{[^{}]*\}|[{}]", part, template)


def _values(source: str, options: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    place = source.rstrip("/") if is_remote(source) else os.path.abspath(source)
    values = {
        "stem": stem_of(source),
        "name": name_of(source),
        "parent": f"/{place}".split("/")[-2],
    }
    for name in MATRIX_OPTIONS:
        value = settings.get(SETTINGS[name]) if name in SETTINGS else options.get(name)
        values[name] = _text(name, _UNSET[name] if value is None else value)
    values["kernel"] = values["video_kernel_size"]
    return {key: value.replace("/", "_") for key, value in values.items()}


def _text(name: str, value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "-".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if name == "config":
        return Path(value).stem
    return str(value).strip(".").replace(":", "")
