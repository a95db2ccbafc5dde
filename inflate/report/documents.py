"""Results as versioned JSON documents: plain values under stable names."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from inflate.inflation.plan import Copy, InflationPlan, Make
from inflate.parity.result import ParityReport
from inflate.report.summary import PARITY_SCHEMA
from inflate.workflow import ConversionResult

CONVERSION_SCHEMA = "inflate/conversion/1"


def parity_document(report: ParityReport) -> dict[str, Any]:
    """A parity report as ``inflate/parity-report/1``; an error that is not finite is null."""
    without = {"pictures", "reference", "candidate", "weights"}
    values = {
        entry.name: _plain(getattr(report, entry.name))
        for entry in fields(report)
        if entry.name not in without
    }
    weights = report.weights
    return {
        "schema": PARITY_SCHEMA,
        "verdict": report.verdict,
        "compared_with": report.compared_with,
        "reference": dict(zip(("path", "sha256"), report.reference, strict=True)),
        "candidate": dict(zip(("path", "sha256"), report.candidate, strict=True)),
        "weights": {
            "compared": weights.compared,
            "different": len(weights.different),
            "names": list(weights.different),
            "temporal": _plain(weights.temporal),
        },
        **values,
    }


def _plain(value: Any) -> Any:
    """A result as values that JSON has."""
    if is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


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
    temporal = (tensor.origin for tensor in plan.tensors if tensor.part == "temporal")
    made = sum(isinstance(origin, Make) for origin in temporal)
    return {
        "copied": parts["spatial"] + parts["temporal"] - made,
        "initialised": made,
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
