"""Settings from presets, files and options, laid over what a checkpoint shows."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from inflate.config.loading import build_config, known_keys, parse_set, read_config
from inflate.config.schema import Architecture, Config, Temporal, flatten
from inflate.errors import ConfigError

SEEN = Architecture(ch=64, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, embed_dim=4)

EVERY = Config(
    Architecture(
        ch=32, ch_mult=(2, 4), num_res_blocks=1, z_channels=4, attn_resolutions=(), resolution=512,
        dropout=0.5, tanh_out=True, attn_type="vanilla-xformers", embed_dim=4, scaling_factor=0.5,
        shift_factor=0.1, latents_mean=(0.5, -1.0), latents_std=(1.0, 2.0), force_upcast=False,
        sample_size=32,
    ),
    Temporal("all", "fixed", 0.25, (5, 1, 3)), 7, "float16", True, "a=b",
)  # fmt: skip
"""Another value than the default for all that no tensor shows."""


def problems_of(*layers: dict[str, Any], seen: Architecture = SEEN) -> str:
    """The problems of settings that are refused."""
    with pytest.raises(ConfigError) as caught:
        build_config(seen, *layers)
    assert str(caught.value) == "\n  - ".join(
        ("the configuration has errors:", *caught.value.problems)
    )
    return "\n".join(caught.value.problems)


def test_set_reaches_every_key() -> None:
    values = flatten(asdict(EVERY))
    assert {*values} == {key for key in known_keys() if not key.startswith("decoder.")}
    # JSON is YAML, too.
    assignments = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    assert build_config(SEEN, parse_set(assignments)) == EVERY
    assert build_config(SEEN, parse_set(["alpha=1e-1"])).temporal.alpha == 0.1


@pytest.mark.parametrize("value", ["9" * 5000, "2001-99-99"], ids=["digits", "date"])
def test_what_yaml_cannot_take_is_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_set([f"description={value}"])
    (problem,) = caught.value.problems
    assert len(problem) < 400
    if value.startswith("2001"):  # OmegaConf takes it for text.
        return
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        read_config(write(tmp_path / "a.yaml", f"description: {value}\n"))


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("temporal.alhpa", "temporal.alpha"), ("sead", "seed"), ("alpha", "temporal.alpha"),
        ("model.video_kernel_sizes", "temporal.video_kernel_size"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_reported_with_the_nearest_one(key: str, meant: str) -> None:
    assert problems_of({key: 1}) == f"{key}: unknown key (did you mean {meant!r}?)"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("architecture.ch", value) for value in ("wide", 64.5, True, None)),
        ("architecture.ch_mult", [1, "two"]), ("architecture.tanh_out", "perhaps"),
        ("temporal.time_mode", "conv"), ("temporal.alpha", {"a": 1}),
        ("temporal.video_kernel_size", 3.0), ("description", ["a"]), ("temporal", 3),
    ],
)  # fmt: skip
def test_a_value_of_a_wrong_type_is_refused_in_one_line(key: str, value: Any) -> None:
    text = problems_of({key: value})
    assert text.startswith(f"{key} is {value!r}")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("key", "value"),
    [("description", "${oc.env:INFLATE_TEST_SECRET}"), ("description", ["${seed}"]),
     ("temporal.alpha", "a ${seed}"), ("architecture.ch_mult", [1, "???"])],
)  # fmt: skip
def test_a_setting_refers_to_nothing(key: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLATE_TEST_SECRET", "hunter2")
    text = problems_of({key: value})
    assert text.startswith(f"{key} is {value!r}")
    assert "hunter2" not in text


def test_wrong_values_and_disagreements_are_reported_at_once() -> None:
    text = problems_of({
        "temporal.alpha": 2.0, "temporal.merge_strategy": "fixed", "temporal.video_kernel_size": 2,
        "architecture.dropout": 1.0, "architecture.z_channels": 16,
    })  # fmt: skip
    assert [line.split(" ")[0] for line in text.splitlines()] == [
        "architecture.dropout", "temporal.alpha", "temporal.video_kernel_size", "z_channels:",
    ]  # fmt: skip


def test_the_later_layer_wins_key_by_key_over_what_the_checkpoint_shows() -> None:
    assert build_config(SEEN) == Config(SEEN)
    config = build_config(
        SEEN, {"temporal.alpha": 0.25, "temporal.time_mode": "all", "seed": 1}, {"seed": 2}
    )
    assert config == Config(SEEN, Temporal(time_mode="all", alpha=0.25), seed=2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ch", 128), ("ch_mult", [1, 2, 4]), ("num_res_blocks", 2), ("attn_resolutions", [128]),
        ("z_channels", 8), ("in_channels", 1), ("out_ch", 4), ("resamp_with_conv", False),
        ("double_z", False), ("embed_dim", None), ("n_embed", 8), ("attn_type", "none"),
    ],
)  # fmt: skip
def test_a_disagreement_with_the_checkpoint_is_refused(key: str, value: Any) -> None:
    text = problems_of({f"architecture.{key}": value})
    assert key in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("seen", "change"),
    [
        (SEEN, {"ch": 32, "ch_mult": (2, 4)}),
        (SEEN, {"attn_type": "vanilla-xformers"}),
        (
            replace(SEEN, resolution=256, attn_resolutions=(128,)),
            {"resolution": 32, "attn_resolutions": (16,)},
        ),
    ],
)
def test_what_tensors_cannot_show_is_not_a_disagreement(
    seen: Architecture, change: dict[str, Any]
) -> None:
    config = build_config(seen, {f"architecture.{key}": value for key, value in change.items()})
    assert config.architecture == replace(seen, **change) != seen


def test_of_a_decoder_alone_nothing_of_the_encoder_is_a_disagreement() -> None:
    shown = replace(SEEN, embed_dim=None)
    change: dict[str, Any] = {"in_channels": 4, "double_z": False, "embed_dim": 3, "n_embed": 8}
    settings = {f"architecture.{key}": value for key, value in change.items()}
    assert len(problems_of(settings, seen=shown).splitlines()) == 4
    config = build_config(shown, settings, decoder_only=True)
    assert config.architecture == replace(shown, **change)
    with pytest.raises(ConfigError, match="z_channels: the configuration says 5"):
        build_config(shown, {**settings, "architecture.z_channels": 5}, decoder_only=True)


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_file_of_ours_is_read_and_its_interpolations_resolved(tmp_path: Path) -> None:
    text = "seed: 3\narchitecture: {resolution: 512}\ndescription: mine\n"
    text += "temporal: {alpha: '${seed}', video_kernel_size: [3, 1, 1]}\n"
    assert read_config(write(tmp_path / "c.yaml", text)) == {
        "description": "mine", "seed": 3, "architecture.resolution": 512, "temporal.alpha": 3,
        "temporal.video_kernel_size": [3, 1, 1],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["kl-f9", "nowhere/c.yaml", "x" * 300])
def test_neither_preset_nor_file(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(name)
    assert repr(name) in str(caught.value)
    assert ("kl-f8" in str(caught.value)) is (name == "kl-f9")


@pytest.mark.parametrize(
    "text",
    ["temporal: [", "a: 1\na: 2", b"\xff\xfe\xfa", "a: \x00", "a: !!python/name:os.system",
     "- 1\n- 2", "3", "seed: ${nowhere}"],
)  # fmt: skip
def test_a_file_that_is_not_a_configuration_is_refused_in_one_line(
    text: str | bytes, tmp_path: Path
) -> None:
    name = write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError) as caught:
        read_config(name)
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)


RESOLVERS = [
    "${oc.env:INFLATE_SECRET}", "before ${ oc.env : INFLATE_SECRET } behind",
    "${${name}:INFLATE_SECRET}", "${oc.create:{a:1}}", "${seed}${oc.env:INFLATE_SECRET}",
]  # fmt: skip


CONTENTS: list[Any] = [
    lambda value: {"description": value},
    lambda value: {"architecture": {"ch_mult": [1, value]}},
    lambda value: {"model": {"params": {"ddconfig": {"ch": 32}, "logs": value}}},
    lambda value: {"decoder_config": {"params": value}},
]


@pytest.mark.parametrize(
    ("value", "content"),
    [*((value, CONTENTS[0]) for value in RESOLVERS),
     *((RESOLVERS[0], content) for content in CONTENTS[1:])],
)  # fmt: skip
def test_resolvers_are_refused(
    value: str, content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFLATE_SECRET", "s3cret")
    path = tmp_path / "c.yaml"
    text = {"name": "oc.env", "seed": 1, **content(value)}
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_config(str(path))
    assert len(caught.value.problems) == 1
    assert "s3cret" not in str(caught.value)


def test_a_decoder_of_its_own_has_its_own_keys(tmp_path: Path) -> None:
    seen = SEEN.with_decoder(num_res_blocks=SEEN.num_res_blocks + 1, attn_resolutions=(256,))
    path = write(tmp_path / "a.yaml", f"decoder: {{num_res_blocks: {SEEN.num_res_blocks + 1}}}")
    config = build_config(seen, read_config(path), parse_set(["decoder.attn_resolutions=[256]"]))
    assert config.architecture.decoder.num_res_blocks == SEEN.num_res_blocks + 1
    assert config.architecture.decoder.attn_resolutions == (256,)
    assert "of the decoder" in problems_of({"decoder.num_res_blocks": 7}, seen=seen)
