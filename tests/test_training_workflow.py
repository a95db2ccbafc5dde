"""From an image checkpoint to a trained file in another tool, as the README describes it."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import inflate
from inflate.cli.app import main
from inflate.cli.demo import DEMO_CHECKPOINT
from inflate.errors import PlanError
from inflate.formats.targets import LAYOUTS

from .conversions import CPU, snapshot
from .media import clip

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
FINETUNE = ROOT / "examples" / "finetune.py"
QUICK = ("--frames", "3", "--side", "16", "--batch", "1", "--device", "cpu")


def finetune(*arguments: object) -> str:
    """Run the example, and return its log."""
    words = [sys.executable, str(FINETUNE), *map(str, arguments), *QUICK]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained file, its start, and a clip."""
    folder = tmp_path_factory.mktemp("training")
    clip(folder / "clip.mp4")
    start = folder / "start.safetensors"
    inflate.convert(DEMO_CHECKPOINT, start, video_kernel_size=(3, 1, 1), **CPU)
    finetune(start, folder / "clip.mp4", "-o", folder / "trained.safetensors", "--steps", 3)
    return folder


def test_training_leaves_the_image_decoder_intact(folder: Path) -> None:
    trained = folder / "trained.safetensors"
    report = inflate.verify(DEMO_CHECKPOINT, trained, trained=True, **CPU)
    assert report.passed
    assert report.trained is not None
    assert all(part.moved for part in report.trained.movements)
    assert report.trained.max_abs_difference
    assert not inflate.verify(DEMO_CHECKPOINT, trained, **CPU).passed


def test_an_interrupted_run_resumes_bit_for_bit(folder: Path) -> None:
    start, output = folder / "start.safetensors", folder / "resumed.safetensors"
    finetune(start, folder / "clip.mp4", "-o", output, "--steps", 1)
    output.unlink()
    finetune(start, folder / "clip.mp4", "-o", output, "--steps", 3, "--resume")
    assert output.read_bytes() == (folder / "trained.safetensors").read_bytes()


def test_what_cannot_be_trained_is_refused_before_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = runpy.run_path(str(FINETUNE))["main"]
    start, video, output = (
        folder / "start.safetensors",
        folder / "clip.mp4",
        folder / "new.safetensors",
    )
    for wrong in (
        (DEMO_CHECKPOINT, video),  # An image autoencoder.
        (start, folder / "gone.mp4"),
        (start, start),  # Not a video.
        (start, video, "--frames", 300),
        (start, video, "--side", 30),
        (start, video, "--side", 64),
        (start, video, "--steps", 0),
        (start, video, "--device", "nowhere"),
        (start, video, "--device", "cuda:99"),
        (start, video, "--resume"),
        (start, video, "-o", start),
        (start, video, "-o", folder / "new.mp4"),
        (start, video, "-o", folder / "gone" / "new.safetensors"),
    ):
        before = snapshot(folder)
        words = ["finetune.py", "-o", str(output), *QUICK, *map(str, wrong)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2, wrong
        assert snapshot(folder) == before


def test_ctrl_c_ends_the_example_with_130(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("av.open", stop)
    words = [
        "finetune.py",
        folder / "start.safetensors",
        folder / "clip.mp4",
        "-o",
        folder / "new.safetensors",
    ]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(FINETUNE), run_name="__main__")
    assert stopped.value.code == 130


@pytest.mark.parametrize("layout", ["sgm", "cogvideo", "comfyui", "diffusers"])
def test_another_tool_decodes_a_trained_file_as_we_do(
    layout: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ComfyUI assumes sizes that the demo checkpoint does not have.
    comfyui = replace(LAYOUTS["comfyui"], hardwired={})
    monkeypatch.setitem(LAYOUTS, "comfyui", comfyui)  # type: ignore[arg-type]
    options: dict[str, Any] = {"post_quant": "fold", "allow_inexact": True}
    ending = "" if layout == "diffusers" else LAYOUTS[layout].endings[0]
    output = folder / f"{layout}{ending}"
    result = inflate.convert(
        folder / "trained.safetensors", output, layout=layout, **options, **CPU
    )
    assert result.passed
    z = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    # Ours is folded alike: a fold changes the border, for every reader.
    ours = folder / f"ours-{layout}.safetensors"
    inflate.convert(folder / "trained.safetensors", ours, layout="autoencoder", **options, **CPU)
    with torch.no_grad():
        expected = inflate.load_video_autoencoder(ours).decode(z, 3)
        if layout == "diffusers":
            diffusers = pytest.importorskip("diffusers")
            model = diffusers.AutoencoderKLTemporalDecoder.from_pretrained(output)
            found = model.decode(z, num_frames=3).sample
        else:
            found = inflate.load_video_autoencoder(output).decode(z, 3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def train_in_part(rank: int, folder: str) -> None:
    """One process of two, each with half of every tensor."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    model = inflate.load_video_autoencoder(Path(folder, "start.safetensors"))
    model.freeze_spatial()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    one_step(model)
    with pytest.raises(PlanError):
        inflate.save_video_autoencoder(model, Path(folder, f"{rank}.safetensors"))
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        inflate.save_video_autoencoder(model, Path(folder, "sharded.safetensors"), state_dict=state)
    dist.destroy_process_group()


def one_step(model: nn.Module) -> None:
    """A step of training on latents that every process draws alike."""
    z = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    model(z, 2).square().mean().backward()
    temporal = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.optim.SGD(temporal, lr=0.1).step()


def test_a_module_in_parts_is_saved_as_a_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    multiprocessing.spawn(train_in_part, (str(folder),), nprocs=2)
    whole = inflate.load_video_autoencoder(folder / "start.safetensors")
    whole.freeze_spatial()
    one_step(whole)
    found = inflate.load_video_autoencoder(folder / "sharded.safetensors").state_dict()
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=1e-4, msg=name)
    assert not (folder / "1.safetensors").exists()


def test_the_page_of_fine_tuning_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "fine-tuning.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```bash\n(pip install .*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "CLIP.mp4")
    for line in block.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        if program == "cp":
            shutil.copy(ROOT / arguments[0], arguments[1])
        elif program == "python":
            assert arguments[0] == "examples/finetune.py"
            finetune(*arguments[1:], "--steps", 1)
        elif program == "inflate":
            assert main(arguments) == 0, line
        else:
            assert program == "pip"
    diffusers = pytest.importorskip("diffusers")
    diffusers.AutoencoderKLTemporalDecoder.from_pretrained("vae")
