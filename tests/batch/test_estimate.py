"""The estimate of a job, compared with its real output and memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from inflate.batch.estimate import RUNTIME, estimate
from inflate.batch.jobs import Job
from inflate.workflow import convert

from ..checkpoints import (
    ATTENTION_IN_UP,
    autoencoder,
    video_autoencoder,
    write_safetensors,
)
from .conftest import environment


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"time_mode": "all", "video_kernel_size": (5, 3, 3), "layout": "decoder"},
        {"time_mode": "attn-only", "dtype": "float16"},
    ],
)
def test_the_output_is_as_large_as_the_plan_says(options: dict[str, Any], tmp_path: Path) -> None:
    weights = autoencoder(ch_mult=[1, 2], **ATTENTION_IN_UP)
    source = write_safetensors(tmp_path / "img.safetensors", weights)
    found = estimate(Job("", str(source), "out", options))
    result = convert(source, tmp_path / "v.safetensors", device="cpu", **options)
    assert found.output == result.plan.nbytes
    assert found.source == source.stat().st_size


def test_folding_is_estimated_without_computing(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "img.safetensors", autoencoder(ch_mult=[1]))
    plain = estimate(Job("", str(source), "out", {}))
    assert estimate(Job("", str(source), "out", {"post_quant": "fold"})) == plain


def test_a_copy_whose_blend_is_unknown_is_an_obstacle(tmp_path: Path) -> None:
    weights = video_autoencoder("plain", ch_mult=[1])
    for key in weights:
        if key.endswith("mix_factor"):
            weights[key] = torch.tensor([0.25])
    source = write_safetensors(tmp_path / "video.safetensors", weights)
    options: dict[str, Any] = {"layout": "sgm"}
    found = estimate(Job("", str(source), "out", options))
    assert (found.output, len(found.obstacles)) == (None, 1)
    options["merge_strategy"] = "fixed"
    found = estimate(Job("", str(source), "out", options))
    assert found.obstacles == ()
    assert found.output == convert(source, dry_run=True, **options).plan.nbytes


def test_a_dry_run_of_safetensors_needs_no_torch(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "img.safetensors", autoencoder(ch_mult=[1]))
    code = (
        "import sys; from inflate.cli.app import main\n"
        "assert main(['batch', '*.safetensors', '-o', 'out', '--dry-run']) == 0\n"
        "assert not {'torch', 'ray', 'jinja2'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_memory_stays_below_the_estimate(tmp_path: Path) -> None:
    weights = autoencoder(ch=64, ch_mult=[1, 2, 4], num_res_blocks=2)
    source = write_safetensors(tmp_path / "img.safetensors", weights)
    found = estimate(Job("", str(source), "out", {"time_mode": "all", "device": "cpu"}))
    code = (
        "import sys, inflate\n"
        "from pathlib import Path\n"
        "inflate.convert(Path(sys.argv[1]), sys.argv[2], time_mode='all', device='cpu')\n"
        "words = Path('/proc/self/status').read_text().split()\n"
        "print(int(words[words.index('VmHWM:') + 1]) * 1024)\n"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "v.safetensors")]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) <= found.memory + RUNTIME
