"""Estimate the memory and output size of a job from the header of its source."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from inflate.batch.jobs import Job
from inflate.errors import InflateError
from inflate.io.files import read_files
from inflate.io.remote import local_path
from inflate.options import ConvertOptions

RUNTIME = 250_000_000
"""Bytes of a process that has loaded torch, before its first job."""

_ACTIVATIONS = 200_000_000
"""Bytes of the probes' activations on a CPU, and of all else that does not depend on weights."""


@dataclass(frozen=True)
class Estimate:
    """The size of a job's source and output and its peak memory, in bytes.

    ``obstacles`` are the reasons why it cannot run; ``output`` is then None.
    """

    source: int
    output: int | None
    memory: int
    obstacles: tuple[str, ...] = ()


def estimate(job: Job) -> Estimate:
    """Estimate a job from a dry run of its conversion; its source must be local.

    Files are read and written through the page cache, which counts as free memory: what a job takes
    is both decoders in float32, the image decoder twice where parity compares rounded weights.
    """
    from inflate.workflow.conversion import convert

    options = ConvertOptions(**job.options)
    # Folding computes with the weights, and changes the size by one small tensor.
    dry = replace(options, dry_run=True, post_quant="keep", allow_inexact=False)
    files = filter(os.path.isfile, set(read_files(local_path(job.source))))
    size = sum(path.stat().st_size for path in files)
    try:
        plan = convert(job.source, job.output, **dry.arguments()).plan
    except InflateError as error:
        obstacles = getattr(error, "problems", ()) or (str(error),)
        return Estimate(size, None, _ACTIVATIONS, tuple(obstacles))
    spatial, temporal = (
        sum(tensor.parameters for tensor in plan.of(part)) for part in ("spatial", "temporal")
    )
    images = 1 if plan.config.dtype in (None, "float32") else 2
    modules = 0 if options.skip_parity else 4 * ((1 + images) * spatial + temporal)
    return Estimate(size, plan.nbytes, modules + _ACTIVATIONS)
