"""The configuration as frozen dataclasses: an autoencoder, and its video decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Optional, Union

from inflate.vocabulary import (
    DDCONFIG_KEYS,
    GROUPS,
    AttnType,
    MergeStrategy,
    StoredType,
    TimeMode,
    kernel_of,
)

# Keep Optional and Union: OmegaConf reads these annotations on Python 3.10 as well.
# ruff: noqa: UP007, UP045

Settings = dict[str, Any]
"""Dotted keys of a configuration and their values, not yet checked."""


def is_finite_number(value: object) -> bool:
    """Whether a value is a number that float64 can hold."""
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False


_SIZES = (
    *("ch", "num_res_blocks", "z_channels", "in_channels", "out_ch", "resolution", "embed_dim"),
    *("n_embed", "decoder_ch", "decoder_num_res_blocks"),
)
_NUMBERS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
_OF_DECODER = "decoder_"
_DIFFERING = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "attn_type")


@dataclass(frozen=True)
class Architecture:
    """An image autoencoder of the family: the ``ddconfig`` of its files, and the parts around it.

    ``embed_dim`` is None without quant convs, ``n_embed`` without a codebook. ``decoder_*`` are
    set if the decoder differs from the encoder. The rest describes latents and their use by
    diffusion models; it is recorded, but never applied.
    """

    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    z_channels: int
    attn_resolutions: tuple[int, ...] = ()
    in_channels: int = 3
    out_ch: int = 3
    resolution: int = 256
    dropout: float = 0.0
    resamp_with_conv: bool = True
    give_pre_end: bool = False
    tanh_out: bool = False
    attn_type: AttnType = "vanilla"
    double_z: bool = True
    embed_dim: Optional[int] = None
    n_embed: Optional[int] = None
    scaling_factor: Optional[float] = None
    shift_factor: Optional[float] = None
    latents_mean: Optional[tuple[float, ...]] = None
    latents_std: Optional[tuple[float, ...]] = None
    force_upcast: Optional[bool] = None
    sample_size: Optional[int] = None
    decoder_ch: Optional[int] = None
    decoder_ch_mult: Optional[tuple[int, ...]] = None
    decoder_num_res_blocks: Optional[int] = None
    decoder_attn_resolutions: Optional[tuple[int, ...]] = None
    decoder_attn_type: Optional[AttnType] = None

    @property
    def decoder(self) -> Architecture:
        """The architecture with the decoder's fields on both sides."""
        own = {name: getattr(self, _OF_DECODER + name) for name in _DIFFERING}
        changes: dict[str, Any] = {name: v for name, v in own.items() if v is not None}
        changes.update({_OF_DECODER + name: None for name in _DIFFERING})
        return replace(self, **changes)

    def with_decoder(self, **fields: Any) -> Architecture:
        """This architecture with these fields for its decoder, recorded only if they differ."""
        changes: dict[str, Any] = {
            _OF_DECODER + name: value
            for name, value in fields.items()
            if value != getattr(self, name)
        }
        return replace(self, **changes)

    @property
    def is_symmetric(self) -> bool:
        """Whether encoder and decoder have the same architecture."""
        return all(getattr(self, _OF_DECODER + name) is None for name in _DIFFERING)

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.ch * mult for mult in self.ch_mult)

    @property
    def attention_levels(self) -> tuple[int, ...]:
        """Levels that have attention after each block, finest first; empty without attention."""
        if self.attn_type == "none":
            return ()
        levels = range(len(self.ch_mult))
        return tuple(i for i in levels if self.resolution // 2**i in self.attn_resolutions)

    @property
    def downsampling(self) -> int:
        """The number of image pixels per latent pixel, along height and width."""
        return int(2 ** (len(self.ch_mult) - 1))

    def module_arguments(self) -> dict[str, Any]:
        """The arguments of ``Encoder``; those of ``Decoder`` come from :attr:`decoder`."""
        return {name: value for name, value in asdict(self).items() if name in DDCONFIG_KEYS}

    def problems(self) -> list[str]:
        """Messages on why this architecture cannot be built."""
        found = [
            f"architecture.{name} is {value}; expected 1 or more"
            for name in _SIZES
            if (value := getattr(self, name)) is not None and value < 1
        ]
        found += self._level_problems("")
        if not self.is_symmetric:
            found += self.decoder._level_problems(_OF_DECODER)
        if not 0.0 <= self.dropout < 1.0:
            found.append(f"architecture.dropout is {self.dropout}; expected 0 or more, below 1")
        for name in _NUMBERS:
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else [value]
            if value is not None and not all(map(is_finite_number, numbers)):
                found.append(f"architecture.{name} is {value}; expected finite numbers")
        if self.give_pre_end:
            found.append(
                "architecture.give_pre_end is true: such a decoder returns features, not images, "
                "and cannot be checked against one; set it to false"
            )
        return found

    def _level_problems(self, of: str) -> list[str]:
        mults = list(self.ch_mult)
        if not mults or min(mults) < 1:
            return [f"architecture.{of}ch_mult is {mults}; expected numbers, each 1 or more"]
        if any(c % GROUPS for c in (self.ch, *self.level_channels)):
            return [
                f"architecture.{of}ch is {self.ch} and ch_mult {mults}: every level's channels "
                f"must be a multiple of {GROUPS}, the groups of its norms"
            ]
        if self.resolution < self.downsampling:
            return [
                f"architecture.resolution is {self.resolution}; expected at least "
                f"{self.downsampling}, so that {len(mults)} levels fit"
            ]
        return []


@dataclass(frozen=True)
class Temporal:
    """The temporal layers: where they are and how they start."""

    time_mode: TimeMode = "conv-only"
    merge_strategy: MergeStrategy = "learned"
    alpha: float = 0.0
    video_kernel_size: Union[int, tuple[int, ...]] = 3

    @property
    def kernel(self) -> tuple[int, int, int]:
        """The kernel size of every temporal convolution, ``(time, height, width)``."""
        return kernel_of(self.video_kernel_size)

    def module_arguments(self) -> dict[str, Any]:
        """The arguments of ``VideoDecoder`` that ``Decoder`` does not have."""
        return asdict(self)

    def problems(self) -> list[str]:
        """Messages on why these layers cannot be built."""
        found = []
        if self.merge_strategy == "fixed" and not 0.0 <= self.alpha <= 1.0:
            found.append(
                f"temporal.alpha is {self.alpha}; expected 0 to 1, since merge_strategy 'fixed' "
                "uses it as the share of the temporal branch"
            )
        elif not is_finite_number(self.alpha):
            found.append(f"temporal.alpha is {self.alpha}; expected a finite number")
        try:
            kernel_of(self.video_kernel_size)
        except ValueError as error:
            found.append(f"temporal.{error}")
        return found


@dataclass(frozen=True)
class Config:
    """All settings that determine the output bytes of a conversion for a given source."""

    architecture: Architecture
    temporal: Temporal = field(default_factory=Temporal)
    seed: int = 0
    dtype: Optional[StoredType] = None
    float32_norms: bool = False
    description: str = ""

    def problems(self) -> list[str]:
        """Messages on why this configuration cannot be used."""
        found = self.architecture.problems() + self.temporal.problems()
        if self.temporal.time_mode == "attn-only" and self.architecture.attn_type == "none":
            found.append(
                "temporal.time_mode is 'attn-only' but architecture.attn_type is 'none': there is "
                "no attention to make temporal; choose 'conv-only' or 'all'"
            )
        return found


SECTIONS = {"architecture": Architecture, "temporal": Temporal}

DECODER_KEYS = {f"decoder.{name}": f"architecture.{_OF_DECODER}{name}" for name in _DIFFERING}
"""Short forms of the keys for a decoder that differs from its encoder."""


def one_line(error: Exception) -> str:
    """The message of an OmegaConf or YAML error, in one line."""
    return " ".join(str(error).split("full_key:")[0].split()).rstrip(". ")


def flatten(content: Mapping[str, Any]) -> Settings:
    """The settings in a nested mapping from a YAML file or a header."""
    settings: Settings = {}
    for key, value in content.items():
        if key in (*SECTIONS, "decoder") and (value is None or isinstance(value, Mapping)):
            own = {f"{key}.{inner}": v for inner, v in (value or {}).items()}
            settings.update({DECODER_KEYS.get(dotted, dotted): v for dotted, v in own.items()})
        else:
            settings[str(key)] = value
    return settings
