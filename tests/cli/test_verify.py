"""``inflate verify``: a table for people, a document for programs, and exit codes for shells."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ..checkpoints import FIRST_STAGE, prefixed, write_safetensors
from ..conversions import nudged, print_of, rewritten
from ..media import clip, picture
from .conftest import Run

CPU = ("--device", "cpu")
BIAS = "decoder.conv_out.time_mix_conv.bias"


def strict(text: str) -> Any:
    """JSON by a reader that knows no NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the document"))


@pytest.fixture
def wrong(videos: dict[str, Path], tmp_path: Path) -> Path:
    """A video checkpoint that does not equal its image decoder."""
    return nudged(videos["all"], tmp_path / "wrong.safetensors", BIAS)


def test_a_table_for_people(run: Run, image: Path, videos: dict[str, Path]) -> None:
    ran = run("verify", image, videos["all"], *CPU)
    assert (ran.code, ran.err) == (0, "")
    first, *rows = ran.out.splitlines()
    assert first == "parity: bitwise  (largest error 0, float32 on cpu)"
    assert [row.split() for row in rows[1:8]] == [
        ["single-frame", "1", "4", "4", "4", "1", "bitwise", "0"],
        ["two-videos", "4", "4", "4", "3", "2", "bitwise", "0"],
        ["odd-frames", "3", "4", "3", "5", "3", "bitwise", "0"],
        ["two-frames", "2", "4", "3", "3", "2", "bitwise", "0"],
        ["non-square", "1", "4", "5", "3", "1", "bitwise", "0"],
        ["frame-permutation", "3", "4", "3", "5", "3", "bitwise", "0"],
        ["skip-video", "3", "4", "3", "5", "3", "bitwise", "0"],
    ]
    assert rows[8].endswith(" compared, 0 out of tolerance")
    assert rows[9].startswith("noise floor: ")
    assert rows[10].startswith("weights: ")
    assert rows[10].endswith(" compared, 0 different")


def test_a_document_for_programs(run: Run, image: Path, videos: dict[str, Path]) -> None:
    ran = run("verify", image, videos["all"], "--json", *CPU)
    assert (ran.code, ran.err) == (0, "")
    document = strict(ran.out)
    assert set(document) == {
        *("schema", "verdict", "compared_with", "max_abs_error", "reference", "candidate"),
        *("environment", "tolerance", "weights", "probes", "cast", "fold", "notes"),
        *("layers", "first_divergence", "floor", "bisect", "trainability", "self_test"),
        *("overflow", "plan", "recorded_source", "changed"),
    }
    assert document["schema"] == "inflate/parity-report/1"
    assert (document["verdict"], document["max_abs_error"]) == ("bitwise", 0.0)
    assert document["reference"] == {"path": str(image), "fingerprint": print_of(image)}
    assert document["candidate"]["fingerprint"] == print_of(videos["all"])
    assert document["environment"] == {
        "device": "cpu",
        "dtype": "float32",
        "torch": torch.__version__,
        "tf32": False,
        "cudnn": None,
        "fallback": False,
    }
    assert document["weights"]["different"] == 0 < document["weights"]["compared"]
    for probe in document["probes"]:
        assert set(probe) == {
            *("name", "shape", "frames", "verdict", "max_abs_error"),
            *("errors", "parts", "worst"),
        }


def test_alone_against_its_own_image_layers(run: Run, videos: dict[str, Path]) -> None:
    ran = run("verify", videos["conv-only"], *CPU)
    assert ran.code == 0
    assert ran.out.startswith("parity: bitwise")
    assert ran.err.startswith("note: no reference was given")
    assert "weights:" not in ran.out


def test_a_foreign_file_is_welcome(
    run: Run, image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    weights = prefixed(load_file(videos["all"]), FIRST_STAGE)
    foreign = write_safetensors(tmp_path / "foreign.safetensors", weights)
    ran = run("verify", image, foreign, *CPU)
    assert ran.code == 0
    assert ran.out.startswith("parity: bitwise")
    assert "note: the video file does not say how it blends" in ran.err
    ran = run("verify", image, foreign, "--merge-strategy", "learned", "--json", *CPU)
    assert (ran.code, ran.err) == (0, "")
    assert "'learned' was taken" in strict(ran.out)["notes"][0]


@pytest.mark.parametrize("alone", [False, True])
def test_what_is_not_equal_ends_with_1(run: Run, image: Path, wrong: Path, alone: bool) -> None:
    files = (wrong,) if alone else (image, wrong)
    ran = run("verify", *files, *CPU)
    assert ran.code == 1
    assert ran.out.startswith("parity: fail  (largest error 0.1")
    ran = run("verify", *files, "--json", *CPU)
    assert ran.code == 1
    document = strict(ran.out)
    assert document["verdict"] == "fail"
    assert document["max_abs_error"] == pytest.approx(0.1, rel=1e-3)


def test_quiet_says_the_verdict_alone(
    run: Run, image: Path, videos: dict[str, Path], wrong: Path
) -> None:
    for arguments, code, verdict in (
        ((image, videos["all"]), 0, "bitwise"),
        ((videos["all"],), 0, "bitwise"),
        ((image, wrong), 1, "fail"),
        ((image, wrong, "--atol", 0.2), 0, "within-tolerance"),
    ):
        ran = run("verify", *arguments, "-q", *CPU)
        assert (ran.code, ran.out, ran.err) == (code, f"{verdict}\n", "")


def test_weights_that_differ_are_named(
    run: Run, image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    key = "encoder.conv_in.weight"
    ran = run("verify", image, nudged(videos["all"], tmp_path / "changed", key), *CPU)
    assert ran.code == 1
    assert " compared, 1 different" in ran.out
    assert f"differs from its source: {key}" in ran.out

    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in weights:
            if name.startswith("encoder."):
                weights[name] += 1

    many = rewritten(videos["all"], tmp_path / "many", change)
    ran = run("verify", image, many, *CPU)
    assert ran.out.count("differs from its source") == 10
    assert "more; --json lists them" in ran.out
    names = strict(run("verify", image, many, "--json", *CPU).out)["weights"]["names"]
    assert len(names) > 10
    assert all(name.startswith("encoder.") for name in names)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_null_and_ends_with_1(
    run: Run, image: Path, videos: dict[str, Path], tmp_path: Path, bad: float
) -> None:
    spoilt = nudged(videos["all"], tmp_path / "spoilt", BIAS, by=bad)
    ran = run("verify", image, spoilt, "--json", *CPU)
    assert ran.code == 1
    document = strict(ran.out)
    assert (document["verdict"], document["max_abs_error"]) == ("fail", None)
    ran = run("verify", image, spoilt, *CPU)
    assert ran.code == 1
    assert "parity: fail  (largest error not finite" in ran.out


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_the_type_to_compute_in(run: Run, image: Path, videos: dict[str, Path], dtype: str) -> None:
    ran = run("verify", image, videos["all"], "--dtype", dtype, *CPU)
    assert ran.code == 0
    assert f"{dtype} on cpu" in ran.out


def test_the_seed_and_the_tolerance_are_passed_on(
    run: Run, image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    wrong = nudged(videos["all"], tmp_path / "wrong", "decoder.conv_out.weight")

    def errors(*options: object) -> list[float]:
        probes = strict(run("verify", image, wrong, "--json", *options, *CPU).out)["probes"]
        return [probe["max_abs_error"] for probe in probes]

    assert errors() == errors("--seed", 0) != errors("--seed", 1)
    ran = run("verify", image, wrong, "--rtol", 0.5, "--atol", 0.25, "--json", *CPU)
    assert strict(ran.out)["tolerance"] == {"atol": 0.25, "rtol": 0.5}


def test_bisect_names_the_guilty(run: Run, image: Path, wrong: Path) -> None:
    ran = run("verify", image, wrong, "--bisect", "--json", *CPU)
    assert ran.code == 1
    document = strict(ran.out)
    guilty = [one["name"] for one in document["bisect"]["suspects"] if one["guilty"]]
    assert guilty == ["decoder.conv_out.time_mix_conv"]
    assert document["first_divergence"] == "decoder.conv_out"


def test_the_check_tests_itself(run: Run, image: Path, videos: dict[str, Path]) -> None:
    ran = run("verify", image, videos["all"], "--self-test", "--json", *CPU)
    assert ran.code == 0
    damages = strict(ran.out)["self_test"]["damages"]
    assert len(damages) == 5
    assert all(damage["caught_by"] for damage in damages)


def test_a_check_that_lets_damage_through_ends_with_1(
    run: Run, image: Path, videos: dict[str, Path]
) -> None:
    ran = run("verify", image, videos["all"], "--self-test", "--atol", 1e6, "--json", *CPU)
    assert ran.code == 1
    document = strict(ran.out)
    assert document["verdict"] == "bitwise"
    assert None in {damage["caught_by"] for damage in document["self_test"]["damages"]}


def test_when_tensors_learn(run: Run, image: Path, tmp_path: Path) -> None:
    dead = tmp_path / "dead.safetensors"
    run("convert", image, "-o", dead, "--merge-strategy", "fixed", "-q", *CPU)
    ran = run("verify", image, dead, "--trainability", *CPU)
    assert ran.code == 0, "the verdict is that of parity alone"
    lines = ran.out.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("temporal layers: "))
    assert lines[at].startswith("temporal layers: 2 tensors learn now, 0 from the next step, ")
    told = [line for line in lines[at:] if line.startswith("  never, ")]
    assert any("a fixed blend with alpha 0 lets no gradient" in line for line in told)
    assert any("decoder.mid.block_1.time_stack.in_layers.0.weight" in line for line in told)
    assert any("more; --json lists them" in line for line in told)
    advised = [line for line in lines[at:] if line.startswith("to do: ")]
    assert any("choose --merge-strategy learned, or an alpha above 0" in line for line in advised)

    tensors = strict(run("verify", image, dead, "--trainability", "--json", *CPU).out)[
        "trainability"
    ]["tensors"]
    assert {tensor["learns"] for tensor in tensors} == {"now", "never"}
    assert set(tensors[0]) == {"name", "learns", "reason", "change"}
    assert "temporal layers" not in run("verify", image, dead, *CPU).out


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
    assert "note: the probe images is of 16 x 8 pixels: 1 images of" in ran.err
    assert {"images.safetensors", "latents.safetensors"} <= {path.name for path in out.iterdir()}
    ran = run("verify", image, videos["all"], "--save-outputs", out, *CPU)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: {out} is not empty; choose another folder for --save-outputs\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--images", "none"), "error: --images none is no folder; expected one with images in it"),
        (("--video", "none.mp4"), "error: --video none.mp4 is no file; expected a video"),
        (("--latents", "none.pt"), "error: --latents: none.pt does not exist"),
        (("--scaled-latents",), "error: --scaled-latents says how --latents are stored; give both"),
    ],
)
def test_what_is_given_and_cannot_be_taken_ends_with_2(
    run: Run, image: Path, videos: dict[str, Path], options: tuple[object, ...], said: str
) -> None:
    ran = run("verify", image, videos["all"], *options, *CPU)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(said)
    assert ran.err.count("\n") == 1
