"""Load modules from checkpoints: image decoders, video decoders and whole autoencoders.

Every module is built on the meta device and filled with strict name matching, so that no tensor
keeps random values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from inflate.config.schema import Config
from inflate.errors import DeviceError, FamilyError, PlanError, quoted
from inflate.formats.architecture import mismatches
from inflate.formats.layouts import DECODER
from inflate.formats.source import Source, describe, given_blend
from inflate.formats.spec import quant_shapes
from inflate.inflation.initializers import Rule, make_array
from inflate.io.arrays import ALIGNMENT, Array, aligned_zeros, numpy_dtype
from inflate.io.reader import open_checkpoint, same_bytes
from inflate.models import Decoder, Encoder, VideoDecoder
from inflate.models.autoencoder import LatentEncoder, VideoAutoencoder
from inflate.models.blocks import conv1x1
from inflate.options import check_location

_CODEBOOK = "quantize.embedding.weight"

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def as_tensor(array: Array) -> Tensor:
    """A tensor that shares an array's memory and type."""
    if array.dtype.isbuiltin == 1:
        return torch.from_numpy(array)
    # torch does not support the types of ml_dtypes, so pass the bytes as integers.
    dtype: torch.dtype = getattr(torch, array.dtype.name)
    return torch.from_numpy(array.view(f"u{array.itemsize}")).view(dtype)


def as_array(tensor: Tensor) -> Array:
    """A tensor as an array on the CPU, with the same type."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    return tensor.view(torch.int16).numpy().view(numpy_dtype("bfloat16"))


def aligned(tensor: Tensor) -> Tensor:
    """Align a tensor to 64 bytes: at other addresses kernels may round differently."""
    if tensor.device.type != "cpu" or not tensor.data_ptr() % ALIGNMENT:
        return tensor
    room = torch.from_numpy(aligned_zeros(tensor.nbytes))
    return room.view(tensor.dtype).view(tensor.shape).copy_(tensor)


def read_tensor(source: Source, key: str) -> Tensor:
    """Read the tensor of a key, which must exist."""
    return as_tensor(source.read(key))


def in_parallel(read: Callable[[str], T], keys: Iterable[str]) -> list[T]:
    """The result of a function for each key; two threads share the cost of touching new memory."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(read, keys))


def build_video_decoder(config: Config) -> VideoDecoder:
    """The video decoder of a configuration, on the meta device."""
    with torch.device("meta"):
        return VideoDecoder(
            **config.architecture.decoder.module_arguments(), **config.temporal.module_arguments()
        )


def make_tensor(rule: Rule, shape: tuple[int, ...], key: str, seed: int) -> Tensor:
    """The tensor that a rule makes, in float32; see ``make_array``."""
    array = make_array(rule, shape, key, seed)
    if any(array.strides):
        return torch.from_numpy(array)
    return torch.tensor(array.flat[0]).expand(shape)  # A constant, still stored once.


def load_image_decoder(
    source: Source, dtype: torch.dtype, *, stored_as: Source | None = None
) -> Decoder:
    """Load the image decoder of a source, to compute in ``dtype``.

    Args:
        source: an image checkpoint.
        dtype: the type to compute in.
        stored_as: first round each weight to its stored type in this source.
    """
    with torch.device("meta"):
        decoder = Decoder(**source.config.architecture.decoder.module_arguments())
    # The image layers of a video decoder are a whole image decoder.
    return _fill(decoder, DECODER, source, dtype, stored_as, extra=source.inflated)


def load_video(
    source: Source,
    dtype: torch.dtype | None = None,
    *,
    stored_as: Source | None = None,
    shared: nn.Module | None = None,
) -> VideoDecoder:
    """Load the bare video decoder of a source; in its stored type if ``dtype`` is None.

    Args:
        source: a video checkpoint.
        dtype: the type to compute in.
        stored_as: first round each weight to its stored type in this source.
        shared: a decoder on the CPU; its tensors are used instead of the source's if their bytes
            are equal.

    Raises:
        FamilyError: the source is an image checkpoint.
        PlanError: its tensors do not fit its configuration.
    """
    _check_inflated(source)
    decoder = _fill(
        build_video_decoder(source.config), DECODER, source, dtype, stored_as, shared=shared
    )
    decoder.file_metadata = dict(source.checkpoint.metadata)
    return decoder


def load_post_quant_conv(
    source: Source, dtype: torch.dtype, *, stored_as: Source | None = None
) -> nn.Module | None:
    """The 1x1 convolution before the decoder; None if the source has none."""
    channels = _quant_channels(source, "post_quant_conv.")
    if channels is None:
        return None
    with torch.device("meta"):
        conv = conv1x1(*channels)
    return _fill(conv, "post_quant_conv.", source, dtype, stored_as)


def load_encoder(source: Source, dtype: torch.dtype) -> LatentEncoder:
    """Load the image encoder of a source with quant conv and codebook, to compute in ``dtype``.

    Raises:
        FamilyError: the source has no encoder.
    """
    if not source.located.part("encoder."):
        raise FamilyError(f"{source.checkpoint.path} has no encoder, so it cannot make latents")
    with torch.device("meta"):
        whole = LatentEncoder(**_encoding(source))
    return _fill(whole, "", source, dtype)


def load_video_decoder(
    path: str | Path, device: str | torch.device = "cpu", *, merge_strategy: str | None = None
) -> VideoDecoder:
    """Load the bare video decoder from a file, in its stored type, ready to decode.

    It takes latents after ``post_quant_conv``, like sgm's decoder; use
    :func:`load_video_autoencoder` to load the whole autoencoder.

    Args:
        path: a video checkpoint, ours or one with sgm's names.
        device: the device for its tensors.
        merge_strategy: ``learned`` or ``fixed``, for a file that does not record how it blends.

    Raises:
        CheckpointError: the file cannot be read, or holds no video decoder.
        DeviceError: the device is unknown.
        ConfigError: it is unknown how it blends, or it does not blend as ``merge_strategy`` says.
        PlanError: its tensors do not fit its configuration.
    """
    with _opened(path, device, merge_strategy) as (source, where):
        return load_video(source).to(where)


def load_video_autoencoder(
    path: str | Path, device: str | torch.device = "cpu", *, merge_strategy: str | None = None
) -> VideoAutoencoder:
    """Load encoder, quant convs, codebook and video decoder from a file.

    For arguments and errors see :func:`load_video_decoder`.
    """
    with _opened(path, device, merge_strategy) as (source, where):
        _check_inflated(source)
        if source.located.part("quantize.") and source.config.architecture.n_embed is None:
            raise PlanError(
                f"{path} has a quantiser without quantize.embedding.weight, so it does not "
                "use nearest codebook entries, and its latents cannot be made here; "
                "load_video_decoder(path) loads its decoder"
            )
        with torch.device("meta"):
            whole = VideoAutoencoder(
                build_video_decoder(source.config),
                post_quant_conv=_quant_channels(source, "post_quant_conv."),
                **_encoding(source),
            )
        whole.decoder.file_metadata = dict(source.checkpoint.metadata)
        return _fill(whole, "", source).to(where)


@contextmanager
def _opened(
    path: object, device: object, merge_strategy: str | None
) -> Iterator[tuple[Source, torch.device]]:
    """Open the source for a loader's arguments, and get its device, which is checked first."""
    check_location("path", path)
    try:
        where = torch.device(device)  # type: ignore[call-overload]
    except (RuntimeError, TypeError, ValueError) as error:
        raise DeviceError(
            f"device is {quoted(device)}; expected a torch.device, or its name, such as cuda:0"
        ) from error
    with open_checkpoint(Path(path)) as checkpoint:  # type: ignore[arg-type]
        yield describe(checkpoint, given_blend(merge_strategy)), where


def _check_inflated(source: Source) -> None:
    if not source.inflated:
        raise FamilyError(
            f"{source.checkpoint.path} is an image autoencoder: its decoder has no temporal layers;"
            " expected a video checkpoint. 'inflate convert' makes one"
        )


def _encoding(source: Source) -> dict[str, Any]:
    """The arguments of a :class:`LatentEncoder`; its encoder is built on the current device."""
    architecture, has_encoder = source.config.architecture, source.located.part("encoder.")
    return {
        "encoder": Encoder(**architecture.module_arguments()) if has_encoder else None,
        "latent_channels": architecture.embed_dim or architecture.z_channels,
        "quant_conv": _quant_channels(source, "quant_conv."),
        # Other quantisers have no plain codebook: their latents are used unchanged.
        "codebook_entries": architecture.n_embed if source.located.part(_CODEBOOK) else None,
    }


def _quant_channels(source: Source, part: str) -> tuple[int, int] | None:
    """Input and output channels of a quant conv; None if the source has none."""
    if not source.located.part(part):
        return None
    shapes = quant_shapes(source.config.architecture)[part].values()
    out_channels, in_channels = next(shape for shape in shapes if len(shape) == 4)[:2]
    return in_channels, out_channels


def _fill(
    module: M,
    part: str,
    source: Source,
    dtype: torch.dtype | None = None,
    stored_as: Source | None = None,
    *,
    extra: bool = False,
    shared: nn.Module | None = None,
) -> M:
    """Fill a module on the meta device with the tensors of a part, with strict name matching.

    The part, or the module's parts of a whole autoencoder, must have no other tensors, unless
    ``extra``.
    """
    known: dict[str, Tensor] = {}
    if shared is not None:
        known = {part + key: tensor for key, tensor in shared.state_dict().items()}
    shapes = {part + key: tuple(value.shape) for key, value in module.state_dict().items()}
    parts = dict.fromkeys(key.partition(".")[0] + "." for key in shapes)
    parts.pop("quantize.", None)  # Some quantisers have other tensors next to the codebook.
    present = [key for name in parts for key in source.located.part(name)]
    if problems := mismatches(source.located, shapes, [] if extra else present):
        raise PlanError(f"{source.checkpoint.path} does not fit its architecture:", problems)

    def read(key: str) -> Tensor:
        if key in known and same_bytes(source.checkpoint, key, as_array(known[key])):
            return known[key]
        tensor = read_tensor(source, key)
        stored = stored_as.info(key) if stored_as else None
        if stored is not None:
            tensor = tensor.to(getattr(torch, stored.dtype))
        return tensor if dtype is None else tensor.to(dtype)

    names = [key.removeprefix(part) for key in shapes]
    tensors = dict(zip(names, in_parallel(read, shapes), strict=True))
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.eval()
