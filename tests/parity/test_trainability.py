"""When temporal tensors learn, by two backward passes; and the notes on what never will."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import inflate
from inflate.formats.layouts import DECODER
from inflate.formats.source import Source
from inflate.inflation.dead_weight import dead_weight
from inflate.inflation.plan import InflationPlan, Make
from inflate.loading import build_video_decoder, make_tensor, read_tensor
from inflate.models import VideoDecoder
from inflate.parity.result import TensorLearning, TrainabilityResult
from inflate.parity.trainability import learn_once

from ..checkpoints import autoencoder
from ..conversions import CPU
from ..inflation.planning import plan_of, planned
from ..models.builders import TINY, make_identity, randomized, video_decoder


def decoder_of(plan: InflationPlan, source: Source) -> VideoDecoder:
    """The decoder that a plan makes, as its file would hold it, in float64."""
    tensors = {}
    for planned_tensor in plan.tensors:
        key = planned_tensor.key
        if key.startswith(DECODER):
            origin = planned_tensor.origin
            tensor = (
                make_tensor(origin.rule, planned_tensor.shape, key, plan.config.seed)
                if isinstance(origin, Make)
                else read_tensor(source, origin.key)
            )
            stored = tensor.to(getattr(torch, planned_tensor.dtype))
            tensors[key.removeprefix(DECODER)] = stored.double()
    decoder = build_video_decoder(plan.config)
    decoder.load_state_dict(tensors, strict=True, assign=True)
    return decoder


def counts(result: TrainabilityResult) -> Counter[str]:
    """How many tensors learn when."""
    return Counter(tensor.learns for tensor in result.tensors)


def by_name(result: TrainabilityResult | None) -> dict[str, TensorLearning]:
    assert result is not None
    return {tensor.name: tensor for tensor in result.tensors}


def measured(settings: dict[str, Any], folder: Path, **shape: Any) -> TrainabilityResult:
    """What is measured of the decoder that inflation with these settings makes."""
    with planned(autoencoder(**{"ch_mult": [1], **shape}), folder, settings) as (plan, source):
        return learn_once(decoder_of(plan, source))


def test_the_ends_of_the_branches_learn_now_and_the_rest_after_them(tmp_path: Path) -> None:
    result = measured({"temporal.time_mode": "all"}, tmp_path, ch=64)
    found = by_name(result)
    block = "decoder.mid.block_1."
    assert found[f"{block}time_stack.out_layers.3.weight"].learns == "now"
    assert found["decoder.conv_out.time_mix_conv.weight"].learns == "now"
    inner = found[f"{block}time_stack.in_layers.2.weight"]
    assert (inner.learns, inner.change) == ("next-step", None)
    mix = found[f"{block}mix_factor"]
    assert (mix.learns, mix.change) == ("next-step", None)
    assert counts(result)["never"] == 0


def test_a_fixed_blend_at_0(tmp_path: Path) -> None:
    settings = {"temporal.merge_strategy": "fixed", "temporal.time_mode": "all"}
    found = by_name(measured(settings, tmp_path))
    tensor = found["decoder.mid.block_1.time_stack.out_layers.3.weight"]
    assert tensor.learns == "never"
    assert tensor.change is not None
    assert found["decoder.conv_out.time_mix_conv.bias"].learns == "now", "it has no blend"
    # That a chosen blend stays as it is needs no mending.
    mix = found["decoder.mid.block_1.mix_factor"]
    assert (mix.learns, mix.change) == ("never", None)


@pytest.mark.parametrize(
    ("alpha", "branch", "mix"),
    [
        (-50.0, "never", "never"),
        (50.0, "now", "never"),
        (15.0, "now", "next-step"),
        (-15.0, "now", "next-step"),
    ],
)
def test_a_saturated_sigmoid(alpha: float, branch: str, mix: str, tmp_path: Path) -> None:
    settings = {"temporal.alpha": alpha, "temporal.time_mode": "all"}
    found = by_name(measured(settings, tmp_path))
    ends = {"mid.block_1": "time_stack.out_layers.3", "mid.attn_1": "time_mix_block.ff.net.2"}
    for block, end in ends.items():
        tensors = [found[f"decoder.{block}.{key}"] for key in (f"{end}.weight", "mix_factor")]
        assert [tensor.learns for tensor in tensors] == [branch, mix]
        for tensor in tensors:
            assert (tensor.change is not None) == (tensor.learns == "never")


@pytest.mark.parametrize("mode", ["all"])
@pytest.mark.parametrize(
    ("strategy", "alpha", "dtype"),
    [
        ("learned", 0.0, "float32"),
        ("learned", -50.0, "float32"),
        ("learned", 20.0, "float32"),
        ("learned", 15.0, "float32"),
        ("fixed", 0.0, "float32"),
        ("fixed", 0.25, "float32"),
        ("fixed", 1e-9, "float32"),
        ("fixed", 1e-4, "float32"),
        ("fixed", 1e-4, "float16"),  # 1 - 1e-4, as the file holds it, is 1.
    ],
)
def test_dead_weight_is_what_is_measured(
    strategy: str, alpha: float, dtype: str, mode: str, tmp_path: Path
) -> None:
    settings = {
        "temporal.time_mode": mode,
        "temporal.merge_strategy": strategy,
        "temporal.alpha": alpha,
        "dtype": dtype,
    }
    result = measured(settings, tmp_path)
    never = Counter(t.reason for t in result.tensors if t.learns == "never" and t.change)
    notes = dead_weight(plan_of(autoencoder(ch_mult=[1]), tmp_path, settings))
    assert len(notes) == len(never)
    for reason, count in never.items():
        assert any(note.startswith(f"{reason}: {count} temporal tensors ") for note in notes)


def tiny(change: Callable[[VideoDecoder], None] | None = None, **changes: Any) -> VideoDecoder:
    """A small decoder as inflation starts it, in float64, and then changed."""
    arguments: dict[str, Any] = {**TINY, "ch": 64, "time_mode": "all", **changes}
    decoder = make_identity(randomized(VideoDecoder(**arguments), keep_mix=True)).double()
    if change is not None:
        with torch.no_grad():
            change(decoder)
    return decoder


def test_the_decoder_is_left_as_it_was() -> None:
    decoder = tiny()
    decoder.train()
    decoder.mid.block_1.eval()
    before = {key: value.clone() for key, value in decoder.state_dict().items()}
    state = torch.get_rng_state()
    learn_once(decoder)
    after = decoder.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is None and p.requires_grad for p in decoder.parameters())
    assert decoder.training
    assert not decoder.mid.block_1.training
    assert torch.equal(torch.get_rng_state(), state)


def test_it_is_left_as_it_was_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = tiny()
    before = {key: value.clone() for key, value in decoder.state_dict().items()}
    passes = []
    forward = decoder.forward

    def failing(*args: Any, **kwargs: Any) -> Tensor:
        passes.append(1)
        if len(passes) == 2:
            raise KeyError("inside")
        return forward(*args, **kwargs)

    monkeypatch.setattr(decoder, "forward", failing)
    with pytest.raises(KeyError, match="inside"):
        learn_once(decoder)
    assert all(torch.equal(before[key], value) for key, value in decoder.state_dict().items())


def test_it_measures_where_gradients_are_off() -> None:
    decoder = tiny()
    with torch.inference_mode():
        inside = learn_once(decoder)
    assert inside == learn_once(decoder)


def test_a_trained_decoder_learns_all_over_now() -> None:
    decoder = video_decoder("all", ch=64).double()
    assert {tensor.learns for tensor in learn_once(decoder).tensors} == {"now"}


KEY = "mid.block_1.time_stack.out_layers.3.weight"


def never(decoder: VideoDecoder, key: str = KEY) -> tuple[str, str | None]:
    tensor = by_name(learn_once(decoder))[DECODER + key]
    assert tensor.learns == "never"
    return tensor.reason, tensor.change


def test_a_frozen_tensor() -> None:
    decoder = tiny(lambda d: d.get_parameter(KEY).requires_grad_(False))
    assert never(decoder)[1] is not None
    # What stands before it waits for it in vain, since its zeros stay.
    reason, _ = never(decoder, "mid.block_1.time_stack.in_layers.2.weight")
    assert DECODER + KEY in reason
    frozen = tiny()
    frozen.requires_grad_(False)
    assert {t.learns for t in learn_once(frozen).tensors} == {"never"}


@pytest.mark.parametrize(
    ("zero", "spared"),
    [
        ("conv_out.weight", "conv_out.time_mix_conv"),
        ("mid.attn_1.proj_out.weight", "mid.block_1"),
        ("norm_out.weight", "conv_out.time_mix_conv"),
    ],
)
def test_a_layer_that_is_all_zero_is_named(zero: str, spared: str) -> None:
    decoder = tiny(lambda d: d.get_parameter(zero).zero_())
    found = [t for t in learn_once(decoder).tensors if t.learns == "never"]
    assert found, "something is cut off"
    assert all(f"decoder.{zero}" in tensor.reason for tensor in found)
    assert not any(tensor.name.startswith(DECODER + spared) for tensor in found)


def test_zeros_twice_in_a_row_never_move() -> None:
    before = "mid.block_1.time_stack.in_layers.2"

    def spoil(decoder: VideoDecoder) -> None:
        decoder.get_parameter(f"{before}.weight").zero_()
        decoder.get_parameter(f"{before}.bias").zero_()
        decoder.get_parameter("mid.block_1.time_stack.out_layers.0.bias").zero_()

    reason, change = never(tiny(spoil), f"{before}.weight")
    assert f"{DECODER}{before}.weight" in reason
    assert change is not None


def test_weights_that_are_not_finite() -> None:
    decoder = tiny(lambda d: d.conv_in.weight.fill_(float("nan")))
    _, change = never(decoder)
    assert change is not None


def test_every_tensor_is_told_of_once() -> None:
    decoder = tiny(merge_strategy="fixed", alpha=0.25)
    found = learn_once(decoder)
    names = [tensor.name for tensor in found.tensors]
    expected = [key for key in decoder.state_dict()
                if {"time_stack", "time_mix_block", "video_time_embed", "time_mix_conv",
                    "mix_factor"} & set(key.split("."))]  # fmt: skip
    assert sorted(names) == sorted(DECODER + key for key in expected)
    told = counts(found)
    assert sum(told.values()) == len(names)
    blocks = sum(hasattr(module, "mix_factor") for module in decoder.modules())
    assert told["never"] == blocks, "the buffers alone"


def test_a_conversion_tells_and_verify_measures_the_same(image: Path, tmp_path: Path) -> None:
    made = inflate.convert(image, tmp_path / "v", time_mode="all", alpha=20.0, **CPU)
    (said,) = [note for note in made.notes if "slope" in note]
    assert "a saturated sigmoid: at alpha 20" in said
    assert said.endswith("To let them learn, choose an alpha between -15 and 15")
    report = inflate.verify(image, tmp_path / "v", trainability=True, **CPU)
    assert report.passed, "what cannot learn may still be equal"
    assert report.trainability is not None
    blocked = [t for t in report.trainability.tensors if t.learns == "never" and t.change]
    assert f": {len(blocked)} temporal tensors never learn" in said
    assert inflate.verify(image, tmp_path / "v", **CPU).trainability is None
