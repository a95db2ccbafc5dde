"""Results as versioned JSON documents: plain values under stable names."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from inflate.inflation.plan import Copy, InflationPlan, Make
from inflate.parity.result import ParityReport
from inflate.workflow import ConversionResult

PARITY_SCHEMA = "inflate/parity-report/1"
CONVERSION_SCHEMA = "inflate/conversion/1"


def parity_document(report: ParityReport) -> dict[str, Any]:
    """A parity report as ``inflate/parity-report/1``; an error that is not finite is null."""
    return {
        "schema": PARITY_SCHEMA,
        "verdict": report.verdict,
        "max_abs_error": report.max_abs_error,
        "reference": dict(zip(("path", "sha256"), report.reference, strict=True)),
        "candidate": dict(zip(("path", "sha256"), report.candidate, strict=True)),
        "environment": asdict(report.environment),
        "tolerance": asdict(report.tolerance),
        "weights": {
            "compared": report.weights.compared,
            "different": len(report.weights.different),
            "names": list(report.weights.different),
        },
        "probes": [
            {
                "name": probe.name,
                "shape": list(probe.shape),
                "frames": probe.frames,
                "verdict": probe.verdict,
                "max_abs_error": probe.max_abs_error,
            }
            for probe in report.probes
        ],
        "cast": None if report.cast is None else asdict(report.cast),
        "fold": None if report.fold is None else asdict(report.fold),
        "notes": list(report.notes),
    }


def conversion_document(result: ConversionResult) -> dict[str, Any]:
    """A conversion as ``inflate/conversion/1``."""
    config = result.plan.config
    return {
        "schema": CONVERSION_SCHEMA,
        "output": None if result.output is None else str(result.output),
        "sha256": result.sha256,
        "layout": result.layout,
        "plan": plan_counts(result.plan),
        "architecture": asdict(config.architecture),
        "temporal": asdict(config.temporal),
        "seed": config.seed,
        "parity": None if result.parity is None else parity_document(result.parity),
        "notes": list(result.notes),
        "seconds": {phase: round(value, 4) for phase, value in result.seconds.items()},
    }


def plan_counts(plan: InflationPlan) -> dict[str, int]:
    """How many tensors are copied, made, passed through and left behind."""
    parts = Counter(tensor.part for tensor in plan.tensors)
    return {
        "copied": parts["spatial"],
        "initialised": parts["temporal"],
        "passed_through": parts["passed-through"],
        "dropped": len(plan.dropped),
    }


def plan_document(plan: InflationPlan) -> dict[str, Any]:
    """Every tensor of a plan with its origin, and every one that is left behind."""
    tensors = [
        {
            "key": tensor.info.name,
            "shape": list(tensor.shape),
            "dtype": tensor.dtype,
            "bytes": tensor.info.nbytes,
            "part": tensor.part,
            "source": tensor.origin.source if isinstance(tensor.origin, Copy) else None,
            "rule": str(tensor.origin.rule) if isinstance(tensor.origin, Make) else None,
        }
        for tensor in plan.tensors
    ]
    return {
        "tensors": tensors,
        "dropped": [
            {"source": dropped.source, "reason": dropped.reason, "bytes": dropped.nbytes}
            for dropped in plan.dropped
        ],
    }
