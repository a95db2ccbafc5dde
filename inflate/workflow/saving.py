"""``save_video_autoencoder``: save a module to a file with its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from inflate.config.schema import Settings
from inflate.errors import ConfigError, PlanError
from inflate.formats import recorded
from inflate.formats.fingerprint import fingerprint, fingerprint_of
from inflate.formats.layouts import DECODER
from inflate.formats.source import describe
from inflate.formats.targets import container_of
from inflate.inflation.apply import carry_out
from inflate.io.files import CheckpointFiles
from inflate.io.index import WIDTHS, TensorInfo
from inflate.io.protected import ReadFiles
from inflate.io.reader import Checkpoint, open_checkpoint
from inflate.io.staging import saying_why, stage
from inflate.io.torch_writer import open_writer
from inflate.loading import as_array, dtype_name
from inflate.models import VideoDecoder
from inflate.models.attention import AttnBlock
from inflate.models.autoencoder import VideoAutoencoder
from inflate.models.blocks import ResnetBlock
from inflate.options import ConvertOptions, check_location
from inflate.progress import silent
from inflate.vocabulary import TRAINED, VERDICT_KEY, StoredType, Target
from inflate.workflow.planning import prepare
from inflate.workflow.production import header_of
from inflate.workflow.sources import name_of

_WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module")
"""Attributes in which ``torch.compile``, DistributedDataParallel and FSDP keep their module."""

_CARRIED = (
    recorded.SOURCE_NAME_KEY,
    recorded.SOURCE_HASH_KEY,
    recorded.SOURCE_FINGERPRINT_KEY,
    recorded.ORIGIN_NAME_KEY,
    recorded.ORIGIN_FINGERPRINT_KEY,
    recorded.SEED_KEY,
    recorded.PROVENANCE_KEY,
)
"""Header entries that training does not change; left out if unknown."""


def save_video_autoencoder(
    module: nn.Module,
    path: str | Path,
    *,
    source: str | Path | None = None,
    layout: Target = "autoencoder",
    dtype: StoredType | None = None,
    allow_inexact: bool = False,
    state_dict: Mapping[str, Tensor] | None = None,
    overwrite: bool = False,
) -> Path:
    """Save a video autoencoder, or a bare video decoder, to a file that every command accepts.

    The file records its configuration with the blend, its fingerprint and its origin; the verdict
    is ``trained``. Equal modules give equal files.

    Args:
        module: a ``VideoAutoencoder`` or ``VideoDecoder``; also wrapped by ``torch.compile``,
            DistributedDataParallel or FSDP.
        path: the file, or the folder for layout ``diffusers``; written atomically.
        source: the image checkpoint that it was made from, or a file of ours that records one; by
            default, the one recorded in the file that the module was loaded from.
        layout: the names to write, as for ``inflate convert --layout``.
        dtype: the type to store; by default that of each tensor.
        allow_inexact: fold the quant convs for layout ``comfyui`` even if it changes the images.
        state_dict: the full state dict, if the module holds only parts of it, as under FSDP.
        overwrite: replace an existing file.

    Returns:
        The path.

    Raises:
        ConfigError: the class of the module is not supported, or an argument has an unknown value.
        PlanError: tensors are on the meta device, sharded or not finite, or do not fit the
            architecture or the layout.
        CheckpointError: ``source`` cannot be read.
        OutputError: the file exists, or cannot be written.
    """
    options = ConvertOptions(layout=layout, dtype=dtype, allow_inexact=allow_inexact, device="cpu")
    check_location("path", path)
    container = container_of(layout, path)
    whole = _unwrapped(module)
    decoder = whole if isinstance(whole, VideoDecoder) else _unwrapped(whole.decoder)
    known = dict(decoder.file_metadata)
    read = ReadFiles()
    if source is not None:
        known.update(_origin(source, read))
    destination = Path(path)
    tensors = _named(module.state_dict() if state_dict is None else state_dict)
    if whole is decoder:
        tensors = {DECODER + name: tensor for name, tensor in tensors.items()}
    checkpoint = _checkpoint(tensors, known, destination)
    video = describe(checkpoint, {**_settings(decoder), "dtype": dtype})
    if not video.inflated:
        raise PlanError("the state dict holds no temporal layers")
    job = prepare(video, options)
    header = header_of(job, "") | {VERDICT_KEY: TRAINED, recorded.FINGERPRINT_KEY: "0" * 64}
    for key in (recorded.SOURCE_BLEND_KEY, recorded.TRAINED_KEY, *_CARRIED):
        header.pop(key, None)
        if known.get(key):
            header[key] = known[key]
    folder_config = job.plan.folder_config
    with (
        stage(destination, read, overwrite=overwrite, folder_config=folder_config) as staged,
        saying_why(destination, job.plan.nbytes),
    ):
        infos = {planned.key: planned.info for planned in job.plan.tensors}
        writer = open_writer(container, staged.file, infos.values(), header)
        written = carry_out(job.plan, job.source.checkpoint, writer, silent).written
        header[recorded.FINGERPRINT_KEY] = fingerprint(infos, written)
        writer.set_metadata(header)
        staged.publish()
    return destination


def _unwrapped(module: nn.Module) -> Any:
    """The autoencoder or decoder within any wrappers."""
    inner: nn.Module | None = module
    while inner is not None and not isinstance(inner, VideoAutoencoder | VideoDecoder):
        inner = next((inner._modules[w] for w in _WRAPPERS if w in inner._modules), None)
    if inner is None:
        raise ConfigError(
            f"module is a {type(module).__name__}; expected a VideoAutoencoder or a VideoDecoder"
        )
    return inner


def _named(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state dict by their names without wrappers."""
    problems = []
    for name, tensor in state_dict.items():
        if tensor.is_meta:
            problems.append(f"{name} is on the meta device and has no values")
        elif hasattr(tensor, "full_tensor"):
            problems.append(f"{name} is sharded; pass state_dict=, gathered with full_state_dict")
        elif dtype_name(tensor.dtype) not in WIDTHS:
            problems.append(f"{name} is of the type {dtype_name(tensor.dtype)}")
    if problems:
        raise PlanError("tensors cannot be saved:", problems)
    return {
        ".".join(part for part in name.split(".") if part not in _WRAPPERS): tensor
        for name, tensor in state_dict.items()
    }


def _settings(decoder: VideoDecoder) -> Settings:
    """The settings of a decoder that its tensors do not show."""
    attns = [module for module in decoder.modules() if isinstance(module, AttnBlock)]
    block = decoder.mid.block_1
    assert isinstance(block, ResnetBlock)
    settings: Settings = {
        "temporal.merge_strategy": decoder.merge_strategy,
        "temporal.alpha": decoder.alpha,
        "architecture.tanh_out": decoder.tanh_out,
        "architecture.give_pre_end": decoder.give_pre_end,
        "architecture.dropout": block.dropout.p,
    }
    if any(attn.memory_efficient for attn in attns):
        settings["architecture.attn_type"] = "vanilla-xformers"
    return settings


def _checkpoint(tensors: Mapping[str, Tensor], metadata: dict[str, str], path: Path) -> Checkpoint:
    """Tensors in memory as an opened file."""
    infos = {
        name: TensorInfo(name, tuple(tensor.shape), dtype_name(tensor.dtype), tensor.nbytes)
        for name, tensor in tensors.items()
    }
    places = {name: partial(as_array, tensor) for name, tensor in tensors.items()}
    files = CheckpointFiles(path, "safetensors", (path,))
    return Checkpoint(path, files, infos, metadata, (), places)


def _origin(location: str | Path, read: ReadFiles) -> dict[str, str]:
    """Header entries about an image checkpoint, or about the source of a file of ours."""
    check_location("source", location)
    with open_checkpoint(Path(location)) as checkpoint:
        for path in checkpoint.files.read.marks:
            read.look(path)
        metadata = checkpoint.metadata
        if recorded.SOURCE_FINGERPRINT_KEY in metadata:
            return {key: metadata[key] for key in _CARRIED if key in metadata}
        digest = fingerprint_of(describe(checkpoint, image=True).checkpoint)
        return {
            recorded.SOURCE_NAME_KEY: name_of(location),
            recorded.SOURCE_FINGERPRINT_KEY: digest,
        }
