"""``inflate convert`` and ``inflate verify``: what they print, exit codes, and bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import inflate
from inflate.inflation.initializers import ZEROS

from ..checkpoints import autoencoder, write_torch
from ..conversions import corrupt_start, metadata_of, nudged, snapshot
from ..safety.refusals import refused
from .conftest import BIAS, CPU, Run


def test_the_result_is_on_stdout(run: Run, source: Path, tmp_path: Path) -> None:
    ran = run("convert", source, "--time-mode", "all", *CPU)
    assert (ran.code, ran.err) == (0, "")
    output = tmp_path / "img.video.safetensors"
    for shown in ("parity: bitwise", f"{source} -> {output}", "ch_mult 1", "all, learned"):
        assert shown in ran.out
    assert sorted(snapshot(tmp_path)) == ["img.pt", "img.video.safetensors"]
    assert metadata_of(output)["inflate.parity.verdict"] == "bitwise"


def test_every_option_reaches_the_file(run: Run, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "v.safetensors"
    words = (
        "--time-mode all --merge-strategy fixed --alpha 0.25 --video-kernel-size 3,1,1 --seed 7"
        " --attn-type vanilla --dtype bfloat16 --set architecture.scaling_factor=0.5"
    )
    ran = run("convert", source, "-o", output, *CPU, *words.split())
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


def test_notes_are_on_stderr(run: Run, source: Path) -> None:
    fixed = ("convert", source, "--merge-strategy", "fixed", "--dry-run")
    assert run(*fixed).err.startswith("note: ")
    assert run(*fixed, "--alpha", 0.25).err == ""
    assert run(*fixed, "--json").document["notes"]


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
    assert [row[-4:] for row in rows if row[:1] == ["dropped:"]] == [["1", "5", "20", "B"]]


def test_where_parity_does_not_hold_nothing_is_published(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupt_start(monkeypatch, lambda _, rule: rule == ZEROS)  # No branch is an identity.
    words = ("convert", source, "--time-mode", "all", *CPU)
    for old in (False, True):
        if old:
            (tmp_path / "img.video.safetensors").write_text("of before")
            words = (*words, "--overwrite")
        before = snapshot(tmp_path)
        ran = run(*words)
        assert (ran.code, "parity: FAIL" in ran.out) == (1, True)
        ran = run(*words, "--json")
        assert (ran.code, ran.document["output"]) == (1, None)
        assert ran.document["parity"]["verdict"] == "fail"
        ran = run(*words, "-q")
        assert (ran.code, ran.out, ran.err) == (1, "", "")
        assert snapshot(tmp_path) == before


def test_what_is_not_equal_ends_with_1(run: Run, tiny: Path, wrong: Path) -> None:
    files = (tiny, wrong)
    ran = run("verify", *files, *CPU)
    assert ran.code == 1
    assert ran.out.startswith("parity: FAIL ")
    assert f"\ncause:  {BIAS} " in ran.out
    assert f"inflate verify {' '.join(map(str, files))} --bisect\n" in ran.out
    ran = run("verify", *files, "--json", *CPU)
    assert (ran.code, ran.document["verdict"]) == (1, "fail")
    assert ran.document["max_abs_error"] == pytest.approx(0.1, rel=1e-3)


def test_tensors_not_finite_are_named(
    run: Run, tiny: Path, tiny_video: Path, tmp_path: Path
) -> None:
    damaged = nudged(tiny_video, tmp_path / "damaged", BIAS, by=math.nan)
    ran = run("verify", tiny, damaged, *CPU)
    assert ran.code == 1
    assert f"\ncause:  NaN or infinity in {BIAS}\n" in ran.out


def test_quiet_prints_file_and_verdict(run: Run, tiny: Path, tiny_video: Path, wrong: Path) -> None:
    for arguments, code, verdict in (
        ((tiny, tiny_video), 0, "bitwise"),
        ((tiny, wrong), 1, "fail"),
        ((tiny, wrong, "--atol", 0.2), 0, "within-tolerance"),
    ):
        ran = run("verify", *arguments, "-q", *CPU)
        assert (ran.code, ran.out, ran.err) == (code, f"{arguments[1]}: {verdict}\n", "")


def test_the_options_are_passed_on(run: Run, tiny: Path, tiny_video: Path, tmp_path: Path) -> None:
    wrong = nudged(tiny_video, tmp_path / "wrong", "decoder.conv_out.weight")

    def errors(*options: object) -> list[float]:
        probes = run("verify", tiny, wrong, "--json", *options, *CPU).document["probes"]
        return [probe["max_abs_error"] for probe in probes]

    assert errors() == errors("--seed", 0) != errors("--seed", 1)
    more = ("--rtol", 0.5, "--atol", 0.25, "--dtype", "float64")
    document = run("verify", tiny, wrong, *more, "--json", *CPU).document
    assert document["tolerance"] == {"atol": 0.25, "rtol": 0.5}
    assert document["environment"]["dtype"] == "float64"


@pytest.mark.parametrize(("atol", "code"), [(None, 0), (1e6, 1)])
def test_a_check_that_misses_a_corruption_ends_with_1(
    run: Run, image: Path, videos: dict[str, Path], atol: float | None, code: int
) -> None:
    more = () if atol is None else ("--atol", atol)
    ran = run("verify", image, videos["all"], "--self-test", *more, "--json", *CPU)
    document = ran.document
    assert (ran.code, document["verdict"]) == (code, "bitwise")
    caught = [damage["caught_by"] for damage in document["self_test"]["damages"]]
    assert len(caught) == 5
    assert (None in caught) == bool(code)


def test_when_tensors_learn(run: Run, tiny: Path, tmp_path: Path) -> None:
    dead = tmp_path / "dead.safetensors"
    run("convert", tiny, "-o", dead, "--merge-strategy", "fixed", "--skip-parity", "-q")
    ran = run("verify", tiny, dead, "--trainability", *CPU)
    assert ran.code == 0, "the verdict is that of parity alone"
    never = [line for line in ran.out.splitlines() if line.startswith("never, ")]
    assert any("decoder.mid.block_1.time_stack.in_layers.0.weight" in line for line in never)
    assert "--merge-strategy learned" in ran.out


def test_files_and_destinations_that_no_command_can_use(source: Path, tmp_path: Path) -> None:
    bad = tmp_path / "cut.pt"
    bad.write_bytes(source.read_bytes()[:5000])
    for arguments in (
        ("convert", bad),
        ("convert", bad, "--dry-run", "--json"),
        ("verify", bad, source),
        ("verify", source, bad, "--json"),
        ("convert", tmp_path / "gone.ckpt"),
        ("convert", source, "-o", tmp_path / "gone" / "v.safetensors", "--overwrite"),
        ("convert", source, "-o", tmp_path / "v.PT"),
        ("convert", source, "-o", tmp_path / "v.json", "--layout", "sgm", "--dry-run"),
    ):
        assert str(tmp_path) in refused(tmp_path, *arguments)


@pytest.mark.parametrize("command", ["convert", "verify", "demo"])
def test_a_device_that_is_not_there(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    argument = tmp_path / "demo" if command == "demo" else source
    ran = run(command, argument, "-q", "--device", "cuda:7")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: --device cuda:7: ")
    assert not list(tmp_path.rglob("*.video.*"))


def test_wrong_order(image: Path, videos: dict[str, Path], tmp_path: Path) -> None:
    video = videos["all"]
    both = f"inflate verify {image} {video}"
    assert both in refused(tmp_path, "verify", video, image)
    for words in ((image, image), (image,), (video, video)):
        assert both not in refused(tmp_path, "verify", *words)
    assert "inflated already" in refused(tmp_path, "convert", video, "-o", tmp_path / "v")
