"""A yardstick: diffusers builds its temporal decoder at full size, and saves it: FOLDER."""

from __future__ import annotations

import sys

from diffusers import AutoencoderKLTemporalDecoder

AutoencoderKLTemporalDecoder(
    down_block_types=("DownEncoderBlock2D",) * 4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
).save_pretrained(sys.argv[1])
