"""The parity check of a conversion before it is published; needs torch."""

from __future__ import annotations

import torch

from inflate.formats.source import describe
from inflate.io.reader import open_checkpoint
from inflate.io.staging import Staged
from inflate.parity.device import resolve_device
from inflate.parity.diffusers import against_export
from inflate.parity.metrics import TOLERANCES
from inflate.parity.pair import against_source
from inflate.parity.result import ParityReport, Tolerance
from inflate.parity.verify import run_check
from inflate.progress import Progress
from inflate.workflow.planning import Job
from inflate.workflow.views import with_base


def check(
    job: Job,
    staged: Staged,
    device: str,
    *,
    fingerprints: tuple[str, str],
    destination: str,
    progress: Progress,
) -> ParityReport:
    """Read the staged file back and compare it with its source, in float32.

    ``fingerprints`` are those of the source and of the staged file.

    Raises:
        DeviceError: there is no such device, or it runs out of memory.
    """
    where = resolve_device(device)
    tolerance = TOLERANCES["float32"]
    reference = job.source
    with open_checkpoint(staged.path) as opened:
        temporal_alone = job.target == "temporal"
        candidate = describe(with_base(opened, reference) if temporal_alone else opened)
        if job.target == "diffusers":
            pair = against_export(reference, candidate, staged.path, where)
        else:
            pair = against_source(reference, candidate, torch.float32, where)
        return run_check(
            pair,
            reference=(str(reference.checkpoint.path), fingerprints[0]),
            candidate=(destination, fingerprints[1]),
            dtype=torch.float32,
            device=where,
            tolerance=Tolerance(tolerance, tolerance),
            seed=job.plan.config.seed,
            fold=job.fold,
            fallback=device == "auto" and where.type == "cpu",
            progress=progress,
        )
