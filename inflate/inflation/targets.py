"""The layouts a video checkpoint can be written in: what each cannot hold, and its names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from inflate.config.presets import scaling_factors
from inflate.errors import OutputError, PlanError
from inflate.formats.dialects import to_diffusers
from inflate.formats.layouts import DECODER
from inflate.inflation.initializers import DIRAC, ZEROS
from inflate.inflation.plan import Dropped, InflationPlan, Make, PlannedTensor
from inflate.io.index import WIDTHS
from inflate.vocabulary import Target

DIFFUSERS_SCALING = 0.18215
"""The default of diffusers for a configuration without a scaling factor."""

ENDINGS: Mapping[Target, tuple[str, ...]] = {
    "autoencoder": (".safetensors",),
    "decoder": (".safetensors",),
    "sgm": (".safetensors",),
    "diffusers": (),
}
"""The endings of the files that each layout writes; none for a folder."""

_IDENTITY_ATTENTION = "an identity at the start, which this layout has no place for"


@dataclass(frozen=True)
class Fitted:
    """A plan in a layout: its tensors named as there, and the ``config.json`` of a folder."""

    plan: InflationPlan
    folder_config: Mapping[str, Any] | None
    notes: tuple[str, ...] = ()


def fit(plan: InflationPlan, target: Target, *, attention_is_identity: bool) -> Fitted:
    """Arrange a plan in a layout.

    Args:
        plan: a plan under LDM's keys.
        target: the layout.
        attention_is_identity: whether the temporal attention is an identity, so that a layout
            without temporal attention may drop it.

    Raises:
        PlanError: the layout cannot hold the plan; every reason is reported.
    """
    problems = _problems(plan, target, attention_is_identity=attention_is_identity)
    if problems:
        raise PlanError(f"layout {target!r} cannot hold this:", problems)
    keys = {tensor.key for tensor in plan.tensors}
    if not any(key.startswith(("quant_conv.", "post_quant_conv.")) for key in keys):
        architecture = replace(plan.config.architecture, embed_dim=None)
        plan = replace(plan, config=replace(plan.config, architecture=architecture))
    if target == "diffusers":
        return _fit_diffusers(plan)
    if target == "autoencoder":
        return Fitted(plan, None)
    if target == "sgm":
        named = tuple(replace(t, name=f"first_stage_model.{t.key}") for t in plan.tensors)
        return Fitted(replace(plan, tensors=named), None)
    kept, left = _split(plan, lambda tensor: tensor.key.startswith(DECODER))
    bare = tuple(replace(t, name=t.key.removeprefix(DECODER)) for t in kept)
    dropped = tuple(_left(tensor, "layout 'decoder' is the bare decoder") for tensor in left)
    notes: tuple[str, ...] = ()
    if any(tensor.key.startswith("post_quant_conv.") for tensor in left):
        notes = (
            "layout 'decoder' has no place for post_quant_conv: give the decoder latents that went "
            "through it, or fold it in with --post-quant fold",
        )
    return Fitted(replace(plan, tensors=bare, dropped=(*plan.dropped, *dropped)), None, notes)


def check_ending(output: object, target: Target) -> None:
    """Refuse an output whose name claims another kind of file; one without an ending claims none.

    Raises:
        OutputError: the ending is not one of the layout's.
    """
    ending = PurePath(str(output).rstrip("/")).suffix.lower()
    endings = ENDINGS[target]
    if not ending or not endings or ending in endings:
        return
    writers = [layout for layout, own in ENDINGS.items() if ending in own]
    raise OutputError(
        f"{output} has the ending {ending}; layout {target!r} writes {' or '.join(endings)} "
        f"(layouts that write {ending}: {', '.join(writers) or 'none'})"
    )


def learned_alpha(alpha: float) -> float:
    """The ``alpha`` of a learned blend whose sigmoid is a fixed one's, between 0 and 1."""
    return math.log(alpha / (1.0 - alpha))


def _problems(plan: InflationPlan, target: Target, *, attention_is_identity: bool) -> list[str]:
    keys = {tensor.key for tensor in plan.tensors}
    found = []
    if target in ("sgm", "diffusers") and "post_quant_conv.weight" in keys:
        found.append("it has no place for post_quant_conv: fold it in with --post-quant fold")
    if target == "sgm" and "quant_conv.weight" in keys:
        found.append("it has no place for quant_conv: fold it in with --post-quant fold")
    if target in ("sgm", "diffusers") and any(key.startswith("quantize.") for key in keys):
        found.append(
            "it has no place for a codebook (quantize.*): choose 'autoencoder' or 'decoder'"
        )
    if target == "diffusers":
        found += _diffusers_problems(plan, keys, attention_is_identity=attention_is_identity)
    return found


def _diffusers_problems(
    plan: InflationPlan, keys: set[str], *, attention_is_identity: bool
) -> list[str]:
    architecture, temporal = plan.config.architecture, plan.config.temporal
    found = []
    if not any(key.startswith("encoder.") for key in keys):
        found.append("it needs the encoder, and the source has none")
    if temporal.time_mode == "attn-only":
        found.append("it needs temporal residual blocks: choose --time-mode conv-only")
    elif temporal.kernel != (3, 1, 1):
        kernel = ",".join(map(str, temporal.kernel))
        found.append(f"its kernel is 3,1,1, not {kernel}: choose --video-kernel-size 3,1,1")
    if temporal.time_mode == "all" and not attention_is_identity:
        found.append("it has no temporal attention, and this one's is no longer an identity")
    if temporal.merge_strategy != "learned":
        found.append(
            f"its blend is learned, and no sigmoid reaches the fixed alpha {temporal.alpha:g}: "
            "choose --merge-strategy learned, or an alpha between 0 and 1"
        )
    if architecture.num_res_blocks != 2:
        found.append(f"it has 2 residual blocks a level, not {architecture.num_res_blocks}")
    if architecture.attn_type == "none":
        found.append("it has attention in the middle, and this architecture none")
    if architecture.attention_levels:
        levels = ", ".join(map(str, architecture.attention_levels))
        found.append(f"it has no attention inside the levels, and this architecture has: {levels}")
    if architecture.ch_mult[0] != 1:
        found.append(
            f"its encoder begins with the channels of its first level, "
            f"{architecture.level_channels[0]}, and this one with {architecture.ch}"
        )
    shape = next((t.shape for t in plan.tensors if t.key == "quant_conv.weight"), None)
    twice = 2 * architecture.z_channels
    if architecture.double_z and shape is not None and shape[:2] != (twice, twice):
        found.append(
            f"its quant_conv takes {twice} channels to {twice}, and this one {shape[1]} to "
            f"{shape[0]}"
        )
    if architecture.tanh_out:
        found.append("it does not end in a tanh")
    if not architecture.resamp_with_conv:
        found.append("its levels are resampled with convolutions")
    if not architecture.double_z:
        found.append("its encoder gives mean and log-variance (double_z)")
    return found


def _fit_diffusers(plan: InflationPlan) -> Fitted:
    architecture = plan.config.architecture
    kept, left = _split(plan, lambda tensor: not _is_temporal_attention(tensor))
    if not any(tensor.key == "quant_conv.weight" for tensor in kept):
        kept = _with_quant_conv(kept, 2 * architecture.z_channels)
        architecture = replace(architecture, embed_dim=architecture.z_channels)
    names = to_diffusers([tensor.key for tensor in kept], len(architecture.ch_mult))
    placed = tuple(
        replace(t, name=names[t.key], shape=t.shape[:2] if _is_attention_weight(t) else t.shape)
        for t in kept
    )
    dropped = tuple(_left(tensor, _IDENTITY_ATTENTION) for tensor in left)
    notes = []
    factor = architecture.scaling_factor
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
    levels = len(architecture.ch_mult)
    config = {
        "_class_name": "AutoencoderKLTemporalDecoder",
        "in_channels": architecture.in_channels,
        "out_channels": architecture.out_ch,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "block_out_channels": list(architecture.level_channels),
        "layers_per_block": architecture.num_res_blocks,
        "latent_channels": architecture.z_channels,
        "sample_size": architecture.resolution,
        "scaling_factor": factor,
        "force_upcast": True,
    }
    temporal = plan.config.temporal
    if temporal.time_mode == "all":
        temporal = replace(temporal, time_mode="conv-only")
    # The header of the file agrees with its config.json.
    architecture = replace(architecture, scaling_factor=factor)
    own = replace(plan.config, architecture=architecture, temporal=temporal)
    laid_out = InflationPlan(own, placed, (*plan.dropped, *dropped))
    return Fitted(laid_out, config, tuple(notes))


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


def _split(plan: InflationPlan, keep: Any) -> tuple[list[PlannedTensor], list[PlannedTensor]]:
    kept = [tensor for tensor in plan.tensors if keep(tensor)]
    return kept, [tensor for tensor in plan.tensors if not keep(tensor)]


def _left(tensor: PlannedTensor, reason: str) -> Dropped:
    source = getattr(tensor.origin, "source", tensor.key)
    return Dropped(source, reason, tensor.info.nbytes)
