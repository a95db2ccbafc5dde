"""A yardstick: one forward pass of both decoders on the CPU's probes: IMAGE VIDEO.

Prints JSON: the seconds of the passes alone, the first there are, and their FLOPs.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from inflate.formats.source import describe
from inflate.io.reader import open_checkpoint
from inflate.loading import load_image_decoder, load_video
from inflate.parity.device import exact_float32
from inflate.parity.probes import probes_for

with open_checkpoint(Path(sys.argv[1])) as image, open_checkpoint(Path(sys.argv[2])) as video:
    decoders = [
        load_image_decoder(describe(image), torch.float32),
        load_video(describe(video), torch.float32),
    ]
for decoder in decoders:
    for parameter in decoder.parameters():
        parameter.data = parameter.data.clone()  # In memory, not in a file yet to be read.
device = torch.device("cpu")
seconds = 0.0
with exact_float32(), torch.inference_mode():
    inputs = [(probe.latents(4, 0), probe.frames) for probe in probes_for(device)]
    for z, frames in inputs:
        started = time.perf_counter()
        decoders[0](z)
        decoders[1](z, timesteps=frames)
        seconds += time.perf_counter() - started
with FlopCounterMode(display=False) as counter, torch.inference_mode():
    for decoder in decoders:
        decoder.to("meta")  # Shapes are enough to count.
    for z, frames in inputs:
        decoders[0](z.to("meta"))
        decoders[1](z.to("meta"), timesteps=frames)
json.dump({"seconds": seconds, "flops": counter.get_total_flops()}, sys.stdout)
