"""When temporal tensors learn: what two backward passes measure is what the plan foretells."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import inflate
from inflate.checkpoint.layouts import DECODER
from inflate.checkpoint.source import Source
from inflate.inflation.plan import InflationPlan, Make
from inflate.loading import build_video_decoder, make_tensor, read_tensor
from inflate.models import VideoDecoder
from inflate.parity import learning
from inflate.parity.learning import counts
from inflate.parity.result import TensorLearning, TrainabilityResult
from inflate.parity.trainability import learn_once, predict_from_plan
from inflate.report.summary import learning_text
from inflate.vocabulary import MERGE_STRATEGIES, TIME_MODES

from ..checkpoints import autoencoder
from ..conversions import CPU
from ..inflation.planning import plan_of, planned
from ..models.builders import TINY, make_identity, randomized, video_decoder

SHAPES: dict[str, dict[str, Any]] = {
    # All channels are groups of their own; none are; attention inside the levels.
    "32": {"ch_mult": [1]},
    "32-64": {"ch_mult": [1, 2], "attn_resolutions": [32, 16]},
    "64": {"ch": 64, "ch_mult": [1]},
}
KERNELS = (1, 3, (3, 1, 1))
ALPHAS = {"learned": (0.0, -50.0, 20.0, 15.0), "fixed": (0.0, 0.25, 1e-9)}


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


def by_name(result: TrainabilityResult | None) -> dict[str, TensorLearning]:
    assert result is not None
    return {tensor.name: tensor for tensor in result.tensors}


def differences(
    shape: str, folder: Path, **temporal: Any
) -> dict[str, tuple[TensorLearning | None, TensorLearning | None]]:
    """The tensors for which measurement and prediction differ, in anything that they say."""
    settings = {k if "." in k or k == "dtype" else f"temporal.{k}": v for k, v in temporal.items()}
    with planned(autoencoder(**SHAPES[shape]), folder, settings) as (plan, source):
        measured = by_name(learn_once(decoder_of(plan, source)))
        foretold = by_name(predict_from_plan(plan))
    assert set(foretold) == {tensor.key for tensor in plan.of("temporal")}
    names = measured.keys() | foretold.keys()
    both = {name: (measured.get(name), foretold.get(name)) for name in names}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


every_start = pytest.mark.parametrize(
    ("mode", "strategy"), list(itertools.product(TIME_MODES, MERGE_STRATEGIES))
)


@every_start
def test_the_plan_foretells_what_is_measured(strategy: str, mode: str, tmp_path: Path) -> None:
    for alpha, kernel in itertools.product(ALPHAS[strategy], KERNELS):
        told = {"time_mode": mode, "merge_strategy": strategy, "alpha": alpha}
        assert differences("32", tmp_path, video_kernel_size=kernel, **told) == {}, (alpha, kernel)


@every_start
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "32"])
def test_other_shapes_are_foretold_too(
    shape: str, strategy: str, mode: str, tmp_path: Path
) -> None:
    for alpha, kernel in zip(ALPHAS[strategy], itertools.cycle(KERNELS), strict=False):
        told = {"time_mode": mode, "merge_strategy": strategy, "alpha": alpha}
        assert differences(shape, tmp_path, video_kernel_size=kernel, **told) == {}, (alpha, kernel)


def test_a_narrow_type_that_rounds_a_share_away_is_foretold(tmp_path: Path) -> None:
    told: dict[str, Any] = {"time_mode": "all", "merge_strategy": "fixed", "alpha": 1e-4}
    for dtype, dead in (("float32", False), ("float16", True)):
        plan = plan_of(autoencoder(**SHAPES["32"]), tmp_path, {
            "dtype": dtype, **{f"temporal.{k}": v for k, v in told.items()}
        })  # fmt: skip
        key = "decoder.mid.attn_1.time_mix_block.ff.net.2.weight"
        # 1 - 1e-4, as the file holds it, is 1 in float16.
        assert (by_name(predict_from_plan(plan))[key].learns == "never") == dead
        assert differences("32", tmp_path, dtype=dtype, **told) == {}


def test_the_ends_of_the_branches_learn_now_and_the_rest_after_them(tmp_path: Path) -> None:
    plan = plan_of(autoencoder(ch=64, ch_mult=[1]), tmp_path, {"temporal.time_mode": "all"})
    found = by_name(predict_from_plan(plan))
    block = "decoder.mid.block_1."
    assert found[f"{block}time_stack.out_layers.3.weight"].learns == "now"
    assert found["decoder.conv_out.time_mix_conv.weight"].learns == "now"
    inner = found[f"{block}time_stack.in_layers.2.weight"]
    assert (inner.learns, inner.change) == ("next-step", None)
    assert inner.reason.startswith("the zeros that make its branch an identity")
    mix = found[f"{block}mix_factor"]
    assert (mix.learns, mix.reason.split(" before")[0]) == ("next-step", "its branches are equal")
    assert counts(predict_from_plan(plan) or TrainabilityResult(()))["never"] == 0


def test_a_fixed_blend_at_0(tmp_path: Path) -> None:
    settings = {"temporal.merge_strategy": "fixed", "temporal.time_mode": "all"}
    found = by_name(predict_from_plan(plan_of(autoencoder(), tmp_path, settings)))
    tensor = found["decoder.mid.block_1.time_stack.out_layers.3.weight"]
    assert tensor.learns == "never"
    assert tensor.reason == (
        "a fixed blend with alpha 0 lets no gradient into the temporal branches"
    )
    assert tensor.change == "choose --merge-strategy learned, or an alpha above 0"
    assert found["decoder.conv_out.time_mix_conv.bias"].learns == "now", "it has no blend"
    # That a chosen blend stays as it is needs no mending.
    mix = found["decoder.mid.block_1.mix_factor"]
    assert (mix.learns, mix.change) == ("never", None)
    assert "is a buffer" in mix.reason


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
    found = by_name(predict_from_plan(plan_of(autoencoder(), tmp_path, settings)))
    ends = {"mid.block_1": "time_stack.out_layers.3", "mid.attn_1": "time_mix_block.ff.net.2"}
    for block, end in ends.items():
        tensors = [found[f"decoder.{block}.{key}"] for key in (f"{end}.weight", "mix_factor")]
        assert [tensor.learns for tensor in tensors] == [branch, mix]
        for tensor in tensors:
            if tensor.learns == "never":
                assert f"a saturated sigmoid: at alpha {alpha:g} " in tensor.reason
                assert tensor.change == "choose an alpha between -15 and 15"


def test_a_bias_that_a_norm_takes_away_again_is_not_to_be_mended(tmp_path: Path) -> None:
    key = "decoder.mid.block_1.time_stack.in_layers.2.bias"
    for channels, learns in ((32, "never"), (64, "next-step")):
        plan = plan_of(autoencoder(ch=channels, ch_mult=[1]), tmp_path)
        tensor = by_name(predict_from_plan(plan))[key]
        assert (tensor.learns, tensor.change) == (learns, None)
    assert learning.notes(predict_from_plan(plan)) == ()


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


def test_float32_measures_the_same() -> None:
    assert learn_once(tiny().float()) == learn_once(tiny())


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
    assert never(decoder) == ("its requires_grad is false", "set it to true")
    # What stands before it waits for it in vain, since its zeros stay.
    reason, _ = never(decoder, "mid.block_1.time_stack.in_layers.2.weight")
    assert DECODER + KEY in reason
    frozen = tiny()
    frozen.requires_grad_(False)
    assert {t.reason for t in learn_once(frozen).tensors} == {"its requires_grad is false"}


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
    assert all(f"all zero: decoder.{zero}" in tensor.reason for tensor in found)
    assert not any(tensor.name.startswith(DECODER + spared) for tensor in found)


def test_zeros_twice_in_a_row_never_move() -> None:
    before = "mid.block_1.time_stack.in_layers.2"

    def spoil(decoder: VideoDecoder) -> None:
        decoder.get_parameter(f"{before}.weight").zero_()
        decoder.get_parameter(f"{before}.bias").zero_()
        decoder.get_parameter("mid.block_1.time_stack.out_layers.0.bias").zero_()

    reason, change = never(tiny(spoil), f"{before}.weight")
    assert f"{DECODER}{before}.weight" in reason
    assert change == "start from weights that are not zero there"


def test_weights_that_are_not_finite() -> None:
    decoder = tiny(lambda d: d.conv_in.weight.fill_(float("nan")))
    reason, change = never(decoder)
    assert reason == "its gradient is not finite"
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
    assert learning_text(counts(found)) == (
        f"temporal layers: {told['now']} tensors learn now, {told['next-step']} from the next "
        f"step, {told['never']} never"
    )


def test_the_copy_of_a_video_checkpoint_is_not_foretold(
    videos: dict[str, Path], tmp_path: Path
) -> None:
    result = inflate.convert(videos["all"], tmp_path / "v", layout="decoder", dry_run=True)
    assert result.trainability is None


def test_a_conversion_tells_and_verify_measures_the_same(image: Path, tmp_path: Path) -> None:
    made = inflate.convert(image, tmp_path / "v", time_mode="all", alpha=20.0, **CPU)
    assert made.trainability is not None
    (said,) = made.notes
    assert "a saturated sigmoid: at alpha 20" in said
    assert said.endswith("To let them learn, choose an alpha between -15 and 15")
    report = inflate.verify(image, tmp_path / "v", trainability=True, **CPU)
    assert report.passed, "what cannot learn may still be equal"
    assert report.trainability is not None
    assert by_name(report.trainability) == by_name(made.trainability)
    assert inflate.verify(image, tmp_path / "v", **CPU).trainability is None
