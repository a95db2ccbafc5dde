"""``inflate presets``, ``inflate inspect`` and ``inflate demo``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inflate.cli import demo
from inflate.cli.demo import DEMO_CHECKPOINT
from inflate.config.loading import read_config
from inflate.config.presets import load_presets, preset_folder

from ..checkpoints import autoencoder, write_safetensors
from ..conversions import corrupt_start, sha256, snapshot
from .conftest import CPU, Run


def test_a_line_for_every_preset(run: Run) -> None:
    ran = run("presets")
    assert (ran.code, ran.err) == (0, "")
    found = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in ran.out.splitlines()}
    assert set(found) == {path.stem for path in preset_folder().glob("*.yaml")}
    assert found == {name: preset.description for name, preset in load_presets().items()}


def test_an_exported_preset_is_a_configuration(run: Run, tmp_path: Path) -> None:
    ran = run("presets", "export", "sdxl")
    assert (ran.code, ran.err) == (0, "")
    path = tmp_path / "my.yaml"
    path.write_text(ran.out, encoding="utf-8")
    assert read_config(str(path)) == read_config("sdxl")


@pytest.mark.parametrize(("name", "like"), [("kl-f9", "kl-f8"), ("xyzzy", None)])
def test_an_unknown_preset_ends_with_2(run: Run, name: str, like: str | None) -> None:
    ran = run("presets", "show", name)
    assert (ran.code, ran.out) == (2, "")
    assert ("did you mean" in ran.err) == (like is not None)
    assert like is None or f"did you mean '{like}'" in ran.err


def test_the_document(run: Run, image: Path, videos: dict[str, Path]) -> None:
    document = run("inspect", image, "--json").document
    assert (document["kind"], document["layout"]) == ("image autoencoder", None)
    assert (document["names"], document["inflated"], document["obstacles"]) == ("ldm", False, [])
    assert document["architecture"]["ch_mult"] == [1, 2]
    weights = autoencoder()
    decoder = [key for key in weights if key.startswith("decoder.")]
    assert document["convert"]["copied"] == len(decoder)
    assert document["convert"]["passed_through"] == len(weights) - len(decoder)
    sizes = {part["name"]: part["nbytes"] for part in document["parts"]}
    assert sizes["decoder"] == sum(4 * weights[key].numel() for key in decoder)

    video = run("inspect", videos["conv-only"], "--json").document
    assert (video["inflated"], video["temporal"]["time_mode"]) == (True, "conv-only")
    assert video["metadata"]["inflate.parity.verdict"] == "bitwise"
    assert "--layout" in video["obstacles"][-1]
    assert (video["kind"], video["layout"]) == ("video autoencoder", "autoencoder")
    assert video["layouts"]["autoencoder"]["obstacles"] == []
    assert video["layouts"]["sgm"]["obstacles"] != []

    demo = run("inspect", DEMO_CHECKPOINT, "--json").document
    assert demo["format"] == "torch"
    assert demo["foreign"] == ["pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"]


def test_every_obstacle_is_listed(run: Run, tmp_path: Path) -> None:
    weights = autoencoder()
    del weights["decoder.norm_out.bias"]
    weights["decoder.extra.weight"] = torch.zeros(2)
    path = write_safetensors(tmp_path / "bad.safetensors", weights)
    quiet = run("inspect", path, "-q")
    assert quiet.code == 0
    obstacles = quiet.out.splitlines()
    assert len(obstacles) >= 2
    for name in ("decoder.norm_out.bias", "decoder.extra.weight"):
        assert any(name in line for line in obstacles)
    full = run("inspect", path).out
    assert all(f"obstacle: {line}" in full for line in obstacles)


def test_an_option_is_advised_only_where_it_makes_a_layout_possible(
    run: Run, image: Path, tmp_path: Path
) -> None:
    """Inspect names every reason, and no option where another reason stays."""
    layouts = run("inspect", image, "--json").document["layouts"]
    reasons = layouts["comfyui"]["obstacles"]
    assert len(reasons) > 2
    assert any("kernel 3,1,1" in why and "3,3,3" in why for why in reasons)
    assert not any("--" in why for why in reasons)
    (folding,) = layouts["sgm"]["obstacles"]
    assert folding.endswith("--post-quant fold")
    words = ("--layout", "sgm", "--post-quant", "fold", "--allow-inexact", "--dry-run")
    assert run("convert", image, "-o", tmp_path / "out", *words).code == 0


MODES = ("all", "conv-only", "attn-only")
FILES = ["demo.ckpt", *(f"demo.{mode}.safetensors" for mode in MODES)]


def test_the_real_checkpoint_is_bitwise_in_every_mode(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    ran = run("demo", folder, *CPU)
    assert (ran.code, ran.err) == (0, "")
    verdicts = [line.split()[1] for line in ran.out.splitlines() if line.startswith("parity:")]
    assert verdicts == ["bitwise"] * 3
    assert sorted(snapshot(folder)) == sorted(FILES)
    assert sha256(folder / "demo.ckpt") == sha256(demo.DEMO_CHECKPOINT)
    for mode in MODES:
        target = folder / f"demo.{mode}.safetensors"
        assert f"$ inflate convert {folder / 'demo.ckpt'} --time-mode {mode} -o {target}" in ran.out
        assert f"$ inflate verify {folder / 'demo.ckpt'} {target}" in ran.out
    result, following = ran.out.splitlines()[-2:]
    assert result.startswith("3 of 3 ")
    assert str(folder) in result
    assert run(*following.removeprefix("next: inflate ").split()).code == 0


@pytest.fixture
def small(source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny checkpoint in the place of the real one."""
    monkeypatch.setattr(demo, "DEMO_CHECKPOINT", source)
    return source


@pytest.mark.usefixtures("small")
def test_quiet_prints_a_verdict_per_mode_and_may_be_repeated(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inflate-demo").mkdir()
    (tmp_path / "inflate-demo" / FILES[0]).write_text("of before")
    ran = run("demo", "-q", *CPU)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "".join(f"{mode} bitwise\n" for mode in MODES)
    assert sorted(snapshot(tmp_path / "inflate-demo")) == sorted(FILES)
    again = run("demo", *CPU)
    assert again.code == 0
    assert again.err.startswith("note: ")
    assert all(name in again.err for name in FILES)


def test_where_it_fails(
    run: Run, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = run("demo", small, *CPU)  # A folder that is a file.
    assert (ran.code, ran.out) == (2, "")
    assert list(tmp_path.iterdir()) == [small]
    corrupt_start(monkeypatch, lambda key, _: key.endswith("time_mix_conv.bias"))
    ran = run("demo", tmp_path / "demo", "-q", *CPU)
    assert (ran.code, ran.err) == (1, "")
    assert ran.out == "all fail\nconv-only fail\nattn-only bitwise\n"


def test_a_check_is_in_the_exit_code(run: Run, image: Path, videos: dict[str, Path]) -> None:
    broken = ("--ignore", "decoder.conv_in.bias")
    files: list[tuple[tuple[object, ...], int]] = [
        ((image,), 0), ((image, *broken), 1), ((videos["all"],), 1), ((image.parent / "no",), 2),
    ]  # fmt: skip
    for arguments, code in files:
        for more in ((), ("-q",), ("--json",)):
            assert run("inspect", *arguments, "--check", *more).code == code
    assert run("inspect", image, *broken).code == 0
