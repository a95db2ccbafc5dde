"""Results as versioned JSON: exactly these keys, and nothing that JSON does not know."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import inflate
from inflate.parity.metrics import Tolerance
from inflate.parity.result import (
    CastResult,
    Environment,
    FoldResult,
    ParityReport,
    ProbeResult,
    RecordedSource,
    WeightsResult,
)
from inflate.report.documents import conversion_document, parity_document, plan_document
from inflate.workflow import ConversionResult

from ..checkpoints import autoencoder, write_torch
from ..conversions import CPU

REPORT = ParityReport(
    verdict="within-tolerance",
    max_abs_error=0.5,
    reference=("img.ckpt", "aa"),
    candidate=("img.video.safetensors", "bb"),
    environment=Environment("cpu", "float32", "2.13.0", tf32=False),
    tolerance=Tolerance(1.0, 0.25),
    weights=WeightsResult(7, ()),
    probes=(ProbeResult("odd-frames", (3, 4, 3, 5), 3, "within-tolerance", 0.5),),
    cast=CastResult("float32", "float16", 0.125),
    fold=FoldResult(0.5, 0.0, 0.25),
    recorded_source=RecordedSource("r", "0", given=True),
    notes=("a note",),
)


def strict(document: dict[str, Any]) -> Any:
    """A document printed and read again by a reader that knows no NaN."""
    text = json.dumps(document, allow_nan=False)
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the document"))


def test_a_parity_report_in_full() -> None:
    assert strict(parity_document(REPORT)) == {
        "schema": "inflate/parity-report/1",
        "verdict": "within-tolerance",
        "compared_with": "folded-reference",
        "max_abs_error": 0.5,
        "reference": {"path": "img.ckpt", "sha256": "aa"},
        "candidate": {"path": "img.video.safetensors", "sha256": "bb"},
        "environment": {
            "device": "cpu",
            "dtype": "float32",
            "torch": "2.13.0",
            "tf32": False,
            "cudnn": None,
            "fallback": False,
        },
        "tolerance": {"atol": 1.0, "rtol": 0.25},
        "weights": {"compared": 7, "different": 0, "names": [], "temporal": None},
        "probes": [
            {
                "name": "odd-frames",
                "shape": [3, 4, 3, 5],
                "frames": 3,
                "verdict": "within-tolerance",
                "max_abs_error": 0.5,
                "errors": None,
                "parts": [],
                "worst": None,
            }
        ],
        "layers": [],
        "first_divergence": None,
        "floor": None,
        "bisect": None,
        "trainability": None,
        "self_test": None,
        "overflow": None,
        "plan": [],
        "cast": {"source_dtype": "float32", "stored_dtype": "float16", "max_abs_error": 0.125},
        "fold": {"border": 0.5, "inside": 0.0, "output": 0.25},
        "recorded_source": {"name": "r", "sha256": "0", "given": True},
        "notes": ["a note"],
    }


def test_errors_that_are_not_finite_are_null() -> None:
    broken = replace(
        REPORT,
        verdict="fail",
        max_abs_error=None,
        weights=WeightsResult(7, ("decoder.conv_in.bias", "decoder.conv_in.weight")),
        probes=(replace(REPORT.probes[0], verdict="fail", max_abs_error=None),),
        cast=None,
    )
    document = strict(parity_document(broken))
    assert document["max_abs_error"] is None
    assert document["probes"][0]["max_abs_error"] is None
    assert document["cast"] is None
    assert document["weights"] == {
        "compared": 7,
        "different": 2,
        "names": ["decoder.conv_in.bias", "decoder.conv_in.weight"],
        "temporal": None,
    }


CONVERSION_KEYS = {
    "schema",
    "output",
    "sha256",
    "layout",
    "plan",
    "architecture",
    "temporal",
    "seed",
    "parity",
    "notes",
    "seconds",
}
ARCHITECTURE_KEYS = {
    "attn_resolutions",
    "attn_type",
    "ch",
    "ch_mult",
    "double_z",
    "dropout",
    "embed_dim",
    "give_pre_end",
    "in_channels",
    "n_embed",
    "num_res_blocks",
    "out_ch",
    "resamp_with_conv",
    "resolution",
    "scaling_factor",
    "shift_factor",
    "latents_mean",
    "latents_std",
    "force_upcast",
    "sample_size",
    "decoder_ch",
    "decoder_ch_mult",
    "decoder_num_res_blocks",
    "decoder_attn_resolutions",
    "decoder_attn_type",
    "tanh_out",
    "z_channels",
}


@pytest.fixture(scope="module")
def conversion(tmp_path_factory: pytest.TempPathFactory) -> ConversionResult:
    """A conversion of a file with something in it to leave behind."""
    folder = tmp_path_factory.mktemp("conversion")
    weights = autoencoder()
    weights["loss.logvar"] = weights["decoder.conv_in.bias"].clone()
    return inflate.convert(
        write_torch(folder / "img.pt", weights),
        time_mode="all",
        merge_strategy="fixed",
        seed=3,
        video_kernel_size=(3, 1, 1),
        **CPU,
    )


def test_a_conversion_in_full(conversion: ConversionResult) -> None:
    document = strict(conversion_document(conversion))
    assert set(document) == CONVERSION_KEYS
    assert document["schema"] == "inflate/conversion/1"
    assert document["output"] == str(conversion.output)
    assert document["sha256"] == conversion.sha256
    assert set(document["architecture"]) == ARCHITECTURE_KEYS
    assert document["architecture"]["ch_mult"] == [1, 2]
    assert document["temporal"] == {
        "time_mode": "all",
        "merge_strategy": "fixed",
        "alpha": 0.0,
        "video_kernel_size": [3, 1, 1],
    }
    assert document["seed"] == 3
    assert conversion.parity is not None
    assert document["parity"] == strict(parity_document(conversion.parity))
    assert document["notes"] == list(conversion.notes) != []
    assert set(document["seconds"]) == {"plan", "write", "parity", "publish", "total"}


def test_the_counts_are_those_of_the_source(conversion: ConversionResult) -> None:
    names = [name.split(".")[0] for name in autoencoder()]
    counts = conversion_document(conversion)["plan"]
    assert set(counts) == {"copied", "initialised", "passed_through", "dropped"}
    assert counts["copied"] == names.count("decoder")
    assert counts["passed_through"] == len(names) - names.count("decoder")
    assert counts["dropped"] == 1
    total = len(conversion.plan.tensors)
    assert counts["copied"] + counts["passed_through"] + counts["initialised"] == total


def test_what_was_not_done_is_null(conversion: ConversionResult) -> None:
    dry = replace(conversion, output=None, sha256=None, parity=None, seconds={"plan": 0.123456})
    document = strict(conversion_document(dry))
    assert set(document) == CONVERSION_KEYS
    assert [document[key] for key in ("output", "sha256", "parity")] == [None, None, None]
    assert document["seconds"] == {"plan": 0.1235}


def test_a_plan_names_one_origin_for_every_tensor(conversion: ConversionResult) -> None:
    document = strict(plan_document(conversion.plan))
    assert set(document) == {"tensors", "dropped"}
    keys = {"key", "shape", "dtype", "bytes", "part", "source", "rule"}
    assert all(set(tensor) == keys for tensor in document["tensors"])
    for tensor in document["tensors"]:
        made = tensor["part"] == "temporal"
        assert (tensor["rule"] is not None) == made
        assert (tensor["source"] is not None) == (not made)
    assert sum(tensor["bytes"] for tensor in document["tensors"]) == conversion.plan.nbytes
    (dropped,) = document["dropped"]
    assert dropped["source"] == "loss.logvar"
    assert "training loss" in dropped["reason"]
    assert conversion.output is not None
    assert Path(conversion.output).stat().st_size > conversion.plan.nbytes
