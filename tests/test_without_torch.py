"""Everything up to the staged file works where torch cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from .checkpoints import (
    autoencoder,
    bare_decoder,
    prefixed,
    write_lightning,
    write_safetensors,
    write_torch,
)
from .conversions import metadata_of

RUN = """
import contextlib, io, json, sys
sys.modules["torch"] = None
from inflate.cli.app import main
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def commands(folder: Path) -> list[tuple[str, ...]]:
    """Every command that needs no torch, on every kind of file."""
    kinds = ["img.safetensors", "img.ckpt", "img.pth", "model.safetensors.index.json", "vae"]
    paths = [str(folder / name) for name in kinds]
    plain = str(folder / "plain.safetensors")
    image, video, out = paths[1], str(folder / "video.safetensors"), str(folder / "out")
    quick = ("--skip-parity", "-o")
    return [
        ("--help",), ("--version",), ("presets",), ("presets", "--json"),
        *((name, "--help") for name in ("convert", "verify", "inspect", "batch", "report")),
        *(("inspect", path, *more) for path in [*paths, video] for more in ((), ("--json",))),
        *(("convert", path, "--dry-run") for path in paths),
        *(("convert", path, *quick, f"{out}-{i}.safetensors") for i, path in enumerate(paths)),
        *(("convert", image, "--time-mode", mode, *quick, f"{out}-{mode}.safetensors")
          for mode in ("all", "attn-only")),
        *(("convert", plain, "--layout", layout, *quick, f"{out}-{layout}.safetensors")
          for layout in ("sgm", "decoder")),
        ("convert", image, "--dtype", "float16", *quick, f"{out}-half.safetensors"),
        ("convert", image, "--post-quant", "fold", "--allow-inexact", *quick,
         f"{out}-folded.safetensors"),
        ("batch", str(folder / "manifest.yaml"), "--dry-run"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def answers(
    image: Path, videos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, ...], tuple[int, str, str]]:
    """The exit code, stdout and stderr of each command, all run in one process."""
    folder = tmp_path_factory.mktemp("without")
    weights = autoencoder(ch_mult=[1], num_res_blocks=2)
    write_safetensors(folder / "img.safetensors", prefixed(weights))
    write_safetensors(folder / "plain.safetensors", autoencoder("plain", ch_mult=[1]))
    write_lightning(folder / "img.ckpt", weights)
    bare = bare_decoder(ch_mult=[1], dtype=torch.float16)
    write_torch(folder / "img.pth", bare, _use_new_zipfile_serialization=False)
    names = {key: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, key in enumerate(weights)}
    for name in set(names.values()):
        part = {key: weights[key] for key in weights if names[key] == name}
        write_safetensors(folder / name, part)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    (folder / "vae").mkdir()
    (folder / "vae/config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    write_safetensors(folder / "vae/diffusion_pytorch_model.safetensors", weights)
    (folder / "video.safetensors").write_bytes(videos["all"].read_bytes())
    jobs = [str(image), {"source": str(folder / "img.ckpt"), "matrix": {"alpha": [0.25, 0.5]}}]
    (folder / "manifest.yaml").write_text(yaml.safe_dump({"jobs": jobs}))

    words = commands(folder)
    ran = subprocess.run([sys.executable, "-c", RUN], input=json.dumps(words), text=True,
                         capture_output=True, cwd=Path(__file__).parents[1])  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found: list[Any] = [tuple(json.loads(line)) for line in ran.stdout.splitlines()]
    return dict(zip(words, found, strict=True))


def test_every_command_works(answers: dict[tuple[str, ...], tuple[int, str, str]]) -> None:
    for words, (code, out, err) in answers.items():
        assert code == 0, (words, err)
        assert out, words
        if "--json" in words:
            assert json.loads(out)


def test_every_written_file_is_what_torch_reads(
    answers: dict[tuple[str, ...], tuple[int, str, str]],
) -> None:
    outputs = [Path(words[words.index("-o") + 1]) for words in answers if "-o" in words]
    assert len(outputs) == 11
    for path in outputs:
        assert metadata_of(path)["inflate.parity.verdict"] == "unverified"
