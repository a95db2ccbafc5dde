"""Both decoders layer by layer: which layers, in which order, and what is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inflate.models import Decoder, VideoDecoder
from inflate.parity import lockstep as module
from inflate.parity.lockstep import Lockstep, spatial_layers, watching
from inflate.parity.metrics import Tolerance
from inflate.parity.pair import LatentDecoder, Modules

from ..checkpoints import ATTENTION_IN_UP, DDCONFIG
from ..models.builders import noise
from .damage import sound_pair

CONFIG: dict[str, Any] = {**DDCONFIG, **ATTENTION_IN_UP, "time_mode": "all", "alpha": 0.3}


def lockstep_of(image: Decoder, video: VideoDecoder, *before: nn.Module) -> Lockstep:
    reference, candidate = LatentDecoder(image, *before[:1]), LatentDecoder(video, *before[1:])
    modules = Modules(reference, candidate, lambda _: reference)
    return Lockstep(modules, Tolerance(1e-5, 1e-5))


def hooks_of(*decoders: nn.Module) -> int:
    return sum(len(m._forward_hooks) for decoder in decoders for m in decoder.modules())


def run(image: Decoder, video: VideoDecoder, lockstep: Lockstep, z: Tensor, size: int = 4) -> None:
    """Decode videos of two frames, ``size`` frames at a time."""
    with torch.inference_mode():
        with lockstep.reference():
            for piece in torch.split(z, size):
                image(piece)
        with lockstep.candidate():
            for piece in torch.split(z, size):
                video(piece, timesteps=2)


def test_every_layer_with_weights_is_compared_in_the_order_in_which_it_runs() -> None:
    image, video = sound_pair(**CONFIG)
    lockstep = lockstep_of(image, video)
    run(image, video, lockstep, noise(4, 4, 3, 3))
    names = [layer.name for layer in lockstep.layers]
    weights = {f"decoder.{key.rpartition('.')[0]}" for key in image.state_dict()}
    assert weights < set(names)
    blocks = set(names) - weights
    kinds = {layer.kind for layer in lockstep.layers if layer.name in blocks}
    assert kinds == {"ResnetBlock", "AttnBlock"}
    assert names[0] == "decoder.conv_in"
    assert names[-2:] == ["decoder.norm_out", "decoder.conv_out"]
    assert names.index("decoder.mid.block_1.conv2") < names.index("decoder.mid.block_1")
    assert names.index("decoder.mid.attn_1.proj_out") + 1 == names.index("decoder.mid.attn_1")
    assert names.index("decoder.up.1.block.0.norm1") < names.index("decoder.up.0.block.0.norm1")
    assert hooks_of(image, video) == 0
    assert list(spatial_layers(video)) == list(spatial_layers(image))


def test_post_quant_conv_is_the_first_layer() -> None:
    image, video = sound_pair(**CONFIG)
    one, two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    lockstep = lockstep_of(image, video, one, two)
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
    lockstep = lockstep_of(video, video)
    z = noise(4, 4, 3, 3)
    video.state_dict()["mid.block_2.time_stack.out_layers.3.bias"] += 1
    with torch.inference_mode():
        with lockstep.reference():
            video(z, skip_video=True)
        with lockstep.candidate():
            video(z, timesteps=2)
    assert lockstep.culprit() == "decoder.mid.block_2"


def test_decoding_in_pieces_compares_the_right_rows() -> None:
    image, video = sound_pair(**CONFIG)
    lockstep = lockstep_of(image, video)
    z = noise(4, 4, 3, 3)
    run(image, video, lockstep, z, size=2)
    assert len(lockstep.layers) == len(spatial_layers(image))
    assert {layer.verdict for layer in lockstep.layers} == {"bitwise"}
    video.state_dict()["conv_in.bias"] += 1
    run(image, video, lockstep, z, size=2)
    assert lockstep.culprit() == "decoder.conv_in"


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_a_probe_that_an_exception_ends_is_left_out(side: str) -> None:
    image, video = sound_pair(**CONFIG)
    lockstep = lockstep_of(image, video)
    z = noise(4, 4, 3, 3)
    broken = {"reference": image.up[0], "candidate": video.up[0]}[side]
    calls = []

    def fail(_module: nn.Module, _args: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise MemoryError

    handle = broken.block[0].register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        run(image, video, lockstep, z, size=2)
    handle.remove()
    assert lockstep.layers == ()
    assert hooks_of(image, video) == 0
    run(image, video, lockstep, z[:2])
    assert {layer.verdict for layer in lockstep.layers} == {"bitwise"}


def test_each_layer_has_the_worst_of_all_probes() -> None:
    image, video = sound_pair(**CONFIG)
    lockstep = lockstep_of(image, video)
    run(image, video, lockstep, noise(2, 4, 3, 3))
    video.state_dict()["conv_out.bias"] += 0.5
    run(image, video, lockstep, noise(2, 4, 3, 3))
    last = lockstep.layers[-1]
    assert (last.name, last.verdict) == ("decoder.conv_out", "fail")
    assert last.errors.max_abs == pytest.approx(0.5, rel=1e-4)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    image, video = sound_pair(**CONFIG)
    monkeypatch.setattr(module, "_KEPT_BYTES", 2 * 64 * 9 * 4)  # The output of conv_in alone.
    lockstep = lockstep_of(image, video)
    run(image, video, lockstep, noise(2, 4, 3, 3))
    assert [layer.name for layer in lockstep.layers] == ["decoder.conv_in"]


def test_hooks_are_removed_after_an_exception() -> None:
    image, _ = sound_pair(**CONFIG)

    def broken(name: str, _output: Tensor) -> None:
        assert hooks_of(image) > 0
        raise KeyError(name)

    with pytest.raises(KeyError), watching(spatial_layers(image), broken):
        image(noise(1, 4, 3, 3))
    assert hooks_of(image) == 0
