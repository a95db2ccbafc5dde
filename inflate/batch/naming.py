"""The names of outputs: templates such as ``out/{stem}.{time_mode}.safetensors``, filled in."""

from __future__ import annotations

import os
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inflate.batch.settings import effective_settings
from inflate.config.schema import Temporal
from inflate.errors import ConfigError, nearest
from inflate.io.remote import is_remote
from inflate.vocabulary import Target
from inflate.workflow.sources import default_output, name_of, stem_of

FIELDS = (
    "stem", "name", "parent", "time_mode", "merge_strategy", "alpha", "video_kernel_size", "kernel",
    "dtype", "seed", "layout", "weights", "post_quant", "attn_type", "prefix", "config", "device",
    "float32_norms",
)  # fmt: skip
"""What may stand in braces."""


def name_output(
    template: str | None, source: str, options: Mapping[str, Any], axes: Sequence[str]
) -> str:
    """The output of a job.

    Args:
        template: a name with fields; a folder, which ends in a slash or exists; or None, for
            beside the source.
        source: where the job reads from.
        options: of the job.
        axes: the options of its matrix: names that are made up here tell them apart.

    Raises:
        ConfigError: an unknown field, or a template that is no template.
    """
    values = _values(source, options)
    folder = template is None or template.endswith(("/", os.sep))
    folder = folder or (not is_remote(template or "") and os.path.isdir(template or ""))
    if not folder:
        assert template is not None
        return _filled(template, values)
    target: Target = options.get("layout") or "autoencoder"
    default = default_output(source, target, inflated=False)
    # The copy of a video checkpoint is called after its layout, as convert calls it.
    if options.get("layout") and stem_of(source).endswith(".video"):
        default = default_output(source, target, inflated=True)
    name = default.name
    told = "".join(f".{values[axis]}" for axis in axes)
    if told:
        stem = stem_of(source)
        name = stem + told + name.removeprefix(stem)
    if template is None:
        return str(default.with_name(name))
    return _filled(template, values).rstrip("/") + "/" + name


def static_folder(template: str | None, source: str) -> str | None:
    """The folder that all outputs of a template lie in; None where that is no local one."""
    if template is None:
        template = "{" if is_remote(source) else os.path.join(os.path.dirname(source), "{")
        template = template.split("*")[0].split("?")[0].split("[")[0]
    if is_remote(template):
        return None
    fixed = template.split("{")[0]
    if fixed == template and os.path.isdir(fixed):
        return fixed
    return os.path.dirname(fixed)


def _filled(template: str, values: Mapping[str, str]) -> str:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(
            f"{template!r} cannot be read: {error}; write {{{{ for a brace itself"
        ) from error
    for _, field, spec, conversion in parts:
        if field is None:
            continue
        if field not in FIELDS:
            known = ", ".join(FIELDS)
            raise ConfigError(
                f"{{{field}}} in {template!r} is unknown{nearest(field, FIELDS)}; expected one of "
                f"{known}"
            )
        if spec or conversion:
            raise ConfigError(f"{{{field}}} in {template!r} cannot be formatted; leave that out")
    return "".join(text + (values[field] if field is not None else "")
                   for text, field, _, _ in parts)  # fmt: skip


def _values(source: str, options: Mapping[str, Any]) -> dict[str, str]:
    settings = effective_settings(options)
    start = Temporal()
    kernel = _kernel(settings.get("temporal.video_kernel_size", start.video_kernel_size))
    config = options.get("config")
    path = source.rstrip("/").rpartition("/")[0] if is_remote(source) else os.path.abspath(source)
    values: dict[str, object] = {
        "stem": stem_of(source),
        "name": name_of(source),
        "parent": path.rpartition("/")[2] if is_remote(source) else Path(path).parent.name,
        "time_mode": settings.get("temporal.time_mode", start.time_mode),
        "merge_strategy": settings.get("temporal.merge_strategy", start.merge_strategy),
        "alpha": f"{settings.get('temporal.alpha', start.alpha):g}",
        "video_kernel_size": kernel,
        "kernel": kernel,
        "dtype": settings.get("dtype") or "source",
        "seed": settings.get("seed", 0),
        "layout": options.get("layout") or "autoencoder",
        "weights": options.get("weights") or "plain",
        "post_quant": options.get("post_quant") or "keep",
        "attn_type": settings.get("architecture.attn_type") or "source",
        "prefix": str(options.get("prefix") or "").strip("."),
        "config": Path(config).stem if config else "none",
        "device": str(options.get("device") or "auto").replace(":", ""),
        "float32_norms": str(bool(settings.get("float32_norms"))).lower(),
    }
    return {key: str(value).replace("/", "_").replace(os.sep, "_") for key, value in values.items()}


def _kernel(sizes: int | Sequence[int]) -> str:
    return str(sizes) if isinstance(sizes, int) else "-".join(map(str, sizes))
