"""Check a conversion before it is published; needs torch."""

from __future__ import annotations

import torch

from inflate.formats.source import describe
from inflate.io.reader import open_checkpoint
from inflate.io.staging import Staged
from inflate.parity.device import fell_back, resolve_device
from inflate.parity.diffusers import against_export
from inflate.parity.metrics import TOLERANCES
from inflate.parity.pair import against_source, against_video
from inflate.parity.result import ParityReport, Tolerance
from inflate.parity.verify import run_check
from inflate.progress import Progress
from inflate.workflow.joining import with_base
from inflate.workflow.planning import Job
from inflate.workflow.production import Fingerprints


def check(
    device: str,
    job: Job,
    staged: Staged,
    fingerprints: Fingerprints,
    progress: Progress,
) -> ParityReport:
    """Read the staged file back and compare it with its source, in float32.

    Args:
        device: where to compute, by name.
        job: the source and what was made from it.
        staged: the result, not published yet.
        fingerprints: those of the source and of the result.
        progress: called with the phase, the steps done and their number.

    Raises:
        DeviceError: there is no such device, or it runs out of memory.
    """
    where = resolve_device(device)
    tolerance = TOLERANCES["float32"]
    reference = job.source
    with open_checkpoint(staged.path) as opened:
        checkpoint = opened
        if job.target == "temporal":
            checkpoint = with_base(checkpoint, reference)
        candidate = describe(checkpoint)
        if job.target == "diffusers":
            pair = against_export(reference, candidate, staged.path, where)
        elif reference.inflated:
            pair = against_video(reference, candidate, torch.float32, where)
        else:
            pair = against_source(reference, candidate, torch.float32, where)
        return run_check(
            pair,
            reference=(str(reference.checkpoint.path), fingerprints.source),
            candidate=(str(staged.destination), fingerprints.output),
            dtype=torch.float32,
            device=where,
            tolerance=Tolerance(tolerance, tolerance),
            seed=job.plan.config.seed,
            fold=job.fold,
            fallback=fell_back(device, where),
            progress=progress,
        )
