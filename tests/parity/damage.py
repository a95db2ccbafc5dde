"""What the tests share: checks in memory, of decoders that lie in no file."""

from __future__ import annotations

import copy
from typing import Any

import torch

from inflate.inflation.initializers import start_rules
from inflate.loading import make_tensor
from inflate.models import Decoder, VideoDecoder
from inflate.parity.metrics import TOLERANCES
from inflate.parity.pair import Decode, DecoderPair, LatentDecoder, Modules
from inflate.parity.result import ParityReport, Tolerance, WeightsResult
from inflate.parity.verify import run_check

from ..inflation.planning import config_of
from ..models.builders import drawn_weights, made_once, shapes_of


@made_once
def sound_pair(
    seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any
) -> tuple[Decoder, VideoDecoder]:
    """An image decoder of drawn weights, and what it is inflated to, without a file."""
    temporal = ("time_mode", "merge_strategy", "alpha", "video_kernel_size")
    spatial = {k: v for k, v in config.items() if k not in temporal}
    with torch.device("meta"):
        image, video = Decoder(**spatial), VideoDecoder(**config)
    weights = drawn_weights(shapes_of(image), seed)
    rules = start_rules(config_of(**config))
    whole = {
        key: weights[key]
        if key in weights
        else make_tensor(rules[f"decoder.{key}"], tuple(value.shape), key, seed)
        for key, value in video.state_dict().items()
    }
    image.load_state_dict({k: v.to(dtype, copy=True) for k, v in weights.items()}, assign=True)
    video.load_state_dict({k: v.to(dtype, copy=True) for k, v in whole.items()}, assign=True)
    return image.eval(), video.eval()


def pair_of(image: Decoder, video: VideoDecoder) -> DecoderPair:
    """Both as what a check runs."""
    reference, candidate = LatentDecoder(image), LatentDecoder(video)

    def remake(dtype: torch.dtype) -> Decode:
        return LatentDecoder(copy.deepcopy(image).to(dtype))

    return DecoderPair(
        reference=reference,
        candidate=candidate,
        channels=image.z_channels,
        weights=WeightsResult(1, ()),
        skip_video=candidate.image_layers,
        modules=Modules(reference, candidate, remake),
    )


def checked(pair: DecoderPair, tolerance: float, **options: Any) -> ParityReport:
    """A check of two ways to decode on the CPU, in float32 if nothing else is given."""
    return run_check(
        pair,
        reference=("r", "0"),
        candidate=("c", "1"),
        device=torch.device("cpu"),
        tolerance=Tolerance(tolerance, tolerance),
        **{"dtype": torch.float32, **options},
    )


def check(
    image: Decoder, video: VideoDecoder, *, dtype: torch.dtype = torch.float32, **options: Any
) -> ParityReport:
    """A thorough check of a pair, with the tolerance of its type."""
    tolerance = TOLERANCES[str(dtype).removeprefix("torch.")]
    options = {"dtype": dtype, "thorough": True, **options}
    return checked(pair_of(image, video), tolerance, **options)
