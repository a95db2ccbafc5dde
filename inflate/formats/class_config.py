"""Settings that no tensor shows, from the configuration of a class of diffusers.

It is the ``config.json`` of a folder, one in the folder of a weights file, or one in a header.

Source:
    The arguments of ``AutoencoderKL``, ``AutoencoderKLTemporalDecoder`` and ``VQModel`` of
    diffusers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from inflate.config.schema import Architecture, Settings, is_finite_number
from inflate.errors import ConfigError, FamilyError, quoted
from inflate.formats.layouts import DECODER
from inflate.formats.locate import Located
from inflate.formats.recorded import CONFIG_KEY
from inflate.io.files import CheckpointFiles
from inflate.io.folder import CLASSES, VIDEO_CLASS
from inflate.vocabulary import GROUPS

ClassConfig = Mapping[str, Any]

_ONLY: Mapping[str, tuple[object, ...]] = {
    "norm_num_groups": (GROUPS,),
    "act_fn": ("silu", "swish"),
    "norm_type": ("group",),
}
"""Settings that change what is computed, and their values in this family."""

_BLOCKS: Mapping[str, Mapping[str, bool]] = {
    "down_block_types": {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True},
    "up_block_types": {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True},
}
"""The blocks of this family, and whether they have attention."""

_FACTORS = ("scaling_factor", "shift_factor")
_STATISTICS = ("latents_mean", "latents_std")
_RECORDED = (*_FACTORS, *_STATISTICS, "force_upcast", "sample_size")
"""Settings that no tensor shows."""

_HALVES: Mapping[str, str] = {
    "down_block_out_channels": "block_out_channels",
    "layers_per_down_block": "layers_per_block",
}
_OF_DECODER: Mapping[str, str] = {
    "up_block_out_channels": "block_out_channels",
    "decoder_block_out_channels": "block_out_channels",
    "layers_per_up_block": "layers_per_block",
}
"""What classes with a decoder of its own architecture call its sizes and its encoder's."""


def class_settings(
    files: CheckpointFiles, metadata: Mapping[str, str], located: Located, seen: Architecture
) -> Settings:
    """The settings that the class configurations of a checkpoint add to what its tensors show.

    Args:
        files: the checkpoint's files.
        metadata: of its header.
        located: the autoencoder.
        seen: its architecture, as its tensors show it.

    Raises:
        FamilyError: a configuration asks for a computation that this family does not have.
        ConfigError: it contradicts the tensors, or a factor in it is not a finite number.
    """
    settings: Settings = {}
    for where, config in _configs(files, metadata, located, seen):
        if other := [*_not_of_this_family(config)]:
            raise FamilyError(f"{where} asks for another computation: {'; '.join(other)}")
        problems = [*_contradictions(config, located, seen), *_bad_factors(config)]
        if problems:
            raise ConfigError(f"{where} does not fit:", problems)
        settings |= {
            f"architecture.{key}": config[key]
            for key in _RECORDED
            if config.get(key) is not None
            # A size per axis says nothing more than the architecture does.
            and not (key == "sample_size" and type(config[key]) is not int)
        }
    return settings


def _configs(
    files: CheckpointFiles, metadata: Mapping[str, str], located: Located, seen: Architecture
) -> Iterator[tuple[str, ClassConfig]]:
    """Every class configuration of a checkpoint, and where it is from."""
    nearby = files.config_nearby
    # Other models may share the folder of a file: a configuration of other sizes is theirs, and
    # a file that records its own needs no other.
    if nearby and CONFIG_KEY not in metadata and not any(_sizes(nearby, located, seen)):
        yield str(files.config_path), nearby
    for key, text in metadata.items():
        # Headers hold all sorts of JSON, some of it large: only what names a class is parsed.
        if '"_class_name"' in text or '"block_out_channels"' in text:
            yield from ((f"{files.path}, header {key!r}", found) for found in _in_header(text))
    if files.folder_config:
        yield str(files.config_path), files.folder_config


def _in_header(text: str) -> Iterator[ClassConfig]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return  # Not JSON: a text of another tool.
    for found in (content, content.get("vae") if isinstance(content, dict) else None):
        if isinstance(found, dict) and (
            found.get("_class_name") in CLASSES
            or ("_class_name" not in found and "block_out_channels" in found)
        ):
            yield found


def _not_of_this_family(config: ClassConfig) -> Iterator[str]:
    for key, known in _ONLY.items():
        if key in config and config[key] not in known:
            yield f"{key} is {_json(config[key])}; expected {known[0]!r}"
    for key, blocks in _BLOCKS.items():
        if key in config and not all(kind in list(blocks) for kind in _listed(config[key])):
            yield f"{key} is {_json(config[key])}; expected some of {', '.join(blocks)}"


def _sizes(config: ClassConfig, located: Located, seen: Architecture) -> Iterator[str]:
    """Where the class and the sizes of a configuration are not those of the tensors."""
    if "_class_name" in config and (config["_class_name"] == VIDEO_CLASS) is not located.inflated:
        kind = "a video decoder" if located.inflated else "an image decoder"
        yield f"_class_name is {_json(config['_class_name'])}; the tensors are {kind}"
    tensors = _of_half(seen.decoder) | {
        "latent_channels": seen.z_channels,
        "out_channels": seen.out_ch,
    }
    if located.part("encoder."):
        tensors |= _of_half(seen) | {"in_channels": seen.in_channels}
    if seen.n_embed is not None:
        tensors["num_vq_embeddings"] = seen.n_embed
    tensors |= {key: tensors[same] for key, same in _HALVES.items()}
    tensors |= {key: _of_half(seen.decoder)[same] for key, same in _OF_DECODER.items()}
    for key, have in tensors.items():
        if config.get(key) is not None and config[key] != have:
            yield f"{key} is {_json(config[key])}; the tensors have {have}"


def _of_half(architecture: Architecture) -> dict[str, object]:
    return {
        "block_out_channels": list(architecture.level_channels),
        "layers_per_block": architecture.num_res_blocks,
    }


def _contradictions(config: ClassConfig, located: Located, seen: Architecture) -> Iterator[str]:
    """Where a configuration says otherwise than the tensors: its class would compute otherwise."""
    yield from _sizes(config, located, seen)
    has = {"mid_block_add_attention": seen.decoder.attn_type != "none"}
    if located.part("encoder."):  # Else there is nothing of what is around the decoder.
        has["use_quant_conv"] = bool(located.part("quant_conv."))
        has["use_post_quant_conv"] = bool(located.part("post_quant_conv."))
    for key, have in has.items():
        if key in config and config[key] is not have:
            yield f"{key} is {_json(config[key])}; by the tensors it is {have}"
    for key, part, levels_of in (
        ("up_block_types", f"{DECODER}up.", range(len(seen.decoder.ch_mult) - 1, -1, -1)),
        ("down_block_types", "encoder.down.", range(len(seen.ch_mult))),
    ):
        if key not in config or not located.part(part):
            continue
        want = [_BLOCKS[key][str(kind)] for kind in _listed(config[key])]
        have_attention = [bool(located.part(f"{part}{level}.attn.")) for level in levels_of]
        if want != have_attention:
            yield f"{key} is {_json(config[key])}; by the tensors, attention is {have_attention}"


def _bad_factors(config: ClassConfig) -> Iterator[str]:
    for key in _FACTORS:
        if config.get(key) is not None and not is_finite_number(config[key]):
            yield f"{key} is {_json(config[key])}; expected a finite number"
    for key in _STATISTICS:
        if config.get(key) is not None and not all(map(is_finite_number, _listed(config[key]))):
            yield f"{key} is {_json(config[key])}; expected finite numbers"


def _json(value: object) -> str:
    """A value as the file has it."""
    return "null" if value is None else quoted(value)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
