"""Everything up to the staged file works where torch cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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


def test_every_command_works_and_its_file_is_complete(
    image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    weights = autoencoder(ch_mult=[1], num_res_blocks=2)
    write_safetensors(tmp_path / "img.safetensors", prefixed(weights))
    write_safetensors(tmp_path / "plain.safetensors", autoencoder("plain", ch_mult=[1]))
    write_lightning(tmp_path / "img.ckpt", weights)
    bare = bare_decoder(ch_mult=[1], dtype=torch.float16)
    write_torch(tmp_path / "img.pth", bare, _use_new_zipfile_serialization=False)
    names = {key: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, key in enumerate(weights)}
    for name in set(names.values()):
        write_safetensors(tmp_path / name, {k: weights[k] for k in weights if names[k] == name})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    write_safetensors(tmp_path / "vae/diffusion_pytorch_model.safetensors", weights)
    (tmp_path / "video.safetensors").write_bytes(videos["all"].read_bytes())
    jobs = [str(image), {"source": str(tmp_path / "img.ckpt"), "matrix": {"alpha": [0.25, 0.5]}}]
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump({"jobs": jobs}))

    words = commands(tmp_path)
    ran = subprocess.run([sys.executable, "-c", RUN], input=json.dumps(words), text=True,
                         capture_output=True, cwd=Path(__file__).parents[1])  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    for command, line in zip(words, ran.stdout.splitlines(), strict=True):
        code, out, err = json.loads(line)
        assert code == 0, (command, err)
        assert out, command
        if "--json" in command:
            assert json.loads(out)
        if "-o" in command:
            metadata = metadata_of(Path(command[command.index("-o") + 1]))
            assert metadata["inflate.parity.verdict"] == "unverified"
            assert metadata["inflate.parity.device"] == "none"


@pytest.mark.parametrize("words", [["convert", "--dry-run"], ["inspect"]])
def test_a_plan_loads_neither_numpy_nor_other_commands(image: Path, words: list[str]) -> None:
    code = (
        "import sys; from inflate.cli.app import main; from inflate.workflow import inspection\n"
        "inspection._CHEAP = 0  # No fingerprint: that reads the tensors.\n"
        "assert main(sys.argv[1:]) == 0; print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, words[0], str(image), *words[1:]],
                          check=True, capture_output=True, text=True)  # fmt: skip
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not {"numpy", "ml_dtypes", "pydantic", "http.client"} & loaded
    commands = ("convert", "verify", "batch", "inspect", "demo", "presets")
    assert [name for name in commands if f"inflate.cli.{name}" in loaded] == words[:1]
