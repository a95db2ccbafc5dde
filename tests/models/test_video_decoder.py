"""The video decoder: arguments, frames, types, gradients, parity and decoding in chunks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inflate.models import (
    Decoder,
    MemoryEfficientAttnBlock,
    MemoryEfficientVideoBlock,
    VideoDecoder,
)
from inflate.models.blocks import GroupNorm, LayerNorm
from inflate.models.chunked import Clip, Moments
from inflate.models.video_decoder import TEMPORAL_MODULES
from inflate.vocabulary import ATTN_TYPES, TIME_MODES

from .builders import SMALL, TINY, error, latents, noise, randomized, relative_rms, video_decoder

every_mode = pytest.mark.parametrize("time_mode", TIME_MODES)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.08), (torch.float64, 1e-5)]
)
@torch.no_grad()
def test_other_dtypes(dtype: torch.dtype, tolerance: float) -> None:
    decoder, z = video_decoder("all"), latents()
    expected = decoder(z, timesteps=3)
    out = decoder.to(dtype)(z.to(dtype), timesteps=3)
    assert out.dtype == dtype
    assert relative_rms(out, expected) < tolerance
    # Those of test_blocks, which compute in float32.
    norms = {type(m) for m in decoder.modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm)}
    assert norms == {GroupNorm, LayerNorm}


def test_gradients_reach_every_parameter() -> None:
    # With 64 channels each group of a norm holds two, so that it does not undo the bias before it.
    changes: dict[str, Any] = {"ch": 64, "ch_mult": [1], "attn_resolutions": []}
    decoder = video_decoder("all", **changes)
    z = latents().requires_grad_()
    (decoder(z, timesteps=3) * noise(6, 3, 4, 4, seed=1)).sum().backward()
    assert z.grad is not None
    assert z.grad.abs().min() > 0
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias of the keys moves every score of a query alike, which its softmax undoes.
        if not name.endswith(".k.bias"):
            assert parameter.grad.abs().max() > 1e-5, name


@pytest.mark.parametrize(
    "argument", ["time_mode", "merge_strategy", "attn_type", "video_kernel_size"]
)
def test_an_unknown_value_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} is 'linear'; expected one"):
        VideoDecoder(**{**SMALL, argument: "linear"})


def test_dropout_acts_in_training_only() -> None:
    decoder, plain, z = video_decoder("all", dropout=0.5), video_decoder("all"), latents()
    assert torch.equal(decoder(z, timesteps=3), plain(z, timesteps=3))
    assert not torch.equal(decoder.train()(z, timesteps=3), plain.train()(z, timesteps=3))


@every_mode
@pytest.mark.parametrize("attn_type", ATTN_TYPES)
@torch.no_grad()
def test_skip_video_is_the_image_decoder(time_mode: str, attn_type: str) -> None:
    video = video_decoder(time_mode, merge_strategy="fixed", alpha=0.5, attn_type=attn_type)
    image, weights = Decoder(**{**SMALL, "attn_type": attn_type}).eval(), video.state_dict()
    image.load_state_dict({key: weights[key] for key in image.state_dict()})
    expected = image(latents())
    assert torch.equal(video(latents(), skip_video=True), expected)
    assert torch.equal(video(latents(), timesteps=3, skip_video=True), expected)
    temporal = time_mode != "attn-only" or attn_type != "none"
    assert torch.equal(video(latents(), timesteps=3), expected) != temporal


@pytest.mark.parametrize(
    ("options", "chunk"),
    [
        ({"time_mode": "attn-only"}, 2),
        ({"time_mode": "conv-only"}, 1),
        ({"time_mode": "conv-only", "video_kernel_size": [3, 1, 1]}, 2),
        *(({"video_kernel_size": kernel}, 2) for kernel in (1, [5, 1, 1], [1, 3, 3])),
        ({"attn_type": "none", "tanh_out": True}, 3),
        ({"attn_type": "vanilla-xformers"}, 3),
        ({"give_pre_end": True}, 3),
        ({"resamp_with_conv": False}, 3),
    ],
    ids=str,
)
@torch.no_grad()
def test_chunks_are_the_whole(options: dict[str, Any], chunk: int) -> None:
    decoder = video_decoder(**{"time_mode": "all", "alpha": 0.3, **options}).double()
    z = latents(2, 5, dtype=torch.float64)  # No chunk but one divides it.
    out = decoder.decode(z, 5, chunk=chunk)
    assert error(out, decoder(z, timesteps=5)) < 1e-12, "the order of sums alone differs"


@torch.no_grad()
def test_a_stream_gives_the_chunks_in_order() -> None:
    decoder, z = video_decoder("all"), latents(2, 5)
    for chunk in (5, 6, None):  # One that holds every frame is the whole pass.
        assert torch.equal(decoder.decode(z, 5, chunk=chunk), decoder(z, timesteps=5))
    whole = decoder.decode(z, 5, chunk=2).unflatten(0, (2, 5))
    chunks = list(decoder.decode_stream(z, 5, chunk=2))
    assert [len(images) for images in chunks] == [4, 4, 2]
    for first, images in zip((0, 2, 4), chunks, strict=True):
        assert torch.equal(images, whole[:, first : first + 2].flatten(0, 1))


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
@torch.no_grad()
def test_no_tensor_grows_with_the_clip(time_mode: str) -> None:
    decoder = video_decoder(time_mode, video_kernel_size=[3, 1, 1])
    short, long = (largest_tensor(decoder, frames, chunk=2) for frames in (6, 18))
    assert short == long
    wholes = [largest_tensor(decoder, frames, chunk=None) for frames in (6, 18)]
    assert wholes[1] == 3 * wholes[0]
    assert long < wholes[0]


@torch.no_grad()
def test_temporary_files_go_with_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, z = video_decoder("all"), latents(1, 4)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stream = decoder.decode_stream(z, 4, chunk=2)
    next(stream)
    del stream
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(OSError, match="missing"):
        decoder.decode(z, 4, chunk=2)


@torch.no_grad()
def test_a_gradient_through_chunks_is_refused() -> None:
    decoder, z = video_decoder("all"), latents(1, 4).requires_grad_()
    with torch.enable_grad():
        with pytest.raises(ValueError, match=r"z requires a gradient.*z\.detach\(\).*leave chunk"):
            decoder.decode(z, 4, chunk=2)
        assert decoder.decode(z, 4, chunk=4).requires_grad
        assert not decoder.decode(z.detach(), 4, chunk=2).requires_grad


@torch.no_grad()
def test_moments_are_those_of_all_frames() -> None:
    """Also for a mean much larger than the deviation, which sums of squares would lose."""
    clip = Clip(videos=2, frames=5, chunk=2)
    norm = randomized(GroupNorm(4, 8, eps=1e-5))
    x = noise(2, 8, 5, 3, 3) + 1000
    moments = Moments(clip, norm)
    for first, last in clip.spans():
        moments.add(x[:, :, first:last].transpose(1, 2).flatten(0, 1))
    out = moments.normalize(x.transpose(1, 2).flatten(0, 1).clone())
    expected = randomized(GroupNorm(4, 8, eps=1e-5)).double()(x.double())
    assert error(out, expected.transpose(1, 2).flatten(0, 1)) < 2e-3


@pytest.mark.parametrize("time_mode", ["all", "attn-only"])
def test_the_last_layer_is_that_of_time_where_there_is_one(time_mode: str) -> None:
    decoder = video_decoder(time_mode)
    spatial = decoder.conv_out.weight
    assert decoder.get_last_layer(skip_time_mix=True) is spatial
    last = spatial if time_mode == "attn-only" else decoder.conv_out.time_mix_conv.weight
    assert decoder.get_last_layer() is last


@torch.no_grad()
def test_frames_built_in_are_the_default_and_given_ones_win() -> None:
    z = latents()
    plain, built = video_decoder("all"), video_decoder("all", timesteps=3)
    by_three, by_two = plain(z, timesteps=3), plain(z, timesteps=2)
    assert not torch.equal(by_three, by_two)
    assert torch.equal(built(z), by_three)
    assert torch.equal(built(z, 2), by_two)
    assert torch.equal(built(z), by_three)  # What was given is not remembered.
    for block in built.modules():
        if isinstance(block, TEMPORAL_MODULES):
            assert block.timesteps == 3


@pytest.mark.parametrize("time_mode", VideoDecoder.available_time_modes)
def test_the_factories_are_those_of_the_original(time_mode: str) -> None:
    class Marked(VideoDecoder):
        def _make_resblock(self) -> Callable[..., nn.Module]:
            made = super()._make_resblock()

            def marked(**arguments: Any) -> nn.Module:
                block = made(**arguments)
                block.register_buffer("mark", torch.zeros(1))
                return block

            return marked

    names = Marked(time_mode=time_mode, attn_type="vanilla-xformers", **TINY).state_dict()
    assert "mid.block_1.mark" in names
    kinds = {type(m) for m in video_decoder(time_mode, attn_type="vanilla-xformers").modules()}
    attention = MemoryEfficientAttnBlock if time_mode == "conv-only" else MemoryEfficientVideoBlock
    assert attention in kinds
