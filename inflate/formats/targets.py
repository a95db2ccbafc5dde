"""The layouts that a video checkpoint can be written in: names, files, readers and demands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from inflate.config.schema import Config
from inflate.formats.dialects import Dialect
from inflate.formats.layouts import DECODER, PASSED_THROUGH, STATISTICS
from inflate.formats.locate import Located
from inflate.vocabulary import Target

Demand = Literal["no post_quant_conv", "no quant_conv", "no codebook", "diffusers' class"]


@dataclass(frozen=True)
class Layout:
    """How a layout stores a video autoencoder.

    Args:
        naming: the dialect of its names.
        prefix: precedes each name; a prefix that starts with ``-`` is taken off it.
        parts: the parts that it has a place for.
        files: what it consists of.
        readers: the tools that read it.
        demands: conditions on what is written.
    """

    naming: Dialect
    prefix: str
    parts: tuple[str, ...]
    files: tuple[str, ...]
    readers: str
    demands: tuple[Demand, ...] = ()

    @property
    def endings(self) -> tuple[str, ...]:
        """The endings of its file; none for a folder."""
        return () if "config.json" in self.files else tuple(f".{kind}" for kind in self.files)


_FILE = ("safetensors",)
_CORE = (DECODER, "encoder.")

LAYOUTS: Mapping[Target, Layout] = {
    "autoencoder": Layout("ldm", "", (DECODER, *PASSED_THROUGH), _FILE, "inflate, LDM"),
    "decoder": Layout("ldm", f"-{DECODER}", (DECODER,), _FILE, "VideoDecoder of inflate and sgm"),
    "sgm": Layout(
        "ldm", "first_stage_model.", _CORE, _FILE, "sgm's AutoencodingEngine",
        ("no post_quant_conv", "no quant_conv", "no codebook"),
    ),
    "diffusers": Layout(
        "diffusers", "", (*_CORE, "quant_conv."), ("config.json", *_FILE),
        "diffusers' AutoencoderKLTemporalDecoder",
        ("no post_quant_conv", "no codebook", "diffusers' class"),
    ),
}  # fmt: skip
"""Every layout, by the name that ``--layout`` takes."""

STATISTICS_NOTE = (
    f"the layout has no place for the statistics of the latents ({STATISTICS}*); the header "
    "records them as latents_mean and latents_std"
)


def layout_of(located: Located, recorded: str | None) -> Target | None:
    """The layout of a video autoencoder: the one that its header records, if its names agree."""
    if not located.inflated:
        return None
    prefix = f"-{DECODER}" if located.bare and not located.prefix else located.prefix
    fitting = [
        name
        for name, layout in LAYOUTS.items()
        if (layout.naming, layout.prefix) == (located.dialect, prefix)
    ]
    return next((name for name in fitting if name == recorded), next(iter(fitting), None))


def unmet(
    target: Target,
    shapes: Mapping[str, tuple[int, ...]],
    config: Config,
    *,
    attention_is_identity: bool,
) -> list[str]:
    """Every demand of a layout that an autoencoder does not meet, and what to do.

    Args:
        target: the layout.
        shapes: the tensors to write, by LDM's keys.
        config: their configuration.
        attention_is_identity: whether temporal attention changes nothing, so that a layout without
            a place for it may leave it out.
    """
    demands, found = LAYOUTS[target].demands, []
    if "no post_quant_conv" in demands and "post_quant_conv.weight" in shapes:
        found.append("it has no place for post_quant_conv: fold it in with --post-quant fold")
    if "no quant_conv" in demands and "quant_conv.weight" in shapes:
        found.append("it has no place for quant_conv: fold it in with --post-quant fold")
    if "no codebook" in demands and any(key.startswith("quantize.") for key in shapes):
        found.append(
            "it has no place for a codebook (quantize.*): choose 'autoencoder' or 'decoder'"
        )
    if "diffusers' class" in demands:
        found += _unlike_the_class(shapes, config, attention_is_identity=attention_is_identity)
    return found


def _unlike_the_class(
    shapes: Mapping[str, tuple[int, ...]], config: Config, *, attention_is_identity: bool
) -> Iterator[str]:
    """Where an autoencoder is not what ``AutoencoderKLTemporalDecoder`` of diffusers can be."""
    a, temporal = config.architecture, config.temporal
    if not any(key.startswith("encoder.") for key in shapes):
        yield "it needs the encoder, and the source has none"
    elif not a.is_symmetric:
        yield "its encoder and decoder are of one architecture, and these differ"
    if temporal.time_mode == "attn-only":
        yield "it needs temporal residual blocks: choose --time-mode conv-only"
    elif temporal.kernel != (3, 1, 1):
        kernel = ",".join(map(str, temporal.kernel))
        yield f"its kernel is 3,1,1, not {kernel}: choose --video-kernel-size 3,1,1"
    if temporal.time_mode == "all" and not attention_is_identity:
        yield "it has no temporal attention, and this one's is no longer an identity"
    if temporal.merge_strategy != "learned":
        yield (
            f"its blend is learned, and no sigmoid reaches the fixed alpha {temporal.alpha:g}: "
            "choose --merge-strategy learned, or an alpha between 0 and 1"
        )
    if a.num_res_blocks != 2:
        yield f"it has 2 residual blocks per level, not {a.num_res_blocks}"
    if a.attn_type == "none":
        yield "it has attention in the middle, and this architecture none"
    if a.attention_levels:
        levels = ", ".join(map(str, a.attention_levels))
        yield f"it has no attention inside the levels, and this architecture has: {levels}"
    if a.ch_mult[0] != 1:
        yield (
            f"its encoder begins with the channels of its first level, {a.level_channels[0]}, and "
            f"this one with {a.ch}"
        )
    shape, twice = shapes.get("quant_conv.weight"), 2 * a.z_channels
    if a.double_z and shape is not None and shape[:2] != (twice, twice):
        yield (
            f"its quant_conv takes {twice} channels to {twice}, and this one {shape[1]} to "
            f"{shape[0]}"
        )
    if a.tanh_out:
        yield "it does not end in a tanh"
    if not a.resamp_with_conv:
        yield "its levels are resampled with convolutions"
    if not a.double_z:
        yield "its encoder gives mean and log-variance (double_z)"
