"""The layouts of a written video checkpoint: names, files, readers and requirements."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from inflate.config.schema import Config
from inflate.errors import OutputError
from inflate.formats.dialects import Dialect
from inflate.formats.layouts import DECODER, PASSED_THROUGH, is_inflated
from inflate.formats.locate import Located
from inflate.io.writer import Container
from inflate.vocabulary import Target

FIRST_STAGE = "first_stage_model."
"""The prefix of the autoencoder in the file of a whole diffusion model."""


@dataclass(frozen=True)
class Layout:
    """How a layout stores a video autoencoder.

    Args:
        readers: the tools that can read it.
        parts: the parts that it can hold. If it holds the encoder, it must also hold the quant
            convs and the codebook; otherwise they are left out.
        endings: the file name endings, the default first; empty for a folder.
        naming: the dialect of its names.
        prefix: precedes each name.
        bare: whether names are relative to the decoder.
        hardwired: architecture settings that its reader assumes instead of reading. Such a reader
            supports only temporal layers like SVD's, with a learned blend.
        folds: whether the quant convs are folded in even without ``--post-quant fold``.
        temporal_only: whether it holds only the temporal layers.
        file_name: the file name that its reader expects, if any.
    """

    readers: str
    parts: tuple[str, ...] = (DECODER, "encoder.")
    endings: tuple[str, ...] = (".safetensors",)
    naming: Dialect = "ldm"
    prefix: str = ""
    bare: bool = False
    hardwired: Mapping[str, Any] = field(default_factory=dict)
    folds: bool = False
    temporal_only: bool = False
    file_name: str | None = None

    def holds(self, key: str) -> bool:
        """Whether it can hold the tensor of an LDM key."""
        return key.startswith(self.parts) and (not self.temporal_only or is_inflated([key]))

    def name_of(self, key: str) -> str:
        """The name for an LDM key in layouts of that dialect."""
        return key.removeprefix(DECODER) if self.bare else self.prefix + key


_TORCH = (".ckpt", ".pt")
_EITHER = (".safetensors", *_TORCH)
_USUAL = {"num_res_blocks": 2, "double_z": True, "resamp_with_conv": True, "tanh_out": False}

LAYOUTS: Mapping[Target, Layout] = {
    "autoencoder": Layout("inflate (load_video_autoencoder)", (DECODER, *PASSED_THROUGH)),
    "decoder": Layout("VideoDecoder of inflate and sgm", (DECODER,), _EITHER, bare=True),
    "sgm": Layout("sgm's DiffusionEngine", endings=_EITHER, prefix=FIRST_STAGE),
    "diffusers": Layout(
        "diffusers' AutoencoderKLTemporalDecoder", (DECODER, "encoder.", "quant_conv."), (),
        naming="diffusers", hardwired=_USUAL,
    ),
    "comfyui": Layout(
        "ComfyUI's Load VAE", folds=True,
        hardwired={
            **_USUAL, "ch": 128, "ch_mult": (1, 2, 4, 4), "z_channels": 4, "in_channels": 3,
            "out_ch": 3,
        },
    ),
    "cogvideo": Layout(
        "CogVideo's AutoencodingEngine", endings=_TORCH, file_name="video_model.ckpt"
    ),
    "temporal": Layout("inflate convert --base", (DECODER,), temporal_only=True),
}  # fmt: skip
"""Every layout, by the name that ``--layout`` takes."""


def layout_of(located: Located, recorded: str | None) -> Target | None:
    """The layout of a video autoencoder: the recorded one, if its names agree."""
    if not located.inflated:
        return None
    fitting = [
        name
        for name, layout in LAYOUTS.items()
        if (layout.naming, layout.prefix) == (located.dialect, located.prefix)
        and layout.bare is located.bare
    ]
    return next((name for name in fitting if name == recorded), next(iter(fitting), None))


def container_of(target: Target, output: object) -> Container:
    """The kind of file that a layout writes under a name; without an ending, the default.

    Raises:
        OutputError: the ending belongs to another kind of file.
    """
    endings = LAYOUTS[target].endings
    ending = PurePath(str(output).rstrip("/")).suffix.lower() or "".join(endings[:1])
    writers = [name for name, layout in LAYOUTS.items() if ending in layout.endings]
    if ending in endings or not (endings or writers):  # A folder may be called v1.5.
        return "torch" if ending in _TORCH else "safetensors"
    written = " or ".join(endings) or "a folder"
    others = f" (layouts that write {ending}: {', '.join(writers)})" if writers else ""
    raise OutputError(
        f"{output} has the ending {ending}; layout {target!r} writes {written}{others}"
    )


def unmet(
    target: Target,
    keys: Collection[str],
    config: Config,
    attention_is_identity: bool,
    copying: bool,
) -> list[str]:
    """Every requirement of a layout that an autoencoder does not meet, and what to do.

    Temporal attention that is an identity may be left out. When ``copying`` a video checkpoint,
    options cannot change its temporal layers.
    """
    layout = LAYOUTS[target]
    found = [*_misfits(layout, keys, config)]
    for why, option in _unlike_svd(config, attention_is_identity) if layout.hardwired else ():
        found.append((why + _AS_TRAINED, "") if copying else (why, option))
    # Do not suggest an option if another requirement would remain unmet.
    helps = all(option for _, option in found)
    return [f"{why}: {option}" if helps else why for why, option in found]


_AS_TRAINED = " (layouts autoencoder, decoder and temporal can hold it)"


def _misfits(layout: Layout, keys: Collection[str], config: Config) -> Iterator[tuple[str, str]]:
    """What a layout cannot hold or assumes differently, and the option that changes it."""
    a = config.architecture
    present = [part for part in PASSED_THROUGH if any(key.startswith(part) for key in keys)]
    extra = [part for part in present if part not in layout.parts and "encoder." in layout.parts]
    if quant := [part[:-1] for part in extra if part.endswith("quant_conv.")]:
        yield f"it has no place for {' and '.join(quant)}", "choose --post-quant fold"
    if "quantize." in extra:
        yield "it has no place for a codebook (quantize.*), as 'autoencoder' and 'decoder' have", ""
    for name, value in layout.hardwired.items():
        if (own := getattr(a, name)) != value:
            yield f"{layout.readers} assumes {name} {value}, but this one has {own}", ""
    if not layout.hardwired:
        return
    if "encoder." not in present:
        yield "it needs the encoder, but the source has none", ""
    elif not a.is_symmetric:
        yield "its encoder and decoder have the same architecture, but these differ", ""
    if a.attn_type == "none":
        yield "it has attention in the middle, but this architecture has none", ""
    if a.attention_levels:
        levels = ", ".join(map(str, a.attention_levels))
        yield f"it has no attention inside the levels, but this architecture has: {levels}", ""
    if layout.naming == "diffusers":
        if a.ch_mult[0] != 1:
            first = a.level_channels[0]
            why = f"its encoder begins with the channels of its first level, {first}"
            yield f"{why}, but this one with {a.ch}", ""
        if a.double_z and a.embed_dim not in (None, a.z_channels):
            yield f"its quant_conv keeps {a.z_channels} channels; this one has {a.embed_dim}", ""


def _unlike_svd(config: Config, attention_is_identity: bool) -> Iterator[tuple[str, str]]:
    """How temporal layers differ from those of SVD's decoder, which some readers assume."""
    temporal = config.temporal
    if temporal.time_mode == "attn-only":
        yield "it needs temporal residual blocks", "choose --time-mode conv-only"
    elif temporal.kernel != (3, 1, 1):
        kernel = ",".join(map(str, temporal.kernel))
        why = f"it needs kernel 3,1,1, not {kernel}"
        yield why, "choose --video-kernel-size 3,1,1"
    if temporal.time_mode == "all" and not attention_is_identity:
        yield "it has no temporal attention, but this one's is no longer an identity", ""
    if temporal.merge_strategy != "learned":
        why = f"its blend is learned, but a sigmoid cannot reach the fixed alpha {temporal.alpha:g}"
        yield why, "choose --merge-strategy learned, or an alpha between 0 and 1"
