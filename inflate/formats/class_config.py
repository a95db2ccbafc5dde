"""Settings that tensors do not show, from the configuration of a diffusers class.

It is a ``config.json`` in the folder, or next to a weights file, or JSON in a header.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from inflate.config.schema import Architecture, Settings
from inflate.errors import ConfigError, FamilyError, quoted
from inflate.formats.locate import Located
from inflate.formats.recorded import CONFIG_KEY
from inflate.io.files import CheckpointFiles
from inflate.io.folder import CLASSES, CONFIG, VIDEO_CLASS
from inflate.vocabulary import GROUPS

ClassConfig = Mapping[str, Any]
Expected = dict[str, tuple[object, ...]]
"""Settings and their allowed values."""

_FAMILY: Expected = {
    "norm_num_groups": (GROUPS,),
    "act_fn": ("silu", "swish"),
    "norm_type": ("group",),
}
"""Settings that change the computation, and their values in this family."""

_RECORDED = (
    *("scaling_factor", "shift_factor", "latents_mean", "latents_std"),
    *("force_upcast", "sample_size"),
)
"""Settings that tensors do not show."""


def class_settings(
    files: CheckpointFiles, metadata: Mapping[str, str], located: Located, seen: Architecture
) -> Settings:
    """The settings from the class configurations of a checkpoint that its tensors do not show.

    Raises:
        FamilyError: a configuration describes a computation that this family does not have.
        ConfigError: it contradicts the tensors.
    """
    settings: Settings = {}
    sizes = _sizes(located, seen)
    for where, config in _configs(files, metadata, sizes):
        if other := _differences(config, _FAMILY):
            raise FamilyError(f"{where} describes another computation: {'; '.join(other)}")
        if other := _differences(config, sizes | _layers(located, seen)):
            raise ConfigError(f"{where} does not fit the tensors:", other)
        settings |= {
            f"architecture.{key}": config[key]
            for key in _RECORDED
            if config.get(key) is not None
            # A size per axis adds nothing to the architecture.
            and not (key == "sample_size" and type(config[key]) is not int)
        }
    return settings


def _configs(
    files: CheckpointFiles, metadata: Mapping[str, str], sizes: Expected
) -> Iterator[tuple[str, ClassConfig]]:
    """Every class configuration of a checkpoint, and its location."""
    here = [(str(files.folder / CONFIG), files.config)] if files.config else []
    of_folder = files.path == files.folder
    # Other models may share the folder of a file: a configuration with other sizes is theirs. A
    # file that records its own configuration needs no other.
    fits = CONFIG_KEY not in metadata and not _differences(files.config, sizes)
    if fits and not of_folder:
        yield from here
    for key, text in metadata.items():
        # Headers hold many kinds of JSON, some large: parse only the JSON that names a class.
        if '"_class_name"' in text or '"block_out_channels"' in text:
            content: Any = None
            with suppress(ValueError, RecursionError):  # Not JSON: text from another tool.
                content = json.loads(text)
            if _is_class(content):
                yield f"{files.path}, header {key!r}", content
    if of_folder:
        yield from here


def _is_class(content: object) -> bool:
    """Whether JSON is the configuration of a supported class, even if it does not name one."""
    if not isinstance(content, dict):
        return False
    return content.get("_class_name", "block_out_channels" in content and CLASSES[0]) in CLASSES


def _differences(config: ClassConfig, expected: Expected) -> list[str]:
    """Messages for settings of a configuration that have an unexpected value."""
    return [
        f"{key} is {'null' if config[key] is None else quoted(config[key])}; expected {values[0]!r}"
        for key, values in expected.items()
        if key in config and config[key] not in values
    ]


def _sizes(located: Located, seen: Architecture) -> Expected:
    """The class and sizes that the tensors show; some classes name encoder and decoder sizes."""
    channels, upper = list(seen.level_channels), list(seen.decoder.level_channels)
    images = tuple(name for name in CLASSES if name != VIDEO_CLASS)
    sizes: Expected = {
        "_class_name": (VIDEO_CLASS,) if located.inflated else images,
        "latent_channels": (seen.z_channels,),
        "out_channels": (seen.out_ch,),
        "block_out_channels": (channels,),
        "down_block_out_channels": (channels,),
        "up_block_out_channels": (upper,),
        "decoder_block_out_channels": (upper,),
        "layers_per_block": (seen.num_res_blocks,),
        "layers_per_down_block": (seen.num_res_blocks,),
        "layers_per_up_block": (seen.decoder.num_res_blocks,),
    }
    if located.part("encoder."):
        sizes["in_channels"] = (seen.in_channels,)
    if seen.n_embed is not None:
        sizes["num_vq_embeddings"] = (seen.n_embed,)
    return sizes


def _layers(located: Located, seen: Architecture) -> Expected:
    """The settings whose layers the tensors show."""
    decoder = seen.decoder
    up = ["AttnUpDecoderBlock2D" if level in decoder.attention_levels else "UpDecoderBlock2D"
          for level in reversed(range(len(decoder.ch_mult)))]  # fmt: skip
    layers: Expected = {
        "mid_block_add_attention": (decoder.attn_type != "none",),
        "up_block_types": (up,),
    }
    if located.part("encoder."):  # A decoder alone has no encoder, quant convs or codebook.
        down = ["AttnDownEncoderBlock2D" if level in seen.attention_levels else "DownEncoderBlock2D"
                for level in range(len(seen.ch_mult))]  # fmt: skip
        layers["down_block_types"] = (down,)
        layers["use_quant_conv"] = (bool(located.part("quant_conv.")),)
        layers["use_post_quant_conv"] = (bool(located.part("post_quant_conv.")),)
    return layers
