"""What the header of a candidate records, in ``verify``: its architecture and its source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import inflate
from inflate.errors import ConfigError
from inflate.report.documents import parity_document
from inflate.report.html import as_page
from inflate.report.markdown import as_markdown
from inflate.report.summary import advice

from ..checkpoints import autoencoder, write_safetensors
from ..cli.conftest import Run
from ..conversions import CPU, metadata_of, nudged, print_of

COPIED = "decoder.conv_in.bias"


def image_file(path: Path, **architecture: Any) -> Path:
    """An image checkpoint whose own header records this of its architecture."""
    header = {"inflate.config": json.dumps({"architecture": architecture})}
    return write_safetensors(path, autoencoder(), header if architecture else None)


# The architecture


@pytest.mark.parametrize(
    "setting", ["tanh_out=true", "attn_type=vanilla-xformers", "scaling_factor=0.5", "dropout=0.5"]
)
def test_what_was_set_for_a_conversion_holds_for_its_reference(
    setting: str, tmp_path: Path
) -> None:
    image, output = image_file(tmp_path / "image.safetensors"), tmp_path / "video.safetensors"
    made = inflate.convert(image, output, set_=[setting], **CPU)
    assert made.parity is not None
    assert inflate.verify(image, output, **CPU).verdict == made.parity.verdict == "bitwise"


def test_a_reference_that_says_otherwise_is_a_conflict(tmp_path: Path) -> None:
    output = tmp_path / "video.safetensors"
    inflate.convert(image_file(tmp_path / "a"), output, set_=["tanh_out=true"], **CPU)
    with pytest.raises(ConfigError) as caught:
        inflate.verify(image_file(tmp_path / "b", tanh_out=False), output, **CPU)
    (problem,) = caught.value.problems
    assert "tanh_out" in problem
    assert {"True", "False"} <= set(problem.replace(",", " ").split())
    assert inflate.verify(image_file(tmp_path / "b", tanh_out=True), output, **CPU).passed


def test_a_conflict_that_changes_no_output_is_reported(tmp_path: Path) -> None:
    image, output = image_file(tmp_path / "a", scaling_factor=0.25), tmp_path / "video.safetensors"
    inflate.convert(image, output, set_=["scaling_factor=0.5"], **CPU)
    report = inflate.verify(image, output, **CPU)
    assert report.verdict == "bitwise"
    assert any("0.25" in note and "0.5" in note for note in report.notes)


def test_of_a_candidate_without_a_header_nothing_is_taken(tmp_path: Path) -> None:
    image, output = image_file(tmp_path / "a", tanh_out=True), tmp_path / "video.safetensors"
    inflate.convert(image, output, alpha=-0.5, **CPU)
    foreign = write_safetensors(tmp_path / "foreign.safetensors", load_file(output))
    assert inflate.verify(image, output, **CPU).passed
    assert not inflate.verify(image, foreign, **CPU).passed


# The source


def test_the_recorded_source_is_the_reference(image: Path, videos: dict[str, Path]) -> None:
    report = inflate.verify(image, videos["all"], **CPU)
    assert report.recorded_source is not None
    assert report.recorded_source.given
    assert (report.recorded_source.name, report.recorded_source.fingerprint) == (
        image.name, print_of(image)
    )  # fmt: skip
    assert report.notes == ()
    assert inflate.verify(videos["all"], **CPU).recorded_source is None


def test_another_reference_is_reported_and_fails_nothing(
    run: Run, image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    elsewhere = "0" * 64
    made_of = {"inflate.source.fingerprint": elsewhere}
    header = {**metadata_of(videos["all"]), **made_of}
    video = write_safetensors(tmp_path / "v.safetensors", load_file(videos["all"]), header)
    report = inflate.verify(image, video, **CPU)
    assert report.verdict == "bitwise"
    assert report.recorded_source is not None
    assert not report.recorded_source.given
    document = parity_document(report)
    assert document["recorded_source"] == {
        "name": image.name, "fingerprint": elsewhere, "given": False
    }  # fmt: skip
    assert advice(document) == []
    for shown in (as_markdown(document), as_page(document), " ".join(report.notes)):
        assert elsewhere in shown.replace("<wbr>", "")
    ran = run("verify", image, video, *("--device", "cpu"))
    assert ran.code == 0
    assert elsewhere in ran.err


def test_where_they_differ_it_is_named_as_the_likely_cause(
    run: Run, image: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    other = write_safetensors(tmp_path / "other.safetensors", autoencoder(seed=1))
    document = parity_document(inflate.verify(other, videos["all"], **CPU))
    assert document["verdict"] == "fail"
    assert image.name in advice(document)[0]
    lines = run("verify", other, videos["all"], "--device", "cpu").out.splitlines()
    (cause,) = (line for line in lines[:4] if line.startswith("cause:"))
    assert image.name in cause
    wrong = nudged(videos["all"], tmp_path / "wrong.safetensors", COPIED)
    document = parity_document(inflate.verify(image, wrong, **CPU))
    assert document["verdict"] == "fail"
    assert not any(image.name in text for text in advice(document))


@pytest.mark.parametrize("name", ["\x1b[2J\nerror: x", "x" * 100_000])
def test_a_name_that_a_header_makes_up_stays_one_line(
    image: Path, videos: dict[str, Path], name: str, tmp_path: Path
) -> None:
    header = metadata_of(videos["all"])
    made_up = {**header, "inflate.source.name": name, "inflate.source.fingerprint": name}
    path = write_safetensors(tmp_path / "a.safetensors", load_file(videos["all"]), made_up)
    (note,) = inflate.verify(image, path, **CPU).notes
    assert note.isprintable()
    assert len(note) < 1000
