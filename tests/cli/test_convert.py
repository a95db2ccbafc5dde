"""``inflate convert``: what it prints, its document, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import inflate
from inflate.inflation.initializers import ZEROS
from inflate.workflow import production

from ..checkpoints import autoencoder, write_torch
from ..conversions import metadata_of, print_of, sha256, snapshot, spoil_start
from .conftest import CPU, Run


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
    document = ran.document
    assert document["schema"] == "inflate/conversion/2"
    assert (document["output"], document["fingerprint"]) == (str(output), print_of(output))
    assert document["parity"]["verdict"] == "bitwise"
    assert document["parity"]["candidate"] == {"path": str(output), "fingerprint": print_of(output)}
    counts = document["plan"]
    assert counts["copied"] + counts["passed_through"] == len(autoencoder(ch_mult=[1]))


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
    assert any(line.startswith("cast: float32 to bfloat16") for line in ran.out.splitlines())


@pytest.mark.parametrize(
    ("text", "kernel"), [("3", 3), ("5,3,3", [5, 3, 3]), ("[1,3,3]", [1, 3, 3])]
)
def test_kernels_as_they_are_written(run: Run, source: Path, text: str, kernel: object) -> None:
    ran = run("convert", source, "--video-kernel-size", text, "--dry-run", "--json")
    assert ran.document["temporal"]["video_kernel_size"] == kernel


def test_options_win_over_set_and_set_over_the_yaml(run: Run, source: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("seed: 4\ntemporal: {alpha: 0.5, time_mode: all}\n")
    more = ("--config", config, "--alpha", 0.25, "--set", "merge_strategy=fixed")
    document = run("convert", source, *more, "--dry-run", "--json").document
    temporal = document["temporal"]
    assert document["seed"] == 4
    assert (temporal["time_mode"], temporal["merge_strategy"], temporal["alpha"]) == (
        *("all", "fixed"),
        0.25,
    )


def test_the_same_as_from_python(run: Run, source: Path, tmp_path: Path) -> None:
    run("convert", source, "--alpha", 0.3, "--time-mode", "all", "--skip-parity")
    other = tmp_path / "v.safetensors"
    inflate.convert(source, other, alpha=0.3, time_mode="all", skip_parity=True)
    assert sha256(tmp_path / "img.video.safetensors") == sha256(other)


def test_quiet_prints_the_path(run: Run, source: Path, tmp_path: Path) -> None:
    ran = run("convert", source, "-q", "--merge-strategy", "fixed", *CPU)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{tmp_path / 'img.video.safetensors'}\n"


def test_notes_are_on_stderr(run: Run, source: Path) -> None:
    fixed = ("convert", source, "--merge-strategy", "fixed", "--dry-run")
    assert run(*fixed).err.startswith("note: ")
    assert run(*fixed, "--alpha", 0.25).err == ""
    assert run(*fixed, "--json").document["notes"]


def test_skipped_parity(run: Run, source: Path, tmp_path: Path) -> None:
    ran = run("convert", source, "--skip-parity")
    assert (ran.code, ran.err) == (0, "")
    assert "parity: unverified" in ran.out
    metadata = metadata_of(tmp_path / "img.video.safetensors")
    assert metadata["inflate.parity.verdict"] == "unverified"
    ran = run("convert", source, "--skip-parity", "--overwrite", "--json")
    assert ran.document["parity"] is None


def test_a_dry_run_prints_the_counts_and_with_verbose_the_tensors(run: Run, tmp_path: Path) -> None:
    weights = autoencoder(ch_mult=[1])
    weights["loss.logvar"] = torch.zeros(5)
    source = write_torch(tmp_path / "img.pt", weights)
    before = snapshot(tmp_path)
    words = ("convert", source, "--dry-run", "--time-mode", "all")
    short, full = run(*words), run(*words, "--verbose")
    assert (short.code, short.err, full.code) == (0, "", 0)
    assert snapshot(tmp_path) == before

    plan = inflate.convert(source, dry_run=True, time_mode="all").plan
    keys = {tensor.key for tensor in plan.tensors}
    assert not keys & set(short.out.split())
    rows = [line.split() for line in full.out.splitlines()]
    origins = {row[0]: row for row in rows if row and row[0] in keys}
    assert set(origins) == keys
    assert origins["decoder.conv_in.weight"][-3:] == ["copy", "of", "decoder.conv_in.weight"]
    assert origins["decoder.conv_out.time_mix_conv.weight"][-1] == "dirac"
    heads = [row[0] for row in rows if row]
    assert heads.index("written") < heads.index("tensor"), "the summary first"
    parameters = sum(tensor.parameters for tensor in plan.tensors)
    (total,) = [row for row in rows if row[:1] == ["written"]]
    assert total[1:] == [
        *(str(len(plan.tensors)), f"{parameters:,}", f"{4 * parameters / 1e6:.1f}", "MB")
    ]
    (dropped,) = [row for row in rows if row[:1] == ["dropped:"]]
    assert dropped[-3:] == ["1", "20", "B"]


def test_copied_temporal_layers_are_called_copied(run: Run, videos: dict[str, Path]) -> None:
    words = ("convert", videos["all"], "--layout", "decoder", "--dry-run")
    ran = run(*words)
    assert "initialised" not in ran.out
    assert "temporal, copied" in ran.out
    counts = run(*words, "--json").document["plan"]
    assert counts["initialised"] == 0 < counts["copied"]


def test_a_quiet_dry_run_prints_the_destination(run: Run, source: Path) -> None:
    for more, path in (
        ((), source.with_name("img.video.safetensors")),
        (("-o", "memory://bucket/video.safetensors"), "memory://bucket/video.safetensors"),
    ):
        ran = run("convert", source, "--dry-run", "-q", *more)
        assert (ran.code, ran.out) == (0, f"{path}\n")
    assert list(source.parent.iterdir()) == [source]


def test_a_dry_run_as_a_document(run: Run, source: Path) -> None:
    ran = run("convert", source, "--dry-run", "--json")
    assert (ran.code, ran.err) == (0, "")
    document = ran.document
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


@pytest.mark.parametrize("mode", ["all", "attn-only"])
def test_where_parity_does_not_hold_nothing_is_published(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    spoil_start(monkeypatch, lambda _, rule: rule == ZEROS)
    before = snapshot(tmp_path)
    ran = run("convert", source, "--time-mode", mode, *CPU)
    assert ran.code == 1
    assert "parity: FAIL" in ran.out
    assert "nothing was written" in ran.out
    ran = run("convert", source, "--time-mode", mode, "--json", *CPU)
    assert (ran.code, ran.document["output"]) == (1, None)
    assert ran.document["parity"]["verdict"] == "fail"
    ran = run("convert", source, "--time-mode", mode, "-q", *CPU)
    assert (ran.code, ran.out, ran.err) == (1, "", "")
    assert snapshot(tmp_path) == before


def test_ctrl_c_leaves_nothing(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(tmp_path)
    real = production.carry_out

    def interrupted(plan: Any, checkpoint: Any, writer: Any, _: Any) -> Any:
        def stop(_phase: str, done: int, _total: int) -> None:
            if done == 1:
                assert any(path.name.endswith(".staged") for path in tmp_path.iterdir())
                raise KeyboardInterrupt

        return real(plan, checkpoint, writer, stop)

    monkeypatch.setattr(production, "carry_out", interrupted)
    ran = run("convert", source, *CPU)
    assert (ran.code, ran.out, ran.err) == (130, "", "interrupted: nothing was left behind\n")
    assert snapshot(tmp_path) == before
