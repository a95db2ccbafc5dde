"""Files of the shapes that people really have: containers, wrappers, dialects, types, averages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import inflate
from inflate import inspect
from inflate.config.schema import Architecture
from inflate.errors import CheckpointError, FamilyError, InflateError, PlanError
from inflate.formats.source import describe
from inflate.io.reader import open_checkpoint
from inflate.vocabulary import TARGETS
from tests.io.opening import assert_same

from ..checkpoints import autoencoder, bare_decoder, prefixed, video_autoencoder
from ..conversions import CPU, converted
from .making import moving_averages

Weights = dict[str, Tensor]
TINY: dict[str, Any] = {"ch_mult": [1]}


def saved(content: Any, folder: Path, **options: Any) -> Path:
    torch.save(content, folder / "file.pt", **options)
    return folder / "file.pt"


def problems_of(error: InflateError) -> tuple[str, ...]:
    return tuple(getattr(error, "problems", ()) or [str(error)])


def convert(path: Path, output: Path | None = None, **options: Any) -> Any:
    """Convert a file, on which ``inspect`` and a dry run agree for every layout."""
    which = {name: options[name] for name in ("prefix", "weights", "ignore") if name in options}
    expected: dict[str | None, tuple[str, ...]] = {}
    for layout in (None, *TARGETS):
        expected[layout] = ()
        try:
            inflate.convert(path, layout=layout, dry_run=True, **which)  # type: ignore[arg-type]
        except InflateError as error:
            expected[layout] = problems_of(error)
    try:
        seen = inspect(path, fingerprint=False, **which)
        shown = {None: seen.obstacles, **seen.layouts}
    except InflateError as error:  # It cannot be read at all.
        shown = dict.fromkeys(expected, problems_of(error))
    assert shown == expected
    return inflate.convert(path, output, **options)


def found(path: Path, **options: Any) -> tuple[Weights, tuple[str, ...]]:
    """What a conversion copies of a file, by key, and its notes."""
    out = path.with_name("out.safetensors")
    result = convert(path, out, overwrite=True, **{**CPU, **options})
    assert result.passed
    written = load_file(out)
    copied = [t.key for t in result.plan.tensors if t.part != "temporal"]
    return {key: written[key] for key in copied}, result.notes


STATES: dict[str, Any] = {
    "torch_rng_state": torch.get_rng_state(), "global_step": torch.tensor(500),
    "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1}]},
}  # fmt: skip
"""What training tools save with the weights."""

CONTAINERS: dict[str, Callable[[Weights], Any]] = {
    "plain": lambda w: w,
    "one mapping": lambda w: {"model": w},
    "two deep": lambda w: {"model": {"vae": OrderedDict(w)}},
    "state_dict": lambda w: {"state_dict": w},
    "state_dict of mappings": lambda w: {"state_dict": {"vae": w}},
    "a discriminator": lambda w: {"model": w, "discriminator": {"main.0.weight": torch.ones(2)}},
    "two parts": lambda w: {
        part: {k.split(".", 1)[1]: v for k, v in w.items() if k.startswith(f"{part}.")}
        for part in ("encoder", "decoder")
    },
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_any_nesting_is_searched(container: str, tmp_path: Path) -> None:
    weights = autoencoder("plain", **TINY)
    path = saved({**CONTAINERS[container](weights), **STATES}, tmp_path)
    assert_same(found(path, skip_parity=True)[0], weights)


@pytest.mark.parametrize(
    ("content", "prefixes"),
    [
        (lambda a, b: {"model": a, "ema": b}, ("model.", "ema.")),
        (lambda a, b: {"state_dict": a, "ema_state_dict": b}, ("", "ema_state_dict.")),
        (lambda a, b: {"state_dict": {"gen_model": a, "gen_ema": b}}, ("gen_model.", "gen_ema")),
        (lambda a, b: {**prefixed(a, "model."), **prefixed(b, "module.ema.")}, ("model", "ema.")),
    ],
)
def test_several_are_choices_by_their_path(
    content: Any, prefixes: tuple[str, str], tmp_path: Path
) -> None:
    both = [autoencoder("plain", seed=seed, **TINY) for seed in (1, 2)]
    path = saved(content(*both), tmp_path)
    with pytest.raises(FamilyError):
        convert(path, **CPU)
    for prefix, weights in zip(prefixes, both, strict=True):
        assert_same(found(path, prefix=prefix, skip_parity=True)[0], weights)


REFUSED: dict[str, Callable[[Weights], Any]] = {
    "shadow_params": lambda w: {"decay": 0.9, "shadow_params": list(w.values())},
    "nothing": lambda _: None,
    "a list": lambda w: [w],
    "a module": lambda _: torch.nn.Linear(2, 2),
    "placeholders": lambda w: {"module": {k: torch.ones(0) for k in w}},
    "temporal layers": lambda _: {
        k.removeprefix("decoder."): v
        for k, v in video_autoencoder("plain", **TINY).items()
        if "time" in k or "mix" in k
    },
    "names that are not text": lambda _: {0: torch.ones(2)},
    "an encoder": lambda w: {k: v for k, v in w.items() if k.startswith("encoder.")},
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_not_an_autoencoder_is_refused_as_what_it_is(case: str, tmp_path: Path) -> None:
    content = REFUSED[case](autoencoder("plain", **TINY))
    with pytest.raises(FamilyError) as caught:
        convert(saved(content, tmp_path), **CPU)
    assert "None" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_folders_of_training_tools_are_refused_with_the_file_to_give(tmp_path: Path) -> None:
    (tmp_path / "sat" / "100").mkdir(parents=True)
    (tmp_path / "sat" / "latest").write_text("100")
    (tmp_path / "sat" / "100" / "mp_rank_00_model_states.pt").touch()
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / "__0_0.distcp").write_bytes(b"PK\x03\x04")
    hints = {
        "sat": "100/mp_rank_00_model_states.pt",
        "dcp": "dcp_to_torch_save",
        "dcp/__0_0.distcp": "dcp_to_torch_save",
    }
    for name, hint in hints.items():
        with pytest.raises(CheckpointError, match=hint):
            convert(tmp_path / name, **CPU)


WRAPPERS: dict[str, Callable[[str], str]] = {
    "DDP": lambda k: f"module.{k}", "compile": lambda k: f"_orig_mod.{k}",
    "both": lambda k: f"module._orig_mod.{k}", "Fabric": lambda k: f"_forward_module.{k}",
    "parts": lambda k: k.replace(".", "._orig_mod.", 1),
    "inside": lambda k: k.replace(".conv1.", "._checkpoint_wrapped_module.conv1."),
    "model": lambda k: f"model.{k}",
}  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("video", [False, True])
def test_wrappers_are_stripped(wrapper: str, video: bool, tmp_path: Path) -> None:
    weights = video_autoencoder("plain", **TINY) if video else autoencoder("plain", **TINY)
    path = saved({WRAPPERS[wrapper](k): v for k, v in weights.items()}, tmp_path)
    with open_checkpoint(path) as checkpoint:
        source = describe(checkpoint)
        assert source.inflated is video
        assert {k: source.read(k).tobytes() for k in weights} == {
            k: v.numpy().tobytes() for k, v in weights.items()
        }


@pytest.mark.parametrize("prefix", ["module.", "ema.decoder_net.", ""])
def test_a_bare_decoder_is_found_under_any_prefix(prefix: str, tmp_path: Path) -> None:
    weights = bare_decoder(**TINY)
    path = saved(prefixed(weights, prefix), tmp_path)
    copied = found(path, skip_parity=True, prefix=prefix)[0]
    assert_same(copied, prefixed(weights, "decoder."))


def test_flux2_keeps_its_statistics(tmp_path: Path) -> None:
    weights = autoencoder(z_channels=8, **TINY) | {
        "bn.running_mean": torch.arange(32.0), "bn.running_var": torch.ones(32),
        "bn.num_batches_tracked": torch.tensor(5),
    }  # fmt: skip
    inside = {"quant_conv": "encoder.", "post_quant_conv": "decoder."}  # As its authors name it.
    path = saved({inside.get(k.split(".")[0], "") + k: v for k, v in weights.items()}, tmp_path)
    copied, _ = found(path)
    assert_same(copied, weights)
    with open_checkpoint(tmp_path / "out.safetensors") as checkpoint:
        architecture = describe(checkpoint).config.architecture
    assert architecture.latents_mean == tuple(map(float, range(32)))
    assert architecture.latents_std == pytest.approx((1.0001**0.5,) * 32)
    bare = convert(path, tmp_path / "bare", layout="decoder", dtype="bfloat16", **CPU)
    assert not any("bn." in tensor.key for tensor in bare.plan.tensors)
    assert any("latents_mean" in note for note in bare.notes)


DIFFERING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "attention in the encoder": ({"attn_resolutions": [16]}, {"attn_resolutions": ()}),
    "a deeper decoder": ({}, {"num_res_blocks": 2}),
    "a wider decoder": ({}, {"ch": 64}),
    "other levels": ({"ch": 64}, {"ch": 32, "ch_mult": (1, 3)}),
}


@pytest.mark.parametrize(
    ("case", "layout"),
    [*((case, "autoencoder") for case in DIFFERING), ("a wider decoder", "decoder")],
)
def test_encoder_and_decoder_are_read_off_their_own_tensors(
    case: str, layout: Any, tmp_path: Path
) -> None:
    ours, theirs = DIFFERING[case]
    weights = {k: v for k, v in autoencoder("plain", **ours).items() if k.startswith("encoder.")}
    weights |= prefixed(bare_decoder(**{**ours, **theirs}), "decoder.")
    path = saved(weights, tmp_path)
    result = converted(path, tmp_path / "out", layout=layout)
    architecture: Architecture = result.plan.config.architecture
    assert not architecture.is_symmetric
    assert architecture.decoder.is_symmetric
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert describe(checkpoint).config.architecture.decoder == architecture.decoder
    with pytest.raises(PlanError):
        convert(path, layout="diffusers", video_kernel_size=(3, 1, 1), dry_run=True, **CPU)


@pytest.mark.parametrize(
    ("kind", "leaf", "dtype"),
    [
        (torch.float8_e5m2, None, None),
        (torch.float8_e4m3fn, "scale_weight", None),
        (torch.float8_e4m3fn, "weight_scale", "float32"),
    ],
)
def test_float8_is_widened_with_its_scales(
    kind: torch.dtype, leaf: str | None, dtype: Any, tmp_path: Path
) -> None:
    weights = {k: v.to(kind) for k, v in autoencoder("plain", **TINY).items()}
    stored: Mapping[str, Tensor] = weights
    factors = {"decoder.conv_in": torch.tensor(2.0), "encoder.conv_in": torch.rand(32) + 1}
    if leaf:
        stored = {**weights, **{f"{k}.{leaf}": v for k, v in factors.items()}}
        stored["decoder.conv_in.scale_input"] = torch.tensor(1.0)  # type: ignore[index]
    copied, notes = found(saved(stored, tmp_path), dtype=dtype)
    wide = {k: v.double() for k, v in weights.items()}
    for name, factor in factors.items() if leaf else ():
        wide[f"{name}.weight"] = wide[f"{name}.weight"] * factor.double().view(-1, 1, 1, 1)
    own = torch.bfloat16 if dtype is None else torch.float32
    assert_same(copied, {k: v.float().to(own) for k, v in wide.items()})
    assert any("float8" in note for note in notes)


@pytest.mark.parametrize(
    "scale",
    [
        {"decoder.conv_in.weight_scale_inv": torch.ones(2, 2)},
        {"decoder.conv_in.scale_weight": torch.ones(3, 3)},
        {"decoder.nothing.scale_weight": torch.ones(1)},
        {"decoder.conv_in.comfy_quant": torch.ones(3)},
    ],
)
def test_scales_that_are_not_known_are_refused(scale: Weights, tmp_path: Path) -> None:
    weights = {k: v.to(torch.float8_e4m3fn) for k, v in autoencoder("plain", **TINY).items()}
    path = saved({**weights, **scale}, tmp_path)
    with pytest.raises(FamilyError, match=r"float8|factor"):
        convert(path, **CPU)
    assert inspect(path).obstacles


def test_other_types_matter_only_inside_the_autoencoder(tmp_path: Path) -> None:
    weights = autoencoder("plain", **TINY)
    odd = torch.ones(4).to_sparse()
    assert_same(found(saved({**weights, "clip.x": odd}, tmp_path), skip_parity=True)[0], weights)
    with pytest.raises(InflateError):
        convert(saved({**weights, "decoder.conv_in.bias": odd}, tmp_path), **CPU)


@pytest.mark.parametrize("flat", [lambda w: w, lambda w: prefixed(w, "vae.")])
def test_averages_at_the_root_belong_to_weights_under_a_prefix(flat: Any, tmp_path: Path) -> None:
    plain, averaged = (autoencoder("plain", seed=seed, **TINY) for seed in (1, 2))
    trained = {k: v for k, v in averaged.items() if k.startswith("decoder.up.")}
    path = saved({**prefixed(plain, "vae."), **moving_averages(flat(trained))}, tmp_path)
    assert inspect(path).has_ema
    copied, notes = found(path, weights="ema", skip_parity=True)
    assert_same(copied, {**plain, **trained})
    assert any(f"{len(trained)} of the autoencoder's {len(plain)}" in note for note in notes)


def test_averages_of_other_parts_are_neither_offered_nor_taken(tmp_path: Path) -> None:
    other = {"model_ema.diffusion_modelout0weight": torch.ones(1)}
    path = saved({**autoencoder("plain", **TINY), **other}, tmp_path)
    assert not inspect(path).has_ema
    with pytest.raises(FamilyError):
        convert(path, weights="ema", **CPU)


def test_many_problems_of_a_kind_are_counted(tmp_path: Path) -> None:
    weights = autoencoder("plain")
    weights |= {f"decoder.up.0.block.0.extra.{i}": torch.ones(1) for i in range(30)}
    with pytest.raises(PlanError) as caught:
        convert(saved(weights, tmp_path), **CPU)
    assert len(caught.value.problems) == 4
    assert "27 more" in caught.value.problems[-1]
    assert "did you mean" not in str(caught.value)


def test_foreign_keys_are_left_out_on_request(tmp_path: Path) -> None:
    weights = autoencoder("plain", **TINY)
    path = saved({**weights, "decoder.conv_in.total_ops": torch.zeros(1)}, tmp_path)
    with pytest.raises(PlanError):
        convert(path, **CPU)
    assert_same(found(path, ignore=("*.total_ops",), skip_parity=True)[0], weights)


def test_nothing_to_fold_is_a_note(tmp_path: Path) -> None:
    path = saved(autoencoder("plain", **TINY), tmp_path)
    result = convert(path, layout="sgm", post_quant="fold", dry_run=True, **CPU)
    assert any("post_quant_conv" in note for note in result.notes)
