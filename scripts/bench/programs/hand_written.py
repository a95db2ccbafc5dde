"""A yardstick: the conversion as it is usually written by hand: SOURCE OUTPUT."""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file

from inflate import VideoDecoder

state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)["state_dict"]
decoder = VideoDecoder(
    ch=128,
    out_ch=3,
    ch_mult=[1, 2, 4, 4],
    num_res_blocks=2,
    attn_resolutions=[],
    in_channels=3,
    resolution=256,
    z_channels=4,
    time_mode="conv-only",
    merge_strategy="learned",
    video_kernel_size=3,
)
weights = decoder.state_dict()
for key, value in state.items():
    if key.startswith("decoder."):
        weights[key.removeprefix("decoder.")] = value
decoder.load_state_dict(weights)
tensors = {f"decoder.{key}": value for key, value in decoder.state_dict().items()}
tensors.update({key: value for key, value in state.items() if not key.startswith("decoder.")})
save_file(tensors, sys.argv[2])
