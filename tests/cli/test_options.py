"""One declaration: each option is a flag, an argument in Python, a manifest key, a ledger entry."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
import torch

import inflate
from inflate.batch.jobs import Job
from inflate.config.manifest import read_manifest
from inflate.errors import ConfigError, DeviceError, InflateError
from inflate.options import (
    JOB_OPTIONS,
    MATRIX_OPTIONS,
    ConvertOptions,
    VerifyOptions,
    checked,
    choices,
)

DECLARED: dict[str, type[ConvertOptions] | type[VerifyOptions]] = {
    "convert": ConvertOptions,
    "verify": VerifyOptions,
}
OTHER_VALUES: dict[str, Any] = {
    "ignore": ["*.total_ops"],
    "config": "kl-f8", "time_mode": "all", "merge_strategy": "fixed", "alpha": 0.25,
    "video_kernel_size": [3, 1, 1], "attn_type": "none", "set": ["seed=3"], "seed": 7,
    "dtype": "float16", "float32_norms": True, "prefix": "vae.", "weights": "ema",
    "layout": "sgm", "post_quant": "fold", "allow_inexact": True, "device": "cpu",
    "skip_parity": True, "overwrite": True, "source_sha256": True,
}  # fmt: skip
"""A value of every option of a job that is not its default."""


def kinds_of(hint: Any) -> set[Any]:
    return {*get_args(hint)} if get_origin(hint) in (Union, UnionType) else {hint}


@pytest.mark.parametrize("command", DECLARED)
def test_each_option_is_an_argument_of_the_same_type_and_default(command: str) -> None:
    function = getattr(inflate, command)
    parameters = inspect.signature(function).parameters
    hints = get_type_hints(function, localns={"torch": torch})
    for option in dataclasses.fields(DECLARED[command]):
        name = "set_" if option.name == "set" else option.name
        assert parameters[name].default == option.default, name
        if name != "set_":  # In Python any iterable will do.
            own = get_type_hints(DECLARED[command])[option.name]
            # Some take more: a path as text or a text as path, and torch's device.
            more = {str, Path, torch.device}
            assert kinds_of(own) <= kinds_of(hints[name]) <= kinds_of(own) | more


@pytest.mark.parametrize("name", JOB_OPTIONS)
def test_each_option_of_a_job_is_a_key_of_the_manifest(name: str, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    job = {"source": "img.ckpt", name: OTHER_VALUES[name]}
    manifest.write_text(json.dumps({"jobs": [job]}))
    read = read_manifest(manifest)
    assert read.problems == ()
    value = read.entries[0].options[name]
    assert (list(value) if isinstance(value, tuple) else value) == OTHER_VALUES[name]


@pytest.mark.parametrize("name", sorted(set(JOB_OPTIONS) - {"overwrite"}))
def test_each_option_of_a_job_is_in_its_entry_in_the_ledger(name: str) -> None:
    value = OTHER_VALUES[name]
    value = tuple(value) if isinstance(value, list) else value
    changed = Job("jobs[0]", "img.ckpt", "out.safetensors", {name: value})
    assert changed.settings != Job("jobs[0]", "img.ckpt", "out.safetensors").settings


def test_a_matrix_takes_what_has_more_than_two_values_worth_comparing() -> None:
    assert set(MATRIX_OPTIONS) < set(JOB_OPTIONS)
    assert "dry_run" not in JOB_OPTIONS


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (options, name)
        for options in DECLARED.values()
        for name, hint in get_type_hints(options).items()
        if choices(hint)
    ],
)
def test_a_choice_that_is_not_known_is_refused_with_its_value(
    options: type[ConvertOptions], name: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(dataclasses.replace(options(), **{name: "xyzzy"}))  # type: ignore[arg-type]
    (problem,) = caught.value.problems
    assert "'xyzzy'" in problem
    assert all(word in problem for word in choices(get_type_hints(options)[name]))


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        (ConvertOptions(dtype="fp16"), ConfigError, "float16"),  # type: ignore[arg-type]
        (ConvertOptions(device="gpu"), DeviceError, "cuda"),
    ],
)
def test_the_nearest_word_is_suggested(
    options: ConvertOptions, error: type[InflateError], word: str
) -> None:
    with pytest.raises(error, match=f"did you mean '{word}'"):
        checked(options)
