"""What the header of a published file says; no dates and no paths, so equal work is equal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict

from inflate._version import __version__
from inflate.errors import printable
from inflate.formats.blending import Blend
from inflate.formats.recorded import CONFIG_KEY, SOURCE_BLEND_KEY, SOURCE_NAME_KEY, origin_of
from inflate.inflation.plan import Copy, InflationPlan, PlannedTensor
from inflate.vocabulary import DEVICE_KEY, VERDICT_KEY, Target

SEED_KEY = "inflate.seed"
PROVENANCE_KEY = "inflate.provenance"
POST_QUANT_KEY = "inflate.post_quant"
LAYOUT_KEY = "inflate.layout"


def header_of(
    plan: InflationPlan,
    source_name: str,
    target: Target,
    *,
    folded: bool,
    blend: Blend | None,
    copied: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The header of a file that is not verified yet.

    Args:
        plan: what the file holds.
        source_name: the name of its source.
        target: its layout.
        folded: whether ``post_quant_conv`` is folded in.
        blend: how its source blends, where that is a video checkpoint.
        copied: the header of that video checkpoint.
    """
    copied = copied or {}
    folded = folded or copied.get(POST_QUANT_KEY) == "fold"
    header = {
        "format": "pt",
        "inflate.version": __version__,
        SOURCE_NAME_KEY: printable(source_name),
        CONFIG_KEY: json.dumps(asdict(plan.config), sort_keys=True),
        SEED_KEY: str(plan.config.seed),
        LAYOUT_KEY: target,
        POST_QUANT_KEY: "fold" if folded else "keep",
        PROVENANCE_KEY: json.dumps(provenance(plan)),
        VERDICT_KEY: "unverified",
        DEVICE_KEY: "none",
    }
    if blend is not None:
        header[SOURCE_BLEND_KEY] = f"{blend.strategy}: {blend.reason}"
    return header | origin_of(copied)


def provenance(plan: InflationPlan) -> list[dict[str, object]]:
    """Where each group of tensors came from: how many, of which part, copied or made how."""
    groups = Counter((_group(t.info.name), t.part, _origin(t)) for t in plan.tensors)
    return [
        {"tensors": group, "part": part, "origin": origin, "count": count}
        for (group, part, origin), count in groups.items()
    ]


def _group(name: str) -> str:
    """A name as the two first parts it begins with, which identify one stage of a decoder."""
    parts = name.split(".")
    return ".".join(parts[:2]) + ".*" if len(parts) > 2 else name


def _origin(tensor: PlannedTensor) -> str:
    if isinstance(tensor.origin, Copy):
        return f"copied from {_group(tensor.origin.source)}"
    return f"made: {tensor.origin.rule.name}"
