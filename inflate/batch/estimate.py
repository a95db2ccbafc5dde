"""Estimate the memory and output size of a job from the header of its source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from inflate.batch.jobs import Job
from inflate.batch.settings import effective_settings, temporal_of
from inflate.config.schema import Architecture, Temporal
from inflate.errors import InflateError
from inflate.formats.blending import MERGE_STRATEGY
from inflate.formats.spec import decoder_spec
from inflate.io.index import WIDTHS
from inflate.io.remote import is_remote, local_path
from inflate.workflow.inspection import ALREADY_VIDEO, Inspection, inspect

RUNTIME = 500_000_000
"""Bytes that a process takes with torch loaded, before its first job."""

_FLOAT32 = 4
_ACTIVATIONS = 100_000_000
"""Bytes of the probes' activations on a CPU, and of what else does not grow with the weights."""


@dataclass(frozen=True)
class Estimate:
    """The size of a job's source and output and its peak memory, in bytes.

    ``obstacles`` say why it cannot run; ``output`` is then None.
    """

    source: int
    output: int | None
    memory: int
    obstacles: tuple[str, ...] = ()


def estimate(job: Job) -> Estimate:
    """Estimate a job from the names and shapes in its source, which has to be local."""
    try:
        found = inspect(
            job.source,
            prefix=job.options.get("prefix"),
            weights=job.options.get("weights") or "plain",
            merge_strategy=effective_settings(job.options).get(MERGE_STRATEGY),
        )
    except InflateError as error:
        size = source_size(job)
        return Estimate(size, None, size + _ACTIVATIONS, (str(error),))
    size = sum(path.stat().st_size for path in found.files.all)
    copied = found.inflated and bool(job.options.get("layout"))
    obstacles = tuple(o for o in found.obstacles if not (copied and o == ALREADY_VIDEO))
    if found.architecture is None or obstacles:
        return Estimate(size, None, size + _ACTIVATIONS, obstacles)
    return _of(job.options, found, found.architecture, size, copied=copied)


def rough_memory(job: Job) -> int:
    """A bound on a job's memory from the sizes of its files alone, generous and quick."""
    kernel = temporal_of(effective_settings(job.options)).kernel
    # Of each residual block, a time stack has prod(kernel) numbers for 9 of the image's; of each
    # attention block, temporal attention has some 11 times as many. Twice for reading back.
    return int(source_size(job) * (4 + math.prod(kernel) / 9 + 11) * 2) + _ACTIVATIONS


def source_size(job: Job) -> int:
    """Bytes of a local source's files; 0 of one that lies elsewhere."""
    if is_remote(job.source):
        return 0
    path = local_path(job.source)
    with suppress(OSError):
        if path.is_dir():
            return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        return path.stat().st_size
    return 0


def temporal_parameters(architecture: Architecture, temporal: Temporal) -> int:
    """The number of elements of all temporal tensors of a video decoder."""
    spec = decoder_spec(architecture, temporal)
    return sum(math.prod(tensor.shape) for tensor in spec if tensor.part is not None)


def _of(
    options: Mapping[str, Any],
    found: Inspection,
    architecture: Architecture,
    size: int,
    *,
    copied: bool,
) -> Estimate:
    settings = effective_settings(options)
    groups = {group.name: group for group in found.parts}
    image = groups["decoder"]
    spatial = image.parameters
    if copied:
        temporal = groups["decoder, temporal"].parameters
    else:
        temporal = temporal_parameters(architecture, temporal_of(settings))
    beside = [g for name, g in groups.items() if not name.startswith("decoder")]
    if (options.get("layout") or "autoencoder") == "decoder":
        beside = []
    # The temporal layers are stored as the spatial ones are.
    width = image.nbytes / max(spatial, 1)
    kept = sum(group.nbytes for group in beside)
    dtype = settings.get("dtype")
    if dtype is not None:
        width = WIDTHS[dtype]
        kept = sum(group.parameters for group in beside) * WIDTHS[dtype]
    output = int((spatial + temporal) * width + kept)
    read = sum(group.nbytes for group in found.parts)
    # Both decoders in float32, the image one twice where it is rounded too, and the pages of both
    # files, of which the system may take back some.
    images = 2 if dtype not in (None, "float32") else 1
    modules = ((1 + images) * spatial + temporal) * _FLOAT32
    if options.get("skip_parity"):
        modules = 0
    return Estimate(size, output, modules + read + output + _ACTIVATIONS)
