"""Decoding in chunks: what the whole pass gives, in memory that does not grow with the clip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inflate.models import VideoDecoder
from inflate.models.blocks import GroupNorm
from inflate.models.chunked import Clip, FrameFile, Moments

from .builders import (
    ATTN_TYPES,
    TIME_MODES,
    TINY,
    error,
    image_decoder_of,
    latents,
    noise,
    randomized,
    video_decoder,
)

every_mode = pytest.mark.parametrize("time_mode", TIME_MODES)
EXACT = 1e-12
"""How far two orders of the same sums, in float64, may be apart."""


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def wide_decoder(time_mode: str, **changes: Any) -> VideoDecoder:
    return video_decoder(time_mode, **changes).double()


def wide_latents(batch: int, frames: int, **kwargs: Any) -> Tensor:
    return latents(batch, frames, dtype=torch.float64, **kwargs)


@every_mode
@pytest.mark.parametrize(
    ("kernel", "chunk"), [(1, 2), (3, 1), ([3, 1, 1], 2), ([5, 1, 1], 3), ([1, 3, 3], 3)], ids=str
)
def test_chunks_are_the_whole(time_mode: str, kernel: Any, chunk: int) -> None:
    decoder = wide_decoder(time_mode, video_kernel_size=kernel, alpha=0.3)
    z = wide_latents(2, 5)  # No chunk but one divides it.
    out = decoder.decode(z, 5, chunk=chunk)
    assert error(out, decoder(z, timesteps=5)) < EXACT


@pytest.mark.parametrize(
    "options",
    [
        *({"attn_type": attn_type} for attn_type in ATTN_TYPES),
        {"tanh_out": True},
        {"give_pre_end": True},
        {"resamp_with_conv": False},
    ],
    ids=str,
)
def test_every_option(options: dict[str, Any]) -> None:
    decoder = wide_decoder("all", **options)
    z = wide_latents(1, 4)
    assert error(decoder.decode(z, 4, chunk=3), decoder(z, timesteps=4)) < EXACT


@pytest.mark.parametrize("chunk", [5, 6, None])
def test_a_chunk_that_holds_every_frame_is_the_whole_pass(chunk: int | None) -> None:
    decoder, z = video_decoder("all"), latents(2, 5)
    assert torch.equal(decoder.decode(z, 5, chunk=chunk), decoder(z, timesteps=5))


def test_a_stream_gives_the_chunks_in_order() -> None:
    decoder, z = video_decoder("all"), latents(2, 5)
    whole = decoder.decode(z, 5, chunk=2).unflatten(0, (2, 5))
    chunks = list(decoder.decode_stream(z, 5, chunk=2))
    assert [len(images) for images in chunks] == [4, 4, 2]
    for first, images in zip((0, 2, 4), chunks, strict=True):
        assert torch.equal(images, whole[:, first : first + 2].flatten(0, 1))


def test_chunks_of_skip_video_are_the_image_decoder() -> None:
    decoder = wide_decoder("all")
    z = wide_latents(1, 7)
    out = decoder.decode(z, skip_video=True, chunk=3)
    assert error(out, image_decoder_of(decoder)(z)) < EXACT


class LargestTensor(TorchDispatchMode):
    """Records the bytes of the largest tensor that an operation returns."""

    largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and measure its result."""
        out = func(*args, **(kwargs or {}))
        # Memory, not shape: an expanded tensor takes no more than its source.
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.largest = max(self.largest, leaf.untyped_storage().nbytes())
        return out


def largest_tensor(decoder: VideoDecoder, frames: int, chunk: int | None) -> int:
    z = latents(1, frames)
    with LargestTensor() as seen:
        if chunk is None:
            decoder(z, timesteps=frames)
        else:
            for _ in decoder.decode_stream(z, frames, chunk=chunk):
                pass
    return seen.largest


@every_mode
def test_no_tensor_grows_with_the_clip(time_mode: str) -> None:
    decoder = video_decoder(time_mode, video_kernel_size=[3, 1, 1])
    short, long = (largest_tensor(decoder, frames, chunk=2) for frames in (6, 18))
    assert short == long
    wholes = [largest_tensor(decoder, frames, chunk=None) for frames in (6, 18)]
    assert wholes[1] == 3 * wholes[0]
    assert long < wholes[0]


def test_temporary_files_are_where_they_were_asked_for_and_go(tmp_path: Path) -> None:
    decoder, z = video_decoder("all"), latents(1, 4)
    stream = decoder.decode_stream(z, 4, chunk=2, directory=tmp_path)
    next(stream)
    del stream
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="missing"):
        decoder.decode(z, 4, chunk=2, directory=tmp_path / "missing")


def test_a_gradient_through_chunks_is_refused() -> None:
    decoder, z = video_decoder("all"), latents(1, 4).requires_grad_()
    with torch.enable_grad():
        with pytest.raises(ValueError, match=r"z requires a gradient.*z\.detach\(\).*leave chunk"):
            decoder.decode(z, 4, chunk=2)
        assert decoder.decode(z, 4, chunk=4).requires_grad
        assert not decoder.decode(z.detach(), 4, chunk=2).requires_grad


def test_moments_are_those_of_all_frames() -> None:
    """Also for a mean much larger than the deviation, which sums of squares would lose."""
    clip = Clip(videos=2, frames=5, chunk=2, directory=None)
    norm = randomized(GroupNorm(4, 8, eps=1e-5))
    x = noise(2, 8, 5, 3, 3) + 1000
    moments = Moments(clip, norm)
    for first, last in clip.spans():
        moments.add(x[:, :, first:last].transpose(1, 2).flatten(0, 1))
    out = moments.normalize(x.transpose(1, 2).flatten(0, 1).clone())
    expected = randomized(GroupNorm(4, 8, eps=1e-5)).double()(x.double())
    assert error(out, expected.transpose(1, 2).flatten(0, 1)) < 2e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_frame_file_gives_back_what_it_was_given(dtype: torch.dtype) -> None:
    clip = Clip(videos=2, frames=5, chunk=2, directory=None)
    x = noise(2, 5, 3, 4, 6, dtype=dtype)  # B T C H W
    with FrameFile(clip) as file:
        assert isinstance(file, FrameFile)
        for first, last in clip.spans():
            file.append(x[:, first:last].flatten(0, 1))
        assert torch.equal(file.read(1, 4), x[:, 1:4].flatten(0, 1))
        pixels = x.flatten(3).transpose(2, 3)  # B T S C
        assert torch.equal(file.read_pixels(5, 9), pixels[:, :, 5:9].flatten(0, 1))
        file.write_pixels(5, -file.read_pixels(5, 9))
        pixels[:, :, 5:9] *= -1
        changed = pixels.transpose(2, 3).unflatten(3, (4, 6))
        assert torch.equal(file.read(0, 5), changed.flatten(0, 1))


@every_mode
def test_a_silent_branch_needs_no_second_pass(time_mode: str) -> None:
    """With nothing that sees other frames, chunks go through without a file."""
    decoder = VideoDecoder(time_mode=time_mode, merge_strategy="fixed", alpha=0.0, **TINY)
    stream = decoder.decode_stream(latents(1, 4), 4, chunk=1, directory=Path("/nowhere"))
    if time_mode == "attn-only":
        assert len(list(stream)) == 4
    else:  # But for the output convolution, which is not blended.
        with pytest.raises(OSError, match="nowhere"):
            list(stream)


@pytest.mark.parametrize(("frames", "chunk"), [(4, 0), (4, -1), (None, 2), (3, 2)])
def test_a_bad_number_of_frames_is_refused(frames: int | None, chunk: int) -> None:
    with pytest.raises(ValueError, match=f"chunk is {chunk}" if chunk < 1 else "timesteps is"):
        video_decoder("all").decode(latents(1, 4), frames, chunk=chunk)
