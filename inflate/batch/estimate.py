"""What a job will weigh, told from the header of its source: nothing is loaded or built.

The shapes of the temporal layers follow from the architecture; a test holds the sums equal to the
plan's own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inflate.batch.jobs import Job
from inflate.batch.settings import effective_settings, temporal_of
from inflate.checkpoint.blending import MERGE_STRATEGY
from inflate.checkpoint.index import WIDTHS
from inflate.checkpoint.layouts import DECODER
from inflate.checkpoint.shapes import image_shapes
from inflate.config.schema import Architecture, Temporal
from inflate.errors import InflateError
from inflate.remote import is_remote, local_path
from inflate.workflow.inspection import ALREADY_VIDEO, Inspection, inspect

RUNTIME = 500_000_000
"""Bytes that a process takes with torch loaded, before its first job."""

_FLOAT32 = 4
_ACTIVATIONS = 100_000_000
"""Bytes of the probes' activations on a CPU, and of what else does not grow with the weights."""


@dataclass(frozen=True)
class Estimate:
    """Bytes of a job: of its source's files, of its output, and of memory at its peak.

    ``obstacles`` say what will stop it; the output is then None.
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
    """How many numbers the temporal layers of a video decoder hold, in every layer together."""
    shapes = image_shapes(architecture)[DECODER]
    blocks = [shape[0] for key, shape in shapes.items() if key.endswith(".conv2.weight")]
    attentions = [shape[0] for key, shape in shapes.items() if key.endswith(".proj_out.weight")]
    volume, found = math.prod(temporal.kernel), 0
    if temporal.time_mode != "attn-only":
        # Two norms, two convolutions with bias, and a mix_factor; then the output convolution.
        found += sum(2 * volume * c * c + 6 * c + 1 for c in blocks)
        found += volume * architecture.out_ch**2 + architecture.out_ch
    if temporal.time_mode != "conv-only":
        # Two feed-forwards (12 c c + 9 c), two attentions (4 c c + c), four norms (2 c each), the
        # embedding of frames (8 c c + 5 c), and a mix_factor.
        found += sum(40 * c * c + 33 * c + 1 for c in attentions)
    return found


def available_memory() -> int:
    """Bytes that this machine, or the container around this process, can still give."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        found.append(limit - int((group / "memory.current").read_text(encoding="ascii")))
    return max(0, min(found))


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
