"""``inflate verify``: what it prints, its document, and its exit codes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ..checkpoints import FIRST_STAGE, prefixed, write_safetensors
from ..conversions import nudged, print_of, rewritten
from ..media import clip, picture
from .conftest import CPU, Run

BIAS = "decoder.conv_out.time_mix_conv.bias"


@pytest.fixture
def wrong(videos: dict[str, Path], tmp_path: Path) -> Path:
    """A video checkpoint that does not equal its image decoder."""
    return nudged(videos["all"], tmp_path / "wrong.safetensors", BIAS)


def test_a_table_for_people(run: Run, image: Path, videos: dict[str, Path]) -> None:
    ran = run("verify", image, videos["all"], *CPU)
    assert (ran.code, ran.err) == (0, "")
    first, *rows = ran.out.splitlines()
    assert first == "parity: bitwise  (largest error 0, float32 on cpu)"
    assert [row.split()[0] for row in rows[1:8]] == [
        *("single-frame", "two-videos", "odd-frames", "two-frames", "non-square"),
        *("frame-permutation", "skip-video"),
    ]
    assert rows[2].split() == ["two-videos", "6", "4", "2", "3", "3", "bitwise", "0"]
    assert [row.split(":")[0] for row in rows[8:11]] == ["layers", "noise floor", "weights"]


def test_a_document_for_programs(run: Run, image: Path, videos: dict[str, Path]) -> None:
    ran = run("verify", image, videos["all"], "--json", *CPU)
    assert (ran.code, ran.err) == (0, "")
    document = ran.document
    assert document["schema"] == "inflate/parity-report/1"
    assert (document["verdict"], document["max_abs_error"]) == ("bitwise", 0.0)
    assert document["reference"] == {"path": str(image), "fingerprint": print_of(image)}
    assert document["candidate"]["fingerprint"] == print_of(videos["all"])
    environment = document["environment"]
    assert (environment["device"], environment["dtype"]) == ("cpu", "float32")
    assert environment["torch"] == torch.__version__
    assert document["weights"]["different"] == 0 < document["weights"]["compared"]
    assert document["not_finite"] == []


def test_alone_against_its_own_image_layers(run: Run, videos: dict[str, Path]) -> None:
    ran = run("verify", videos["conv-only"], *CPU)
    assert ran.code == 0
    assert ran.out.startswith("parity: bitwise")
    assert ran.err.startswith("note: ")
    assert "weights:" not in ran.out


def test_a_file_of_another_program(
    run: Run, image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    weights = prefixed(load_file(videos["all"]), FIRST_STAGE)
    foreign = write_safetensors(tmp_path / "foreign.safetensors", weights)
    ran = run("verify", image, foreign, *CPU)
    assert (ran.code, ran.out.startswith("parity: bitwise")) == (0, True)
    assert ran.err.startswith("note: ")
    ran = run("verify", image, foreign, "--merge-strategy", "learned", "--json", *CPU)
    assert (ran.code, ran.err) == (0, "")
    assert "'learned'" in ran.document["notes"][0]


@pytest.mark.parametrize("alone", [False, True])
def test_what_is_not_equal_ends_with_1(run: Run, image: Path, wrong: Path, alone: bool) -> None:
    files = (wrong,) if alone else (image, wrong)
    ran = run("verify", *files, *CPU)
    assert ran.code == 1
    assert ran.out.startswith("parity: FAIL   largest error 0.1")
    assert f"\ncause:  {BIAS} changed since conversion\n" in ran.out
    assert f"\nnext:   inflate verify {' '.join(map(str, files))} --bisect\n" in ran.out
    ran = run("verify", *files, "--json", *CPU)
    assert (ran.code, ran.document["verdict"]) == (1, "fail")
    assert ran.document["max_abs_error"] == pytest.approx(0.1, rel=1e-3)


def test_quiet_prints_the_file_and_the_verdict(
    run: Run, image: Path, videos: dict[str, Path], wrong: Path
) -> None:
    for arguments, code, verdict in (
        ((image, videos["all"]), 0, "bitwise"),
        ((image, wrong), 1, "fail"),
        ((image, wrong, "--atol", 0.2), 0, "within-tolerance"),
    ):
        ran = run("verify", *arguments, "-q", *CPU)
        assert (ran.code, ran.out, ran.err) == (code, f"{arguments[1]}: {verdict}\n", "")


def test_weights_that_differ_are_named(
    run: Run, image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in weights:
            if name.startswith("encoder."):
                weights[name] += 1

    many = rewritten(videos["all"], tmp_path / "many", change)
    ran = run("verify", image, many, "--json", *CPU)
    assert ran.code == 1
    names = ran.document["weights"]["names"]
    assert len(names) > 10
    assert all(name.startswith("encoder.") for name in names)
    out = run("verify", image, many, *CPU).out
    assert out.count("differs from its source") == 10
    assert f"cause:  {len(names)} copied tensors" in out


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_tensors_that_are_not_finite_are_named(
    run: Run, image: Path, videos: dict[str, Path], tmp_path: Path, bad: float
) -> None:
    damaged = nudged(videos["all"], tmp_path / "damaged", BIAS, by=bad)
    ran = run("verify", image, damaged, "--json", *CPU)
    assert ran.code == 1
    document = ran.document
    assert (document["verdict"], document["max_abs_error"]) == ("fail", None)
    assert document["not_finite"] == [BIAS]
    assert f"\ncause:  {BIAS} holds NaN" in run("verify", image, damaged, *CPU).out


def test_the_options_are_passed_on(
    run: Run, image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    wrong = nudged(videos["all"], tmp_path / "wrong", "decoder.conv_out.weight")

    def errors(*options: object) -> list[float]:
        probes = run("verify", image, wrong, "--json", *options, *CPU).document["probes"]
        return [probe["max_abs_error"] for probe in probes]

    assert errors() == errors("--seed", 0) != errors("--seed", 1)
    more = ("--rtol", 0.5, "--atol", 0.25, "--dtype", "float64")
    document = run("verify", image, wrong, *more, "--json", *CPU).document
    assert document["tolerance"] == {"atol": 0.25, "rtol": 0.5}
    assert document["environment"]["dtype"] == "float64"


def test_bisect_names_the_faulty_module(run: Run, image: Path, wrong: Path) -> None:
    ran = run("verify", image, wrong, "--bisect", "--json", *CPU)
    assert ran.code == 1
    faulty = [one["name"] for one in ran.document["bisect"]["suspects"] if one["guilty"]]
    assert faulty == ["decoder.conv_out.time_mix_conv"]
    assert ran.document["first_divergence"] == "decoder.conv_out"


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


def test_when_tensors_learn(run: Run, image: Path, tmp_path: Path) -> None:
    dead = tmp_path / "dead.safetensors"
    run("convert", image, "-o", dead, "--merge-strategy", "fixed", "--skip-parity", "-q")
    ran = run("verify", image, dead, "--trainability", *CPU)
    assert ran.code == 0, "the verdict is that of parity alone"
    lines = ran.out.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("temporal layers: "))
    assert lines[at].startswith("temporal layers: 2 tensors learn now, 0 from the next step, ")
    never = [line for line in lines[at:] if line.startswith("  never, ")]
    assert any("decoder.mid.block_1.time_stack.in_layers.0.weight" in line for line in never)
    assert any("--merge-strategy learned" in line for line in lines[at:])


def test_real_latents_and_kept_outputs(
    run: Run, image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    picture(tmp_path / "images" / "a.png", 40, 24)
    video = clip(tmp_path / "clip.mkv")
    z = tmp_path / "z.pt"
    torch.save(torch.randn(2, 4, 3, 5), z)
    given = ("--images", tmp_path / "images", "--video", video, "--latents", z)
    limits = ("--max-side", 16, "--max-frames", 2)
    out = tmp_path / "out"
    ran = run("verify", image, videos["all"], *given, *limits, "--save-outputs", out, *CPU)
    assert ran.code == 0, ran.err
    rows = {row.split()[0]: row.split()[1:] for row in ran.out.splitlines() if row.strip()}
    assert rows["images"][:5] == ["1", "4", "4", "8", "1"]
    assert rows["video"][:5] == ["2", "4", "5", "8", "2"]
    assert rows["latents"][:5] == ["2", "4", "3", "5", "2"]
    assert "note: probe images" in ran.err
    assert {"images.safetensors", "latents.safetensors"} <= {path.name for path in out.iterdir()}


@pytest.mark.parametrize(
    "options",
    [
        ("--images", "none"),
        ("--video", "none.mp4"),
        ("--latents", "none.pt"),
        ("--scaled-latents",),
        ("--save-outputs", "."),
    ],
)
def test_what_is_given_and_cannot_be_taken_ends_with_2(
    run: Run, image: Path, videos: dict[str, Path], options: tuple[str, ...]
) -> None:
    ran = run("verify", image, videos["all"], *options, *CPU)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert options[0] in ran.err
    assert ran.err.count("\n") == 1
