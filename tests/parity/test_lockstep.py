"""Both decoders layer by layer: which layers, in which order, and what is held."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inflate.models import Decoder, VideoDecoder
from inflate.parity import lockstep as module
from inflate.parity.comparands import Modules
from inflate.parity.lockstep import Lockstep, spatial_layers, watching
from inflate.parity.metrics import Tolerance

from ..checkpoints import ATTENTION_IN_UP, DDCONFIG
from ..models.builders import noise
from .damage import comparands_of, sound_pair

CONFIG: dict[str, Any] = {**DDCONFIG, **ATTENTION_IN_UP, "time_mode": "all", "alpha": 0.3}
TOLERANCE = Tolerance(1e-5, 1e-5)


def modules_of(image: Decoder, video: VideoDecoder) -> Modules:
    found = comparands_of(image, video).modules
    assert found is not None
    return found


def hooks_of(*decoders: nn.Module) -> int:
    return sum(len(m._forward_hooks) for decoder in decoders for m in decoder.modules())


def run(image: Decoder, video: VideoDecoder, lockstep: Lockstep, z: Tensor, frames: int) -> None:
    with torch.inference_mode():
        with lockstep.reference():
            image(z)
        with lockstep.candidate():
            video(z, timesteps=frames)


def test_every_layer_that_has_weights_is_watched_in_the_order_it_runs() -> None:
    image, video = sound_pair(**CONFIG)
    lockstep = Lockstep(modules_of(image, video), TOLERANCE)
    run(image, video, lockstep, noise(4, 4, 3, 3), 2)
    names = [layer.name for layer in lockstep.layers]
    weights = {f"decoder.{key.rpartition('.')[0]}" for key in image.state_dict()}
    assert weights < set(names)
    blocks = set(names) - weights
    assert {layer.kind for layer in lockstep.layers if layer.name in blocks} == {
        "ResnetBlock",
        "AttnBlock",
    }
    assert names[0] == "decoder.conv_in"
    assert names[-2:] == ["decoder.norm_out", "decoder.conv_out"]
    assert names.index("decoder.mid.block_1.conv2") < names.index("decoder.mid.block_1")
    assert names.index("decoder.mid.attn_1.proj_out") + 1 == names.index("decoder.mid.attn_1")
    assert names.index("decoder.up.1.block.0.norm1") < names.index("decoder.up.0.block.0.norm1")
    assert hooks_of(image, video) == 0


def test_temporal_layers_are_no_spatial_layers() -> None:
    image, video = sound_pair(**CONFIG)
    assert list(spatial_layers(video)) == list(spatial_layers(image))


def test_post_quant_conv_is_the_first_layer() -> None:
    image, video = sound_pair(**CONFIG)
    one, two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    remake = modules_of(image, video).remake
    lockstep = Lockstep(Modules(image, video, one, two, remake), TOLERANCE)
    z = noise(2, 4, 3, 3)
    with torch.inference_mode():
        with lockstep.reference():
            image(one(z))
        with lockstep.candidate():
            video(two(z), timesteps=2)
    assert [layer.name for layer in lockstep.layers][:2] == ["post_quant_conv", "decoder.conv_in"]
    assert lockstep.culprit() == "post_quant_conv"


def test_one_module_can_be_both_sides() -> None:
    _, video = sound_pair(**CONFIG)
    lockstep = Lockstep(Modules(video, video, None, None, lambda _: lambda z, _: z), TOLERANCE)
    z = noise(4, 4, 3, 3)
    video.state_dict()["mid.block_2.time_stack.out_layers.3.bias"] += 1
    with torch.inference_mode():
        with lockstep.reference():
            video(z, skip_video=True)
        with lockstep.candidate():
            video(z, timesteps=2)
    assert lockstep.culprit() == "decoder.mid.block_2"


@pytest.mark.parametrize(("ours", "theirs"), [(1, 4), (2, 4), (4, 2), (2, 2)])
def test_a_decoder_may_decode_in_pieces(ours: int, theirs: int) -> None:
    image, video = sound_pair(**CONFIG)
    lockstep = Lockstep(modules_of(image, video), TOLERANCE)
    z = noise(4, 4, 3, 3)
    with torch.inference_mode():
        with lockstep.reference():
            for piece in torch.split(z, ours):
                image(piece)
        with lockstep.candidate():
            for piece in torch.split(z, theirs):
                video(piece, timesteps=2)
    assert len(lockstep.layers) == len(spatial_layers(image))
    assert lockstep.culprit() is None
    # And in pieces, too, it is the right rows that are compared.
    video.state_dict()["conv_in.bias"] += 1
    again = Lockstep(modules_of(image, video), TOLERANCE)
    run(image, video, again, z, 2)
    assert again.culprit() == "decoder.conv_in"


def test_each_layer_has_the_worst_of_all_probes() -> None:
    image, video = sound_pair(**CONFIG)
    lockstep = Lockstep(modules_of(image, video), TOLERANCE)
    run(image, video, lockstep, noise(2, 4, 3, 3), 2)
    video.state_dict()["conv_out.bias"] += 0.5
    run(image, video, lockstep, noise(2, 4, 3, 3), 2)
    last = lockstep.layers[-1]
    assert (last.name, last.verdict) == ("decoder.conv_out", "fail")
    assert last.errors.max_abs == pytest.approx(0.5, rel=1e-4)


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    image, video = sound_pair(**CONFIG)
    z = noise(2, 4, 3, 3)
    monkeypatch.setattr(module, "_KEPT_BYTES", 2 * 64 * 9 * 4)  # What conv_in alone gives.
    lockstep = Lockstep(modules_of(image, video), TOLERANCE)
    run(image, video, lockstep, z, 2)
    assert [layer.name for layer in lockstep.layers] == ["decoder.conv_in"]


def test_hooks_are_taken_off_after_an_exception() -> None:
    image, _ = sound_pair(**CONFIG)

    def broken(name: str, _output: Tensor) -> None:
        assert hooks_of(image) > 0
        raise KeyError(name)

    with (
        pytest.raises(KeyError, match=r"decoder\.conv_in"),
        watching(spatial_layers(image), broken),
    ):
        image(noise(1, 4, 3, 3))
    assert hooks_of(image) == 0
