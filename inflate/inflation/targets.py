"""Fit a plan to a layout: names, omitted tensors, and the ``config.json`` of a folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from inflate.config.loading import scaling_factors
from inflate.config.schema import Architecture
from inflate.errors import PlanError
from inflate.formats.dialects import to_diffusers
from inflate.formats.layouts import DECODER, STATISTICS
from inflate.formats.locate import Dropped
from inflate.formats.targets import LAYOUTS, unmet
from inflate.inflation.initializers import DIRAC, ZEROS
from inflate.inflation.plan import InflationPlan, PlannedTensor, widest_first
from inflate.vocabulary import Target

DIFFUSERS_SCALING = 0.18215
"""The default in diffusers if a configuration has no scaling factor."""


def fit(
    plan: InflationPlan, target: Target, *, attention_is_identity: bool, copying: bool
) -> InflationPlan:
    """Convert a plan under LDM's keys to a layout; for the flags see :func:`unmet`.

    Raises:
        PlanError: the layout cannot hold the plan; every reason is reported.
    """
    layout, keys = LAYOUTS[target], [tensor.key for tensor in plan.tensors]
    if problems := unmet(target, keys, plan.config, attention_is_identity, copying):
        raise PlanError(f"layout {target!r} cannot hold this:", problems)
    architecture, temporal = plan.config.architecture, plan.config.temporal
    if not any(key.startswith(("quant_conv.", "post_quant_conv.")) for key in keys):
        architecture = replace(architecture, embed_dim=None)
    reasons = {}
    for tensor in plan.tensors:
        if not layout.holds(tensor.key):
            reasons[tensor.key] = f"layout {target!r} has no place for it"
        elif layout.hardwired and _is_temporal_attention(tensor):
            reasons[tensor.key] = "an initial identity, which this layout has no place for"
    if layout.hardwired and temporal.time_mode == "all":
        temporal = replace(temporal, time_mode="conv-only")
    notes = [*plan.notes]
    if any(key.startswith(STATISTICS) for key in reasons):
        notes.append(
            f"the layout has no place for the statistics of the latents ({STATISTICS}*); the "
            "header records them as latents_mean and latents_std"
        )
    if "post_quant_conv.weight" in reasons and not layout.temporal_only:
        notes.append(
            f"layout {target!r} has no place for post_quant_conv: pass it latents that "
            "went through it, or fold it in with --post-quant fold"
        )
    kept = [tensor for tensor in plan.tensors if tensor.key not in reasons]
    folder_config = None
    if layout.naming == "diffusers":
        architecture, more = _with_latents(architecture)
        notes += more
        if "quant_conv.weight" not in keys:
            kept = _with_quant_conv(kept, 2 * architecture.z_channels)
            architecture = replace(architecture, embed_dim=architecture.z_channels)
        folder_config = _class_config(architecture)
        levels = len(architecture.ch_mult)
        kept = [replace(t, name=to_diffusers(t.key, levels), shape=_of_class(t)) for t in kept]
    else:
        kept = [replace(tensor, name=layout.name_of(tensor.key)) for tensor in kept]
    dropped = [
        Dropped(replace(t.info, name=t.origin if isinstance(t.origin, str) else t.key), reason)
        for t in plan.tensors
        if (reason := reasons.get(t.key))
    ]
    return InflationPlan(
        replace(plan.config, architecture=architecture, temporal=temporal),
        tuple(kept),
        (*plan.dropped, *dropped),
        tuple(notes),
        folder_config,
    )


def _with_latents(architecture: Architecture) -> tuple[Architecture, list[str]]:
    """The architecture with a scaling factor, and notes on what ``config.json`` cannot hold."""
    notes, factor = [], architecture.scaling_factor
    if factor is None:
        known = scaling_factors(architecture)
        factor = known[0] if len(known) == 1 else DIFFUSERS_SCALING
        if len(known) != 1:
            notes.append(
                f"config.json has the default scaling_factor {factor}; set it with --config PRESET "
                "or --set scaling_factor=NUMBER"
            )
    if architecture.shift_factor:
        notes.append(
            f"diffusers' class has no shift_factor: when decoding with it, add "
            f"{architecture.shift_factor:g} to the latents after dividing by the scaling factor"
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
    """The tensors and an identity ``quant_conv``, which diffusers' class always has."""
    dtype = next(t.dtype for t in tensors if t.key == "encoder.conv_out.weight")
    shape = (channels, channels, 1, 1)
    weight = PlannedTensor("quant_conv.weight", shape, dtype, "passed-through", DIRAC)
    bias = replace(weight, key="quant_conv.bias", shape=(channels,), origin=ZEROS)
    return widest_first([*tensors, weight, bias])


def _is_temporal_attention(tensor: PlannedTensor) -> bool:
    return tensor.part == "temporal" and tensor.key.startswith(f"{DECODER}mid.attn_1.")


def _of_class(tensor: PlannedTensor) -> tuple[int, ...]:
    """The shape of a tensor in diffusers' class, where attention weights are matrices."""
    is_matrix = ".attn_1." in tensor.key and tensor.shape[2:] == (1, 1)
    return tensor.shape[:2] if is_matrix else tensor.shape
