"""A plan fitted to a layout: its names, what is left out, and the ``config.json`` of a folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from inflate.config.presets import scaling_factors
from inflate.config.schema import Architecture
from inflate.errors import OutputError, PlanError
from inflate.formats.dialects import to_diffusers
from inflate.formats.layouts import DECODER, STATISTICS
from inflate.formats.targets import LAYOUTS, STATISTICS_NOTE, unmet
from inflate.inflation.initializers import DIRAC, ZEROS
from inflate.inflation.plan import Dropped, InflationPlan, Make, PlannedTensor
from inflate.io.index import WIDTHS
from inflate.vocabulary import Target

DIFFUSERS_SCALING = 0.18215
"""The default of diffusers for a configuration without a scaling factor."""


@dataclass(frozen=True)
class Fitted:
    """A plan in a layout: its tensors named as there, and the ``config.json`` of a folder."""

    plan: InflationPlan
    folder_config: Mapping[str, Any] | None
    notes: tuple[str, ...] = ()


def fit(
    plan: InflationPlan, target: Target, *, attention_is_identity: bool, copying: bool
) -> Fitted:
    """Arrange a plan in a layout.

    Args:
        plan: a plan under LDM's keys.
        target: the layout.
        attention_is_identity: whether the temporal attention is an identity, so that a layout
            without temporal attention may drop it.
        copying: whether the temporal layers are a video checkpoint's.

    Raises:
        PlanError: the layout cannot hold the plan; every reason is reported.
    """
    layout, shapes = LAYOUTS[target], {tensor.key: tensor.shape for tensor in plan.tensors}
    identity = attention_is_identity
    problems = unmet(target, shapes, plan.config, attention_is_identity=identity, copying=copying)
    if problems:
        raise PlanError(f"layout {target!r} cannot hold this:", problems)
    if not any(key.startswith(("quant_conv.", "post_quant_conv.")) for key in shapes):
        plan = _with(plan, replace(plan.config.architecture, embed_dim=None))
    kept = [t for t in plan.tensors if layout.holds(t.key)]
    why = f"layout {target!r} has no place for it"
    left = {t: why for t in plan.tensors if not layout.holds(t.key)}
    notes, config = [], None
    if any(t.key.startswith(STATISTICS) for t in left):
        notes.append(STATISTICS_NOTE)
    if any(t.key.startswith("post_quant_conv.") for t in left) and not layout.temporal_only:
        notes.append(
            f"layout {target!r} has no place for post_quant_conv: give the decoder latents that "
            "went through it, or fold it in with --post-quant fold"
        )
    if layout.learned:
        reason = "an identity at the start, which this layout has no place for"
        left |= {t: reason for t in kept if _is_temporal_attention(t)}
        kept = [t for t in kept if not _is_temporal_attention(t)]
        if plan.config.temporal.time_mode == "all":
            temporal = replace(plan.config.temporal, time_mode="conv-only")
            plan = replace(plan, config=replace(plan.config, temporal=temporal))
    if layout.naming == "diffusers":
        architecture, more = _with_latents(plan.config.architecture)
        notes += more
        if "quant_conv.weight" not in shapes:
            kept = _with_quant_conv(kept, 2 * architecture.z_channels)
            architecture = replace(architecture, embed_dim=architecture.z_channels)
        plan, config = _with(plan, architecture), _class_config(architecture)
        names = to_diffusers([t.key for t in kept], len(architecture.ch_mult))
        named = [
            replace(t, name=names[t.key], shape=t.shape[: 2 if _is_attention_weight(t) else None])
            for t in kept
        ]
    elif layout.prefix.startswith("-"):
        named = [replace(t, name=t.key.removeprefix(layout.prefix[1:])) for t in kept]
    else:
        named = [replace(t, name=layout.prefix + t.key) for t in kept] if layout.prefix else kept
    dropped = [
        Dropped(getattr(t.origin, "source", t.key), reason, t.info.nbytes)
        for t, reason in left.items()
    ]
    plan = replace(plan, tensors=tuple(named), dropped=(*plan.dropped, *dropped))
    return Fitted(plan, config, tuple(notes))


def check_ending(output: object, target: Target) -> None:
    """Refuse an output whose name claims another kind of file; one without an ending claims none.

    Raises:
        OutputError: the ending is not one of the layout's.
    """
    ending = PurePath(str(output).rstrip("/")).suffix.lower()
    endings = LAYOUTS[target].endings
    if not ending or not endings or ending in endings:
        return
    writers = [layout for layout, own in LAYOUTS.items() if ending in own.endings]
    raise OutputError(
        f"{output} has the ending {ending}; layout {target!r} writes {' or '.join(endings)} "
        f"(layouts that write {ending}: {', '.join(writers) or 'none'})"
    )


def learned_alpha(alpha: float) -> float:
    """The ``alpha`` of a learned blend whose sigmoid is a fixed one's, between 0 and 1."""
    return math.log(alpha / (1.0 - alpha))


def _with(plan: InflationPlan, architecture: Architecture) -> InflationPlan:
    return replace(plan, config=replace(plan.config, architecture=architecture))


def _with_latents(architecture: Architecture) -> tuple[Architecture, list[str]]:
    """An architecture with a scaling factor, and notes on what ``config.json`` cannot hold."""
    notes, factor = [], architecture.scaling_factor
    if factor is None:
        known = scaling_factors(architecture)
        factor = known[0] if len(known) == 1 else DIFFUSERS_SCALING
        if len(known) != 1:
            notes.append(
                f"the scaling factor is not known from the file; config.json says {factor}. Set it "
                "with --config PRESET or --set scaling_factor=NUMBER"
            )
    if architecture.shift_factor:
        notes.append(
            f"the latents of this family are shifted by {architecture.shift_factor:g}, which "
            "config.json has no place for: diffusers' class has no shift_factor. When decoding "
            "with it, add the shift after dividing by the scaling factor"
        )
    if architecture.latents_mean or architecture.latents_std:
        notes.append(
            "diffusers' class has no place for latents_mean and latents_std: apply them outside; "
            "the header records them"
        )
    return replace(architecture, scaling_factor=factor), notes


def _class_config(architecture: Architecture) -> dict[str, Any]:
    """The ``config.json`` of ``AutoencoderKLTemporalDecoder``."""
    upcast, size = architecture.force_upcast, architecture.sample_size
    return {
        "_class_name": "AutoencoderKLTemporalDecoder",
        "in_channels": architecture.in_channels,
        "out_channels": architecture.out_ch,
        "down_block_types": ["DownEncoderBlock2D"] * len(architecture.ch_mult),
        "block_out_channels": list(architecture.level_channels),
        "layers_per_block": architecture.num_res_blocks,
        "latent_channels": architecture.z_channels,
        "sample_size": architecture.resolution if size is None else size,
        "scaling_factor": architecture.scaling_factor,
        "force_upcast": True if upcast is None else upcast,
    }


def _with_quant_conv(tensors: list[PlannedTensor], channels: int) -> list[PlannedTensor]:
    """Tensors with an identity ``quant_conv``, which diffusers' class always has."""
    dtype = next(t.dtype for t in tensors if t.key == "encoder.conv_out.weight")
    weight = PlannedTensor(
        "quant_conv.weight", (channels, channels, 1, 1), dtype, "passed-through", Make(DIRAC)
    )
    bias = replace(weight, key="quant_conv.bias", shape=(channels,), origin=Make(ZEROS))
    return sorted([*tensors, weight, bias], key=lambda tensor: -WIDTHS[tensor.dtype])


def _is_temporal_attention(tensor: PlannedTensor) -> bool:
    return tensor.part == "temporal" and tensor.key.startswith(f"{DECODER}mid.attn_1.")


def _is_attention_weight(tensor: PlannedTensor) -> bool:
    return ".attn_1." in tensor.key and tensor.shape[2:] == (1, 1)
