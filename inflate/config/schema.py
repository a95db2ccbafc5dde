"""The configuration as frozen data: what an autoencoder looks like and what to make of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Optional, Union

from inflate.vocabulary import (
    GROUPS,
    AttnType,
    MergeStrategy,
    StoredType,
    TimeMode,
    kernel_of,
)

# Optional and Union stay spelled out: OmegaConf reads these annotations on Python 3.10 as well.
# ruff: noqa: UP007, UP045

Settings = dict[str, Any]
"""Dotted keys of a configuration and their values, not yet checked."""


def is_finite_number(value: object) -> bool:
    """Whether a value is a number that float64 holds."""
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False


@dataclass(frozen=True)
class Architecture:
    """An image autoencoder of the family: the ``ddconfig`` of its files, and what stands around it.

    ``embed_dim`` is None where there are no quant convs, ``n_embed`` where there is no codebook;
    ``scaling_factor`` and ``shift_factor`` are what a diffusion model multiplies latents by and
    takes off them first: part of what is known of a family, never applied here.
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

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.ch * mult for mult in self.ch_mult)

    @property
    def attention_levels(self) -> tuple[int, ...]:
        """Levels that carry attention after each block, finest first; none without attention."""
        if self.attn_type == "none":
            return ()
        levels = range(len(self.ch_mult))
        return tuple(i for i in levels if self.resolution // 2**i in self.attn_resolutions)

    @property
    def downsampling(self) -> int:
        """How many pixels a latent spans in height and in width."""
        return int(2 ** (len(self.ch_mult) - 1))

    def module_arguments(self) -> dict[str, Any]:
        """What ``Encoder`` and ``Decoder`` take."""
        outside = ("embed_dim", "n_embed", "scaling_factor", "shift_factor")
        return {k: v for k, v in asdict(self).items() if k not in outside}

    def problems(self) -> list[str]:
        """What keeps this architecture from being built, in words."""
        found = []
        for name in ("ch", "num_res_blocks", "z_channels", "in_channels", "out_ch", "resolution"):
            if getattr(self, name) < 1:
                found.append(f"architecture.{name} is {getattr(self, name)}; expected 1 or more")
        for name in ("embed_dim", "n_embed"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                found.append(f"architecture.{name} is {getattr(self, name)}; expected 1 or more")
        if not self.ch_mult or min(self.ch_mult) < 1:
            found.append(
                f"architecture.ch_mult is {list(self.ch_mult)}; expected at least one number, "
                "each 1 or more"
            )
        elif any(c % GROUPS for c in (self.ch, *self.level_channels)):
            found.append(
                f"architecture.ch is {self.ch} and ch_mult {list(self.ch_mult)}: every level's "
                f"channels must be a multiple of {GROUPS}, the groups of its norms"
            )
        elif self.resolution < self.downsampling:
            found.append(
                f"architecture.resolution is {self.resolution}; expected at least "
                f"{self.downsampling}, so that {len(self.ch_mult)} levels fit"
            )
        if not 0.0 <= self.dropout < 1.0:
            found.append(f"architecture.dropout is {self.dropout}; expected 0 or more, below 1")
        for name in ("scaling_factor", "shift_factor"):
            if getattr(self, name) is not None and not is_finite_number(getattr(self, name)):
                found.append(
                    f"architecture.{name} is {getattr(self, name)}; expected a finite number"
                )
        if self.give_pre_end:
            found.append(
                "architecture.give_pre_end is true: such a decoder gives features, no pictures, "
                "and cannot be checked against one; set it to false"
            )
        return found


@dataclass(frozen=True)
class Temporal:
    """The temporal layers: where they stand and how they start."""

    time_mode: TimeMode = "conv-only"
    merge_strategy: MergeStrategy = "learned"
    alpha: float = 0.0
    video_kernel_size: Union[int, tuple[int, ...]] = 3

    @property
    def kernel(self) -> tuple[int, int, int]:
        """The kernel of every temporal convolution, ``(time, height, width)``."""
        return kernel_of(self.video_kernel_size)

    def module_arguments(self) -> dict[str, Any]:
        """What ``VideoDecoder`` takes beside a ``Decoder``'s arguments."""
        return asdict(self)

    def problems(self) -> list[str]:
        """What keeps these layers from being built, in words."""
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
    """Everything that decides the bytes of a conversion, beside its source."""

    architecture: Architecture
    temporal: Temporal = field(default_factory=Temporal)
    seed: int = 0
    dtype: Optional[StoredType] = None
    float32_norms: bool = False
    description: str = ""

    def problems(self) -> list[str]:
        """Everything that keeps this configuration from being used, in words."""
        found = self.architecture.problems() + self.temporal.problems()
        if self.temporal.time_mode == "attn-only" and self.architecture.attn_type == "none":
            found.append(
                "temporal.time_mode is 'attn-only' and architecture.attn_type 'none': there is "
                "no attention to make temporal; choose 'conv-only' or 'all'"
            )
        return found


SECTIONS = {"architecture": Architecture, "temporal": Temporal}


def flatten(content: Mapping[str, Any]) -> Settings:
    """The settings of a nested mapping, as a YAML file or a header holds them."""
    settings: Settings = {}
    for key, value in content.items():
        if key in SECTIONS and (value is None or isinstance(value, Mapping)):
            settings.update({f"{key}.{inner}": v for inner, v in (value or {}).items()})
        else:
            settings[str(key)] = value
    return settings
