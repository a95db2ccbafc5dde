"""Where things stand in a checkpoint: its prefix, its parts, and the families that are not ours.

All of it is data about names; no tensor is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from inflate.errors import FamilyError

DECODER = "decoder."
PASSED_THROUGH = ("encoder.", "quant_conv.", "post_quant_conv.", "quantize.")
"""Parts of an autoencoder beside its decoder, kept in the result as they are."""

TEMPORAL_NAMES = frozenset({"mix_factor", "time_stack", "time_mix_conv", "time_mix_block"})
"""Parts of a key that only a video decoder has."""

DROPPED = {
    "loss.": "training loss (discriminator, perceptual)",
    "model_ema.": "moving average of the training weights",
    "model.": "diffusion model",
    "cond_stage_model.": "text encoder",
    "conditioner.": "conditioner of the diffusion model",
    "text_encoders.": "text encoder",
}
"""Parts of files around an autoencoder, and the reason each is left behind."""

_MARK = "mid.block_1.conv1.weight"
"""A key that every decoder of the family has, whatever its architecture."""


@dataclass(frozen=True)
class Layout:
    """Where an autoencoder stands in a file.

    ``prefix`` stands before all its names, ``decoder`` before those of its decoder: the prefix and
    ``decoder.``, or nothing in a file that is a bare decoder.
    """

    prefix: str
    decoder: str

    @property
    def bare(self) -> bool:
        """Whether the file holds a decoder alone, without the name ``decoder.`` before its keys."""
        return self.prefix == self.decoder

    def name_of(self, key: str) -> str | None:
        """The file's name for a key of the autoencoder; None for what a bare decoder lacks."""
        if key.startswith(DECODER):
            return self.decoder + key.removeprefix(DECODER)
        return None if self.bare else self.prefix + key

    def decoder_names(self, names: Iterable[str]) -> list[str]:
        """The names of the decoder's tensors, in the file's words."""
        return [name for name in names if name.startswith(self.decoder)]

    def part_names(self, names: Iterable[str], part: str) -> list[str]:
        """The names of another part's tensors, in the file's words; none in a bare decoder."""
        if self.bare:
            return []
        return [name for name in names if name.startswith(self.prefix + part)]


# Keys that tell a family which cannot be inflated here, each under its usual prefixes.
_OTHER_FAMILIES: Sequence[tuple[str, str]] = (
    ("decoder.mid_block.resnets.0.conv1.weight", "an autoencoder in the names of diffusers"),
    ("decoder.mid_block.resnets.0.spatial_res_block.conv1.weight",
     "an AutoencoderKLTemporalDecoder of diffusers, which is a video decoder already"),
    ("decoder.mid_block.resnets.0.conv1.conv.weight", "a causal 3D autoencoder (CogVideoX)"),
    ("decoder.middle.0.residual.2.weight", "a causal 3D autoencoder (Wan)"),
    ("decoder.mid.block_1.conv1.conv.weight", "a causal 3D autoencoder"),
    ("decoder.layers.1.conv.0.weight", "TAESD, a tiny autoencoder"),
    ("decoder.layers.3.conv.0.weight", "TAESD, a tiny autoencoder"),
    ("8.conv.0.weight", "TAESD, a tiny autoencoder"),
    ("decoder.unpatcher3d.wavelets", "a Cosmos tokenizer"),
    ("decoder.stages.0.0.main.conv.weight", "DC-AE, a deep compression autoencoder"),
)  # fmt: skip


def find_layout(names: Iterable[str], path: object) -> Layout:
    """Where the autoencoder stands among the names of a file.

    Raises:
        FamilyError: there is none, another family's, or more than one.
    """
    names = list(names)
    decoders = [n.removesuffix(_MARK) for n in names if _ends_with(n, DECODER + _MARK)]
    if decoders:
        if len(decoders) > 1:
            raise FamilyError(
                f"{path} holds several autoencoders, under "
                f"{', '.join(repr(d.removesuffix(DECODER)) for d in sorted(decoders))}; "
                "expected one: keep the one that is meant in a file of its own"
            )
        return Layout(decoders[0].removesuffix(DECODER), decoders[0])
    if _MARK in names and any(name.startswith("up.") for name in names):
        return Layout("", "")
    raise FamilyError(f"{path} holds {_what_else(names)}")


def is_inflated(names: Iterable[str]) -> bool:
    """Whether names of a decoder's tensors are those of a video decoder."""
    return any(not TEMPORAL_NAMES.isdisjoint(name.split(".")) for name in names)


def drop_reason(name: str, layout: Layout) -> str | None:
    """Why a tensor that no other part claims is left behind; None where nothing is known of it.

    The parts of a training run stand beside the autoencoder, under its prefix or without one.
    """
    own = name.removeprefix(layout.prefix)
    for part, reason in DROPPED.items():
        if own.startswith(part):
            return reason
    if layout.prefix and not name.startswith(layout.prefix):
        return f"outside the autoencoder ({layout.prefix})"
    return None


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith("." + ending)


def _what_else(names: Sequence[str]) -> str:
    for mark, family in _OTHER_FAMILIES:
        if any(_ends_with(name, mark) for name in names):
            return f"{family}; expected an image autoencoder in the names of LDM and sgm"
    if not names:
        return "no tensors; expected an image autoencoder"
    if any(_ends_with(name, "encoder.conv_in.weight") for name in names):
        return (
            "an encoder, and no decoder of this family: no key ends in "
            f"'decoder.{_MARK}'; expected an image autoencoder with its decoder"
        )
    shown = ", ".join(sorted(names)[:3])
    return (
        f"no image autoencoder: no key ends in 'decoder.{_MARK}' ({len(names)} tensors, such as "
        f"{shown})"
    )
