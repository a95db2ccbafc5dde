"""Results and errors as versioned JSON documents: plain values under stable names.

Every document follows the JSON Schema of its name and version in ``schema/``. This module does not
import torch.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inflate.config.presets import Preset
    from inflate.inflation.plan import InflationPlan
    from inflate.parity.result import ParityReport
    from inflate.workflow.inspection import Inspection
    from inflate.workflow.production import ConversionResult

PARITY_SCHEMA = "inflate/parity-report/2"


def as_json(document: Mapping[str, Any]) -> str:
    """A document as JSON; NaN is not allowed."""
    text = json.dumps(document, indent=2, allow_nan=False)
    return text.replace("\x7f", "\\u007f") + "\n"  # json escapes all other control characters.


def _plain(value: Any) -> Any:
    """A result converted to JSON types."""
    if is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


_ITEMS = {
    "bisect": "suspects", "trainability": "tensors", "quality": "probes", "self_test": "damages"
}  # fmt: skip
"""Parts of a report that are lists, and the key of the list in their object."""


def parity_document(report: ParityReport) -> dict[str, Any]:
    """A parity report as ``inflate/parity-report/2``; an error that is not finite is null."""
    apart = {"pictures", "reference", "candidate", "weights"}
    shown = [entry.name for entry in fields(report) if entry.name not in apart]
    parts = {name: _plain(getattr(report, name)) for name in shown}
    for name, key in _ITEMS.items():
        parts[name] = None if parts[name] is None else {key: parts[name]}
    weights = report.weights
    return {
        "schema": PARITY_SCHEMA,
        "verdict": report.verdict,
        "compared_with": report.compared_with,
        "reference": dict(zip(("path", "fingerprint"), report.reference, strict=True)),
        "candidate": dict(zip(("path", "fingerprint"), report.candidate, strict=True)),
        "weights": {
            "compared": weights.compared,
            "different": len(weights.different),
            "names": list(weights.different),
            "temporal": _plain(weights.temporal),
        },
        **parts,
    }


def conversion_document(result: ConversionResult) -> dict[str, Any]:
    """A conversion as ``inflate/conversion/2``."""
    config = result.plan.config
    return {
        "schema": "inflate/conversion/2",
        "output": None if result.output is None else str(result.output),
        "fingerprint": result.fingerprint,
        "source_fingerprint": result.source_fingerprint,
        "source_sha256": result.source_sha256,
        "layout": result.layout,
        "plan": plan_counts(result.plan),
        "architecture": _plain(config.architecture),
        "temporal": _plain(config.temporal),
        "seed": config.seed,
        "parity": None if result.parity is None else parity_document(result.parity),
        "notes": list(result.notes),
        "seconds": {phase: round(value, 4) for phase, value in result.seconds.items()},
    }


def plan_counts(plan: InflationPlan) -> dict[str, int]:
    """The number of tensors copied, initialised, passed through and dropped."""
    parts = Counter(tensor.part for tensor in plan.tensors)
    temporal = (tensor.origin for tensor in plan.tensors if tensor.part == "temporal")
    made = sum(not isinstance(origin, str) for origin in temporal)
    return {
        "copied": parts["spatial"] + parts["temporal"] - made,
        "initialised": made,
        "passed_through": parts["passed-through"],
        "dropped": len(plan.dropped),
    }


def plan_document(plan: InflationPlan) -> dict[str, Any]:
    """Every tensor of a plan with its origin, and every dropped tensor."""
    tensors = [
        {
            "key": tensor.info.name,
            "shape": list(tensor.shape),
            "dtype": tensor.dtype,
            "bytes": tensor.info.nbytes,
            "part": tensor.part,
            "source": tensor.origin if isinstance(tensor.origin, str) else None,
            "rule": None if isinstance(tensor.origin, str) else str(tensor.origin),
        }
        for tensor in plan.tensors
    ]
    dropped = [
        {"source": left.info.name, "reason": left.reason, "bytes": left.info.nbytes}
        for left in plan.dropped
    ]
    return {"tensors": tensors, "dropped": dropped}


def inspection_document(found: Inspection) -> dict[str, Any]:
    """An inspection as ``inflate/inspection/2``; an unknown blend is null."""
    from inflate.formats.targets import LAYOUTS

    blend, temporal = found.blend, _plain(found.temporal)
    if temporal is not None:
        temporal |= {
            "merge_strategy": blend and blend.strategy,
            "alpha": blend and blend.alpha,
            "blend": blend and blend.reason,
        }
    apart = {"files", "has_ema", "blend", "would_write"}
    return {
        "schema": "inflate/inspection/2",
        **{e.name: _plain(getattr(found, e.name)) for e in fields(found) if e.name not in apart},
        "path": str(found.path),
        "format": found.files.format,
        "files": [str(path) for path in found.files.all],
        "ema": found.has_ema,
        "trained": found.trained,
        "inflated": found.inflated,
        "temporal": temporal,
        "dtypes": dict(found.dtypes),
        "layouts": {
            layout: {"readers": LAYOUTS[layout].readers, "obstacles": list(problems)}
            for layout, problems in found.layouts.items()
        },
        "metadata": dict(found.metadata),
        "convert": {
            "output": str(found.would_write),
            "copied": found.copied,
            "passed_through": found.passed_through,
            "dropped": sum(group.tensors for group in found.dropped),
        },
    }


def presets_document(presets: Mapping[str, Preset]) -> dict[str, Any]:
    """Presets by their names as ``inflate/presets/1``."""
    content = {name: preset.content for name, preset in presets.items()}
    return {"schema": "inflate/presets/1", "presets": content}


def error_document(kind: str, message: str, path: str | None = None) -> dict[str, Any]:
    """An error as ``inflate/error/1``: its class name, its message, and the file concerned."""
    # Messages give the value first; a separate clause says what was expected or what to do.
    first = message.partition("\n")[0]
    clauses = re.split(r"; |\. (?=[A-Z])", first.replace(path, "") if path else first)
    return {
        "schema": "inflate/error/1",
        "kind": kind,
        "message": message,
        "path": path,
        "hint": clauses[-1] if len(clauses) > 1 else None,
    }
