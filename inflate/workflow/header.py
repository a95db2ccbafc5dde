"""What the header of a published file says; no dates and no paths, so equal work is equal."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

from inflate._version import __version__
from inflate.inflation.plan import Copy, InflationPlan, PlannedTensor
from inflate.loading import CONFIG_KEY
from inflate.vocabulary import VERDICT_KEY, Target

POST_QUANT_KEY = "inflate.post_quant"
LAYOUT_KEY = "inflate.layout"


def header_of(
    plan: InflationPlan, source_name: str, target: Target, *, folded: bool
) -> dict[str, str]:
    """The header of a file that is not verified yet."""
    return {
        "format": "pt",
        "inflate.version": __version__,
        "inflate.source.name": source_name,
        "inflate.source.sha256": "",
        CONFIG_KEY: json.dumps(asdict(plan.config), sort_keys=True),
        "inflate.seed": str(plan.config.seed),
        LAYOUT_KEY: target,
        POST_QUANT_KEY: "fold" if folded else "keep",
        "inflate.provenance": json.dumps(provenance(plan)),
        VERDICT_KEY: "unverified",
        "inflate.parity.device": "none",
    }


def provenance(plan: InflationPlan) -> list[dict[str, object]]:
    """Where each group of tensors came from: how many, of which part, copied or made how."""
    groups = Counter((_group(t.info.name), t.part, _origin(t)) for t in plan.tensors)
    return [
        {"tensors": group, "part": part, "origin": origin, "count": count}
        for (group, part, origin), count in groups.items()
    ]


def _group(name: str) -> str:
    """A name as the two first parts it begins with, which tell one stage of a decoder."""
    parts = name.split(".")
    return ".".join(parts[:2]) + ".*" if len(parts) > 2 else name


def _origin(tensor: PlannedTensor) -> str:
    if isinstance(tensor.origin, Copy):
        return f"copied from {_group(tensor.origin.source)}"
    return f"made: {tensor.origin.rule.name}"
