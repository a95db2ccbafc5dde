"""An inspection as a versioned JSON document; nothing here needs torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from inflate.workflow.inspection import Inspection

INSPECTION_SCHEMA = "inflate/inspection/1"


def inspection_document(found: Inspection) -> dict[str, Any]:
    """An inspection as ``inflate/inspection/1``."""
    return {
        "schema": INSPECTION_SCHEMA,
        "path": str(found.path),
        "format": found.files.format,
        "files": [str(path) for path in found.files.all],
        "names": found.names,
        "prefix": found.prefix,
        "inflated": found.inflated,
        "ema": found.has_ema,
        "architecture": None if found.architecture is None else asdict(found.architecture),
        "temporal": _temporal(found),
        "presets": list(found.presets),
        "dtypes": dict(found.dtypes),
        "parts": [asdict(group) for group in found.parts],
        "dropped": [asdict(group) for group in found.dropped],
        "foreign": list(found.foreign),
        "metadata": dict(found.metadata),
        "fingerprint": found.fingerprint,
        "changed": found.changed,
        "convert": {
            "output": str(found.would_write),
            "copied": found.copied,
            "passed_through": found.passed_through,
            "dropped": sum(group.tensors for group in found.dropped),
        },
        "obstacles": list(found.obstacles),
    }


def _temporal(found: Inspection) -> dict[str, Any] | None:
    """The temporal layers; ``merge_strategy`` and ``alpha`` are null where nothing shows them."""
    if found.temporal is None:
        return None
    blend = found.blend
    known = {
        "merge_strategy": blend and blend.strategy,
        "alpha": blend and blend.alpha,
        "blend": blend and blend.reason,
    }
    return {**asdict(found.temporal), **known}
