"""``inflate.convert``: what it writes, when it publishes, and that equal work gives equal bytes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import inflate
from inflate.errors import OutputError
from inflate.inflation.initializers import Rule
from inflate.parity.probes import probes_for
from inflate.parity.result import CastResult

from .checkpoints import autoencoder, write_torch
from .conversions import CPU, corrupt_file, image_decode, metadata_of, print_of, snapshot
from .models.builders import noise


@pytest.mark.parametrize("mode", ["all", "conv-only", "attn-only"])
def test_what_a_conversion_gives(image: Path, tmp_path: Path, mode: str) -> None:
    output = tmp_path / "video.safetensors"
    result = inflate.convert(image, output, time_mode=mode, device=torch.device("cpu"))
    assert result.passed
    assert result.output == output
    assert result.fingerprint == print_of(output)
    assert result.parity is not None
    assert result.parity.reference == (str(image), print_of(image))
    assert result.parity.candidate == (str(output), print_of(output))
    assert set(result.seconds) == {"plan", "write", "parity", "publish", "total"}
    source, target = autoencoder(), load_file(output)
    assert set(target) == {tensor.key for tensor in result.plan.tensors}
    assert source.keys() <= target.keys()
    for key, tensor in source.items():
        assert torch.equal(target[key], tensor), key
    made = {t.key for t in result.plan.tensors if isinstance(t.origin, Rule)}
    assert made == target.keys() - source.keys() != set()


def test_the_header_says_everything_and_nothing_of_the_place(image: Path, tmp_path: Path) -> None:
    output = tmp_path / "video.safetensors"
    result = inflate.convert(image, output, time_mode="all", alpha=0.25, seed=5, **CPU)
    metadata = metadata_of(output)
    config = metadata.pop("inflate.config")
    metadata.pop("inflate.provenance")
    assert metadata == {
        "format": "pt", "inflate.version": inflate.__version__, "inflate.source.name": "img.ckpt",
        "inflate.source.fingerprint": print_of(image), "inflate.fingerprint": print_of(output),
        "inflate.seed": "5", "inflate.layout": "autoencoder", "inflate.post_quant": "keep",
        "inflate.parity.verdict": "bitwise", "inflate.parity.compared_with": "reference",
        "inflate.parity.device": "cpu",
    }  # fmt: skip
    whole = json.loads(config)
    assert whole == json.loads(json.dumps(asdict(result.plan.config)))
    assert whole["seed"] == 5
    assert whole["architecture"]["ch_mult"] == [1, 2]


@pytest.mark.parametrize("kind", ["kl", "vq", "plain"])
def test_the_file_alone_decodes_as_the_image_decoder_does(tmp_path: Path, kind: str) -> None:
    weights = autoencoder(kind)
    source = write_torch(tmp_path / "image.pt", weights)
    inflate.convert(source, time_mode="all", merge_strategy="fixed", alpha=0.25, **CPU)
    source.unlink()
    whole = inflate.load_video_autoencoder(tmp_path / "image.video.safetensors")
    decoder = whole.decoder
    assert (decoder.time_mode, decoder.merge_strategy, decoder.alpha) == ("all", "fixed", 0.25)
    with torch.inference_mode():
        latents = whole.encode(noise(6, 3, 16, 16))
        assert torch.equal(whole.decode(latents, timesteps=3), image_decode(weights, latents))


def test_the_same_work_gives_the_same_bytes(image: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "one.safetensors", tmp_path / "folder" / "two.safetensors"]
    paths[1].parent.mkdir()
    for path in paths:
        inflate.convert(image, path, time_mode="all", seed=1, **CPU)
        torch.manual_seed(99)  # Nothing depends on the global generator.
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("damaged", ["encoder.conv_in.weight", "decoder.conv_in.weight"])
def test_what_is_judged_is_read_back_from_the_file(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    corrupt_file(monkeypatch, damaged, 7.0)
    result = inflate.convert(image, tmp_path / "video.safetensors", **CPU)
    assert result.parity is not None
    assert result.parity.weights.different == (damaged,)
    assert not result.passed
    assert snapshot(tmp_path) == {}


def test_an_existing_file_is_kept_unless_overwritten(image: Path, tmp_path: Path) -> None:
    output = tmp_path / "video.safetensors"
    output.write_text("of before")
    with pytest.raises(OutputError, match="--overwrite"):
        inflate.convert(image, output, **CPU)
    assert output.read_text() == "of before"
    result = inflate.convert(image, output, overwrite=True, **CPU)
    assert result.fingerprint == print_of(output)
    assert list(snapshot(tmp_path)) == ["video.safetensors"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_narrower_type_is_judged_against_the_source_cast_to_it(
    image: Path, tmp_path: Path, dtype: Any
) -> None:
    output = tmp_path / "video.safetensors"
    result = inflate.convert(image, output, alpha=0.3, dtype=dtype, **CPU)
    stored = load_file(output)
    assert {str(t.dtype) for t in stored.values()} == {f"torch.{dtype}"}
    report = result.parity
    assert report is not None
    assert report.verdict == "bitwise"
    # What the cast alone changes, worked out by hand.
    source = autoencoder()
    cast = {k: v.to(getattr(torch, dtype)).float() for k, v in source.items()}
    worst = 0.0
    for probe in probes_for(torch.device("cpu")):
        z = probe.latents(4, seed=0)
        worst = max(worst, (image_decode(source, z) - image_decode(cast, z)).abs().max().item())
    assert worst > 1e-4
    assert report.cast == CastResult("float32", dtype, pytest.approx(worst))


def test_options_win_over_set_and_set_over_the_file(image: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("temporal: {alpha: 0.5, time_mode: all, merge_strategy: fixed}\n")
    settings = ["alpha=0.75", "temporal.time_mode=attn-only"]
    plan = inflate.convert(image, config=config, set_=settings, alpha=1.0, dry_run=True).plan
    temporal = plan.config.temporal
    assert (temporal.alpha, temporal.time_mode) == (1.0, "attn-only")
    assert temporal.merge_strategy == "fixed"


def test_progress_counts_up_phase_by_phase(image: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    result = inflate.convert(image, tmp_path / "v", progress=lambda *s: seen.append(s), **CPU)
    totals = {
        "writing": len(result.plan.tensors),
        "checking parity": len(probes_for(torch.device("cpu"))),
    }
    assert [step for step in seen if not step[0].startswith("loading")] == [
        (phase, done, steps) for phase, steps in totals.items() for done in range(steps + 1)
    ]
