"""What the process of ``serving`` loads before it forks: everything that a conversion does."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from ..checkpoints import autoencoder, write_safetensors
from . import serving
from .refusals import command

torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as folder:
    source = write_safetensors(
        Path(folder) / "img.safetensors", autoencoder(ch_mult=[1], num_res_blocks=2)
    )
    for options in (("--device", "cpu"), serving.EXPORT):
        code, _, err = command(["convert", source, "-o", f"{folder}/{options[0]}", *options])
        assert code == 0, err
