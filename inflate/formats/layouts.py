"""Names in a checkpoint: parts of an autoencoder, surrounding parts, and other families."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from inflate.formats.dialects import MARKS
from inflate.vocabulary import TEMPORAL_PARTS, TemporalPart

DECODER = "decoder."
STATISTICS = "bn."
"""Mean and variance of the latents, which FLUX.2 stores with its autoencoder."""

PASSED_THROUGH = ("encoder.", "quant_conv.", "post_quant_conv.", "quantize.", STATISTICS)
"""Parts of an autoencoder other than its decoder, copied unchanged."""

UNCHECKED = ("quantize.", STATISTICS)
"""Parts that are passed through with any content."""

_AROUND = {
    "loss.": "training loss (discriminator, perceptual)",
    "model_ema.": "moving average of the training weights",
    "model.": "diffusion model",
    "cond_stage_model.": "text encoder",
    "conditioner.": "conditioner of the diffusion model",
    "text_encoders.": "text encoder",
}
"""Parts of files around an autoencoder, and why each is dropped."""

_EXPECTED = "; expected an image autoencoder in the names of LDM, sgm or diffusers"
_CAUSAL = "a causal 3D autoencoder, such as CogVideoX's, HunyuanVideo's, LTX-Video's or Wan's"
_TINY = "TAESD, a tiny autoencoder"
_COSMOS = "a Cosmos tokenizer"
_DEEP = "DC-AE, a deep compression autoencoder"
_MOVQ = "MOVQ (Kandinsky), which feeds the latents to every norm of its decoder"
_OTHER_FAMILIES = {
    "decoder.mid_block.resnets.0.conv1.conv.weight": _CAUSAL,
    "decoder.mid_block.resnets.0.norm1.gamma": _CAUSAL,
    "decoder.middle.0.residual.2.weight": _CAUSAL,
    "decoder.mid.block_1.conv1.conv.weight": _CAUSAL,
    "decoder.temp_conv_in.weight": "a 3D autoencoder (Allegro)",
    "decoder.mid_block.resnets.0.norm1.norm_layer.weight": _MOVQ,
    "decoder.mid.block_1.norm1.norm_layer.weight": _MOVQ,
    "decoder.layers.1.conv.0.weight": _TINY,
    "decoder.layers.3.conv.0.weight": _TINY,
    "8.conv.0.weight": _TINY,
    "decoder.unpatcher3d.wavelets": _COSMOS,
    "decoder.unpatcher.wavelets": _COSMOS,
    "decoder.conv_in.conv_s.weight": _COSMOS,
    "decoder.stages.0.0.main.conv.weight": _DEEP,
    "decoder.up_blocks.0.0.conv.weight": _DEEP,
    "decoder.up_blocks.1.0.conv.weight": _DEEP,
}
"""Keys of families that cannot be inflated; the first match counts."""


def is_inflated(names: Iterable[str]) -> bool:
    """Whether a decoder's tensor or module names include temporal ones."""
    return any(temporal_part(name) for name in names)


def temporal_part(name: str) -> tuple[TemporalPart, str] | None:
    """The temporal part in a tensor or module name, and the rest of the name.

    For ``up.0.block.1.time_stack.out_layers.3.bias`` it is ``time_stack``, ``out_layers.3.bias``.
    """
    pieces = name.split(".")
    for part in TEMPORAL_PARTS:
        if part in pieces:
            return part, ".".join(pieces[pieces.index(part) + 1 :])
    return None


def drop_reason(name: str, root: str) -> str:
    """Why a tensor that is not part of the autoencoder under ``root`` is dropped."""
    # Parts of a training run have the root of the autoencoder, or no root.
    own = name.removeprefix(root)
    for part, reason in _AROUND.items():
        if own.startswith(part):
            return reason
    if not name.startswith(root):
        return f"outside the autoencoder ({root})"
    return "not part of an autoencoder of this family"


def other_family(names: Container[str]) -> str | None:
    """A phrase for messages: the other family that names without a prefix belong to, if any."""
    found = next((family for mark, family in _OTHER_FAMILIES.items() if mark in names), None)
    return None if found is None else found + _EXPECTED


def what_else(names: Sequence[str]) -> str:
    """A phrase for messages: the content of a file without an autoencoder of this family."""
    parts = [name.split(".") for name in names]
    endings = {".".join(each[start:]) for each in parts for start in range(len(each))}
    if family := other_family(endings):
        return family
    if not names:
        return "no tensors; expected an image autoencoder"
    mark = f"no key ends in 'decoder.{next(iter(MARKS))}'"
    if "encoder.conv_in.weight" in endings:
        return f"an encoder, and no decoder of this family: {mark}; expected both"
    if is_inflated(names):
        return (
            f"temporal layers without their decoder: {mark}; expected a whole "
            "video decoder, or the image checkpoint too: convert --base"
        )
    shown = ", ".join(sorted(names)[:3])
    return f"no image autoencoder: {mark} ({len(names)} tensors, such as {shown}){_EXPECTED}"
