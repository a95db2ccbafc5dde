"""The layouts that a video checkpoint can be written in: names, files, readers and demands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

from inflate.config.schema import Config
from inflate.formats.dialects import Dialect
from inflate.formats.layouts import DECODER, PASSED_THROUGH, STATISTICS, is_inflated
from inflate.formats.locate import Located
from inflate.io.writer import Container
from inflate.vocabulary import Target

Demand = Literal[
    "no post_quant_conv", "no quant_conv", "no codebook", "SVD's temporal layers",
    "diffusers' class", "hardwired",
]  # fmt: skip

FIRST_STAGE = "first_stage_model."
"""The prefix of the autoencoder in the file of a whole diffusion model."""


@dataclass(frozen=True)
class Layout:
    """How a layout stores a video autoencoder.

    Args:
        naming: the dialect of its names.
        prefix: precedes each name; a prefix that starts with ``-`` is taken off it.
        parts: the parts that it has a place for.
        files: the kinds of file that it can be, the default first; or what its folder consists of.
        readers: the tools that read it.
        demands: conditions on what is written.
        hardwired: the settings of the architecture that its reader does not read but assume.
        folds: whether the quant convs are folded in without ``--post-quant fold``.
        temporal_only: whether it holds the temporal layers alone.
        file_name: its reader's name for the file, if that has one.
    """

    naming: Dialect
    prefix: str
    parts: tuple[str, ...]
    files: tuple[str, ...]
    readers: str
    demands: tuple[Demand, ...] = ()
    hardwired: Mapping[str, Any] = field(default_factory=dict)
    folds: bool = False
    temporal_only: bool = False
    file_name: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of diffusers."""
        return "config.json" in self.files

    @property
    def endings(self) -> tuple[str, ...]:
        """The endings of its file; none for a folder."""
        return () if self.is_folder else tuple(f".{kind}" for kind in self.files)

    @property
    def learned(self) -> bool:
        """Whether its reader knows a learned blend alone."""
        return "SVD's temporal layers" in self.demands

    def holds(self, key: str) -> bool:
        """Whether it has a place for a key of LDM."""
        return key.startswith(self.parts) and (not self.temporal_only or is_inflated([key]))


_FILE, _TORCH = ("safetensors",), ("ckpt", "pt")
_CORE = (DECODER, "encoder.")
_NO_QUANT: tuple[Demand, ...] = ("no post_quant_conv", "no quant_conv", "no codebook")

LAYOUTS: Mapping[Target, Layout] = {
    "autoencoder": Layout(
        "ldm", "", (DECODER, *PASSED_THROUGH), _FILE, "inflate (load_video_autoencoder)"
    ),
    "decoder": Layout(
        "ldm", f"-{DECODER}", (DECODER,), (*_FILE, *_TORCH), "VideoDecoder of inflate and sgm"
    ),
    "sgm": Layout(
        "ldm", FIRST_STAGE, _CORE, (*_FILE, *_TORCH), "sgm's DiffusionEngine", _NO_QUANT
    ),
    "diffusers": Layout(
        "diffusers", "", (*_CORE, "quant_conv."), ("config.json", *_FILE),
        "diffusers' AutoencoderKLTemporalDecoder",
        ("no post_quant_conv", "no codebook", "SVD's temporal layers", "diffusers' class"),
    ),
    "comfyui": Layout(
        "ldm", "", _CORE, _FILE, "ComfyUI's Load VAE",
        (*_NO_QUANT, "SVD's temporal layers", "hardwired"),
        hardwired={
            "ch": 128, "ch_mult": (1, 2, 4, 4), "num_res_blocks": 2, "z_channels": 4,
            "in_channels": 3, "out_ch": 3, "double_z": True, "resamp_with_conv": True,
            "tanh_out": False, "give_pre_end": False,
        },
        folds=True,
    ),
    "cogvideo": Layout(
        "ldm", "", _CORE, _TORCH, "CogVideo's AutoencodingEngine", _NO_QUANT,
        file_name="video_model.ckpt",
    ),
    "temporal": Layout(
        "ldm", "", (DECODER,), _FILE, "inflate convert --base", temporal_only=True
    ),
}  # fmt: skip
"""Every layout, by the name that ``--layout`` takes."""


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


def container_of(target: Target, output: object) -> Container:
    """The kind of file that a layout writes under a name, which :func:`check_ending` accepted."""
    if LAYOUTS[target].is_folder:
        return "safetensors"
    ending = PurePath(str(output).rstrip("/")).suffix.lower()
    kinds = LAYOUTS[target].files
    kind = ending[1:] if ending[1:] in kinds else kinds[0]
    return "torch" if kind in _TORCH else "safetensors"


STATISTICS_NOTE = (
    f"the layout has no place for the statistics of the latents ({STATISTICS}*); the header "
    "records them as latents_mean and latents_std"
)


def unmet(
    target: Target,
    shapes: Mapping[str, tuple[int, ...]],
    config: Config,
    *,
    attention_is_identity: bool,
    copying: bool,
) -> list[str]:
    """Every demand of a layout that an autoencoder does not meet, and what to do.

    Args:
        target: the layout.
        shapes: the tensors to write, by LDM's keys.
        config: their configuration.
        attention_is_identity: whether temporal attention changes nothing, so that a layout without
            a place for it may leave it out.
        copying: whether the temporal layers are a video checkpoint's, so that no option changes
            them.
    """
    demands = LAYOUTS[target].demands
    found: list[tuple[str, str]] = []  # What is not met, and the option that would help, if any.
    parts = ("post_quant_conv", "quant_conv")
    extra = [p for p in parts if f"no {p}" in demands and f"{p}.weight" in shapes]
    if extra:
        found.append((f"it has no place for {' and '.join(extra)}", "choose --post-quant fold"))
    if "no codebook" in demands and any(key.startswith("quantize.") for key in shapes):
        found.append(
            ("it has no place for a codebook (quantize.*), as 'autoencoder' and 'decoder' have", "")
        )
    if "SVD's temporal layers" in demands:
        temporal = list(_unlike_svd(config, attention_is_identity=attention_is_identity))
        if temporal and copying:
            temporal = [(why, "") for why, _ in temporal]
            found += temporal[:-1]
            temporal = [(f"{temporal[-1][0]}. The temporal layers of a video checkpoint stay as "
                         "they are: --layout autoencoder, decoder and temporal hold them as "
                         "trained", "")]  # fmt: skip
        found += temporal
    others: list[str] = []
    if "diffusers' class" in demands:
        others += _unlike_the_class(shapes, config)
    if "hardwired" in demands:
        others += _unlike_the_loader(target, shapes, config)
    found += [(why, "") for why in others]
    # An option that would leave another demand unmet is not a way out.
    helps = all(option for _, option in found)
    return [f"{why}: {option}" if helps else why for why, option in found]


def _unlike_svd(config: Config, *, attention_is_identity: bool) -> Iterator[tuple[str, str]]:
    """Where temporal layers are not those of SVD's decoder, and the option that changes it."""
    temporal = config.temporal
    if temporal.time_mode == "attn-only":
        yield "it needs temporal residual blocks", "choose --time-mode conv-only"
    elif temporal.kernel != (3, 1, 1):
        kernel = ",".join(map(str, temporal.kernel))
        yield (
            f"it needs kernel 3,1,1, and this one has {kernel}",
            "choose --video-kernel-size 3,1,1",
        )
    if temporal.time_mode == "all" and not attention_is_identity:
        yield "it has no temporal attention, and this one's is no longer an identity", ""
    if temporal.merge_strategy != "learned":
        yield (
            f"its blend is learned, and no sigmoid reaches the fixed alpha {temporal.alpha:g}",
            "choose --merge-strategy learned, or an alpha between 0 and 1",
        )


def _unlike_the_loader(
    target: Target, shapes: Mapping[str, tuple[int, ...]], config: Config
) -> Iterator[str]:
    """Where an autoencoder is not the one whose settings are fixed in the code of its reader."""
    a, layout = config.architecture, LAYOUTS[target]
    yield from _without_encoder(shapes, config)
    for name, value in layout.hardwired.items():
        if getattr(a, name) != value:
            yield f"{layout.readers} assumes {name} {value}, and this one has {getattr(a, name)}"
    yield from _attention_elsewhere(config)


def _without_encoder(shapes: Mapping[str, tuple[int, ...]], config: Config) -> Iterator[str]:
    if not any(key.startswith("encoder.") for key in shapes):
        yield "it needs the encoder, and the source has none"
    elif not config.architecture.is_symmetric:
        yield "its encoder and decoder are of one architecture, and these differ"


def _attention_elsewhere(config: Config) -> Iterator[str]:
    a = config.architecture
    if a.attn_type == "none":
        yield "it has attention in the middle, and this architecture none"
    if a.attention_levels:
        levels = ", ".join(map(str, a.attention_levels))
        yield f"it has no attention inside the levels, and this architecture has: {levels}"


def _unlike_the_class(shapes: Mapping[str, tuple[int, ...]], config: Config) -> Iterator[str]:
    """Where an autoencoder is not what ``AutoencoderKLTemporalDecoder`` of diffusers can be."""
    a = config.architecture
    yield from _without_encoder(shapes, config)
    if a.num_res_blocks != 2:
        yield f"it has 2 residual blocks per level, not {a.num_res_blocks}"
    yield from _attention_elsewhere(config)
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
