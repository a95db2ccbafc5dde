"""The names in a checkpoint: the parts of an autoencoder, the parts around it, other families.

All of this is data about names; no tensor is read.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from inflate.formats.dialects import MARKS
from inflate.vocabulary import TEMPORAL_PARTS, TemporalPart

DECODER = "decoder."
STATISTICS = "bn."
"""Mean and variance of the latents, which FLUX.2 keeps with its autoencoder."""

PASSED_THROUGH = ("encoder.", "quant_conv.", "post_quant_conv.", "quantize.", STATISTICS)
"""Parts of an autoencoder other than its decoder, copied unchanged."""

UNCHECKED = ("quantize.", STATISTICS)
"""Parts that are passed through whatever they hold."""

DROPPED = {
    "loss.": "training loss (discriminator, perceptual)",
    "model_ema.": "moving average of the training weights",
    "model.": "diffusion model",
    "cond_stage_model.": "text encoder",
    "conditioner.": "conditioner of the diffusion model",
    "text_encoders.": "text encoder",
}
"""Parts of files around an autoencoder, and why each is dropped."""

CONDITION = "condition_encoder."
"""What a decoder of ``AsymmetricAutoencoderKL`` uses only for inpainting."""

_EXPECTED = "; expected an image autoencoder in the names of LDM, sgm or diffusers"
_MOVQ = "MOVQ, whose decoder takes the latents in every norm (Kandinsky)"
_CAUSAL = "decoder.mid_block.resnets.0.conv1.conv.weight "

# Keys that identify a family that cannot be inflated here, each under its usual prefixes. Where two
# are named, both must be present. The first match is taken.
_OTHER_FAMILIES: Sequence[tuple[str, str]] = (
    (_CAUSAL + "decoder.mid_block.resnets.0.norm1.weight",
     "a causal 3D autoencoder (HunyuanVideo)"),
    (_CAUSAL + "decoder.mid_block.resnets.0.norm1.gamma", "a causal 3D autoencoder (HunyuanVideo)"),
    (_CAUSAL + "decoder.up_blocks.1.upsamplers.0.conv.conv.weight",
     "a causal 3D autoencoder (LTX-Video)"),
    (_CAUSAL, "a causal 3D autoencoder (CogVideoX)"),
    ("decoder.mid_block.resnets.0.norm1.gamma", "a causal 3D autoencoder (Wan)"),
    ("decoder.middle.0.residual.2.weight", "a causal 3D autoencoder (Wan)"),
    ("decoder.temp_conv_in.weight", "a 3D autoencoder (Allegro)"),
    ("decoder.mid.block_1.conv1.conv.weight", "a causal 3D autoencoder"),
    ("decoder.mid_block.resnets.0.norm1.norm_layer.weight", _MOVQ),
    ("decoder.mid.block_1.norm1.norm_layer.weight", _MOVQ),
    ("decoder.layers.1.conv.0.weight", "TAESD, a tiny autoencoder"),
    ("decoder.layers.3.conv.0.weight", "TAESD, a tiny autoencoder"),
    ("8.conv.0.weight", "TAESD, a tiny autoencoder"),
    ("decoder.unpatcher3d.wavelets", "a Cosmos tokenizer"),
    ("decoder.unpatcher.wavelets", "a Cosmos tokenizer"),
    ("decoder.conv_in.conv_s.weight", "a Cosmos tokenizer"),
    ("decoder.stages.0.0.main.conv.weight", "DC-AE, a deep compression autoencoder"),
    ("decoder.up_blocks.0.0.conv.weight", "DC-AE, a deep compression autoencoder"),
    ("decoder.up_blocks.1.0.conv.weight", "DC-AE, a deep compression autoencoder"),
)  # fmt: skip


def is_inflated(names: Iterable[str]) -> bool:
    """Whether the names of a decoder's tensors or modules include temporal ones."""
    return any(temporal_part(name) for name in names)


def temporal_part(name: str) -> tuple[TemporalPart, str] | None:
    """The temporal part in the name of a tensor or module, and the rest of the name after it.

    For ``up.0.block.1.time_stack.out_layers.3.bias`` it is ``time_stack``, ``out_layers.3.bias``.
    """
    pieces = name.split(".")
    for part in TEMPORAL_PARTS:
        if part in pieces:
            return part, ".".join(pieces[pieces.index(part) + 1 :])
    return None


def drop_reason(name: str, prefix: str) -> str:
    """Why a tensor that is not part of the autoencoder is dropped.

    The parts of a training run are named with the prefix of the autoencoder or without one.
    """
    own = name.removeprefix(prefix)
    for part, reason in DROPPED.items():
        if own.startswith(part):
            return reason
    if not name.startswith(prefix):
        return f"outside the autoencoder ({prefix})"
    return "not part of an autoencoder of this family"


def ends_with(name: str, ending: str) -> bool:
    """Whether a name ends in these components."""
    return name == ending or name.endswith("." + ending)


def family_under(names: Container[str], prefix: str) -> str | None:
    """The other family whose keys have a prefix, as part of a message, or None."""
    for marks, family in _OTHER_FAMILIES:
        if all(prefix + mark in names for mark in marks.split()):
            return family + _EXPECTED
    return None


def what_else(names: Sequence[str]) -> str:
    """What a file without an autoencoder of this family holds, as part of a message."""
    for marks, family in _OTHER_FAMILIES:
        if all(any(ends_with(name, mark) for name in names) for mark in marks.split()):
            return family + _EXPECTED
    if not names:
        return "no tensors; expected an image autoencoder"
    mark = f"no key ends in 'decoder.{next(iter(MARKS))}'"
    if any(ends_with(name, "encoder.conv_in.weight") for name in names):
        return (
            f"an encoder, and no decoder of this family: {mark}; expected an image autoencoder "
            "with its decoder"
        )
    if is_inflated(names):
        return (
            f"temporal layers without the decoder that they belong to: {mark}; expected a whole "
            "video decoder, or the image checkpoint too: convert --base"
        )
    shown = ", ".join(sorted(names)[:3])
    return f"no image autoencoder: {mark} ({len(names)} tensors, such as {shown})"
