"""``inflate convert``: what it prints where, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import inflate
from inflate.inflation.initializers import ZEROS

from ..checkpoints import autoencoder, write_torch
from ..conversions import metadata_of, print_of, snapshot, spoil_start
from .conftest import Run

CPU = ("--device", "cpu")


def strict(text: str) -> Any:
    """JSON by a reader that knows no NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the document"))


@pytest.fixture
def no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start in which the branches are no identities, as a bug would make it."""
    spoil_start(monkeypatch, lambda _, rule: rule == ZEROS)


@pytest.mark.parametrize("mode", ["all", "conv-only", "attn-only"])
def test_the_result_is_on_stdout(run: Run, source: Path, tmp_path: Path, mode: str) -> None:
    ran = run("convert", source, "--time-mode", mode, *CPU)
    assert (ran.code, ran.err) == (0, "")
    output = tmp_path / "img.video.safetensors"
    assert "parity: bitwise  (largest error 0, float32 on cpu)" in ran.out
    assert f"{source} -> {output}" in ran.out
    assert "ch 32, ch_mult 1, num_res_blocks 1, z_channels 4" in ran.out, "the architecture"
    assert f"{mode}, learned, alpha 0" in ran.out
    assert ("kernel 3,3,3" in ran.out) == (mode != "attn-only")
    assert sorted(snapshot(tmp_path)) == ["img.pt", "img.video.safetensors"]
    assert metadata_of(output)["inflate.parity.verdict"] == "bitwise"


def test_the_document(run: Run, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "v.safetensors"
    ran = run("convert", source, "-o", output, "--json", *CPU)
    assert (ran.code, ran.err) == (0, "")
    document = strict(ran.out)
    assert document["schema"] == "inflate/conversion/1"
    assert (document["output"], document["fingerprint"]) == (str(output), print_of(output))
    assert document["parity"]["schema"] == "inflate/parity-report/1"
    assert document["parity"]["verdict"] == "bitwise"
    assert document["parity"]["candidate"] == {"path": str(output), "fingerprint": print_of(output)}
    assert document["plan"]["copied"] + document["plan"]["passed_through"] == len(
        autoencoder(ch_mult=[1])
    )


def test_every_option_reaches_the_file(run: Run, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "v.safetensors"
    options = {
        "--time-mode": "all",
        "--merge-strategy": "fixed",
        "--alpha": 0.25,
        "--video-kernel-size": "3,1,1",
        "--attn-type": "vanilla",
        "--seed": 7,
        "--dtype": "bfloat16",
        "--set": "architecture.scaling_factor=0.5",
    }
    ran = run("convert", source, "-o", output, *CPU, *(x for pair in options.items() for x in pair))
    assert ran.code == 0, ran.err
    config = json.loads(metadata_of(output)["inflate.config"])
    assert config["temporal"] == {
        "time_mode": "all",
        "merge_strategy": "fixed",
        "alpha": 0.25,
        "video_kernel_size": [3, 1, 1],
    }
    assert (config["seed"], config["dtype"]) == (7, "bfloat16")
    assert config["architecture"]["scaling_factor"] == 0.5
    assert {tensor.dtype for tensor in load_file(output).values()} == {torch.bfloat16}
    assert "cast: float32 to bfloat16 changes the image decoder's output by up to" in ran.out


@pytest.mark.parametrize(
    ("text", "kernel"), [("3", 3), ("5,3,3", [5, 3, 3]), ("[1,3,3]", [1, 3, 3])]
)
def test_kernels_as_they_are_written(run: Run, source: Path, text: str, kernel: object) -> None:
    ran = run("convert", source, "--video-kernel-size", text, "--dry-run", "--json")
    assert strict(ran.out)["temporal"]["video_kernel_size"] == kernel


def test_options_win_over_the_yaml(run: Run, source: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("seed: 4\ntemporal: {alpha: 0.5, time_mode: all}\n")
    ran = run(
        *("convert", source, "--config", config, "--alpha", 0.25, "--set", "merge_strategy=fixed"),
        *("--dry-run", "--json"),
    )
    document = strict(ran.out)
    assert document["seed"] == 4
    assert document["temporal"] | {"video_kernel_size": 3} == {
        "time_mode": "all",
        "merge_strategy": "fixed",
        "alpha": 0.25,
        "video_kernel_size": 3,
    }


def test_the_same_as_from_python(run: Run, source: Path, tmp_path: Path) -> None:
    run("convert", source, "--alpha", 0.3, "--time-mode", "all", *CPU)
    by_hand = inflate.convert(
        source, tmp_path / "v", alpha=0.3, time_mode="all", device="cpu"
    ).fingerprint
    assert print_of(tmp_path / "img.video.safetensors") == by_hand


def test_quiet_says_the_path_alone(run: Run, source: Path, tmp_path: Path) -> None:
    ran = run("convert", source, "-q", "--merge-strategy", "fixed", *CPU)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{tmp_path / 'img.video.safetensors'}\n"


def test_a_dead_blend_is_told_on_stderr(run: Run, source: Path) -> None:
    fixed = ("convert", source, "--merge-strategy", "fixed", "--dry-run")
    assert run(*fixed).err.startswith("note: a fixed blend with alpha 0 lets no gradient")
    assert run(*fixed, "--alpha", 0.25).err == ""
    ran = run(*fixed, "--json")
    assert strict(ran.out)["notes"]


def test_skipped_parity(run: Run, source: Path, tmp_path: Path) -> None:
    ran = run("convert", source, "--skip-parity")
    assert (ran.code, ran.err) == (0, "")
    assert "parity: unverified (--skip-parity)" in ran.out
    metadata = metadata_of(tmp_path / "img.video.safetensors")
    assert metadata["inflate.parity.verdict"] == "unverified"
    ran = run("convert", source, "--skip-parity", "--overwrite", "--json")
    assert strict(ran.out)["parity"] is None


def test_a_dry_run_prints_the_plan(run: Run, tmp_path: Path) -> None:
    weights = autoencoder(ch_mult=[1])
    weights["loss.logvar"] = torch.zeros(5)
    source = write_torch(tmp_path / "img.pt", weights)
    before = snapshot(tmp_path)
    ran = run("convert", source, "--dry-run", "--time-mode", "all")
    assert (ran.code, ran.err) == (0, "")
    assert snapshot(tmp_path) == before

    plan = inflate.convert(source, dry_run=True, time_mode="all").plan
    rows = [line.split() for line in ran.out.splitlines()]
    origins = {row[0]: row for row in rows if row and row[0] in {t.key for t in plan.tensors}}
    assert set(origins) == {tensor.key for tensor in plan.tensors}
    assert origins["decoder.conv_in.weight"][-3:] == ["copy", "of", "decoder.conv_in.weight"]
    assert origins["decoder.conv_out.time_mix_conv.weight"][-1] == "dirac"
    # Counts, parameters and bytes, of float32.
    parameters = sum(tensor.parameters for tensor in plan.tensors)
    (total,) = [row for row in rows if row[:1] == ["written"]]
    assert total[:3] == ["written", str(len(plan.tensors)), f"{parameters:,}"]
    assert total[3:] == [f"{4 * parameters / 1e6:.1f}", "MB"]
    (dropped,) = [line for line in ran.out.splitlines() if "dropped" in line]
    assert "training loss" in dropped
    assert dropped.split()[-3:] == ["1", "20", "B"]


def test_a_quiet_dry_run_prints_where_the_result_would_go(run: Run, source: Path) -> None:
    ran = run("convert", source, "--dry-run", "-q")
    assert (ran.code, ran.out) == (0, f"{source.with_name('img.video.safetensors')}\n")
    ran = run("convert", source, "--dry-run", "-q", "-o", "memory://bucket/video.safetensors")
    assert (ran.code, ran.out) == (0, "memory://bucket/video.safetensors\n")
    assert list(source.parent.iterdir()) == [source]


def test_a_dry_run_as_a_document(run: Run, source: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    ran = run("convert", source, "--dry-run", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert snapshot(tmp_path) == before
    document = strict(ran.out)
    assert [document[key] for key in ("output", "fingerprint", "parity")] == [None, None, None]
    counts, tensors = document["plan"], document["dry_run"]["tensors"]
    assert len(tensors) == counts["copied"] + counts["initialised"] + counts["passed_through"]


def test_an_existing_file_is_kept(run: Run, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "img.video.safetensors"
    output.write_text("of before")
    ran = run("convert", source, *CPU)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {output} exists; pass --overwrite")
    assert output.read_text() == "of before"
    assert run("convert", source, "--overwrite", *CPU).code == 0
    assert metadata_of(output)["inflate.source.name"] == "img.pt"


@pytest.mark.usefixtures("no_identity")
@pytest.mark.parametrize("mode", ["all", "conv-only", "attn-only"])
def test_where_parity_does_not_hold_nothing_is_published(
    run: Run, source: Path, tmp_path: Path, mode: str
) -> None:
    before = snapshot(tmp_path)
    ran = run("convert", source, "--time-mode", mode, *CPU)
    assert ran.code == 1
    assert "parity: fail" in ran.out
    assert "nothing was written, since parity did not hold" in ran.out
    assert snapshot(tmp_path) == before
    ran = run("convert", source, "--time-mode", mode, "--json", *CPU)
    assert ran.code == 1
    document = strict(ran.out)
    assert document["output"] is None
    assert document["parity"]["verdict"] == "fail"
    ran = run("convert", source, "--time-mode", mode, "-q", *CPU)
    assert (ran.code, ran.out, ran.err) == (1, "", "")
    assert snapshot(tmp_path) == before


def test_auto_says_what_it_took(run: Run, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "float32 on cpu" in run("convert", source).out
    ran = run("convert", source, "--overwrite", "--json")
    assert strict(ran.out)["parity"]["environment"]["device"] == "cpu"


def test_a_preset_that_disagrees_lists_every_disagreement(run: Run, source: Path) -> None:
    ran = run("convert", source, "--config", "kl-f16")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n  - ") >= 4
    for word in ("channels of the levels", "num_res_blocks", "z_channels", "embed_dim"):
        assert word in ran.err


def test_a_saturated_sigmoid_is_told_on_stderr(run: Run, source: Path) -> None:
    ran = run("convert", source, "--alpha", -40, "--dry-run")
    assert ran.err.startswith("note: a saturated sigmoid: at alpha -40 ")
    assert ran.err.rstrip().endswith("To let them learn, choose an alpha between -15 and 15")
