"""Where the autoencoder stands in a file, what is left behind, and what is no autoencoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from inflate.errors import FamilyError
from inflate.loading import read_tensor
from tests.io.opening import opened

from ..checkpoints import FIRST_STAGE, autoencoder, bare_decoder, prefixed

PREFIXES = ("", FIRST_STAGE, "vae.", "module.first_stage_model.", "model.")
SMALLEST = {"ch_mult": [1]}


def refused(weights: dict[str, Tensor], folder: Path) -> str:
    with pytest.raises(FamilyError) as caught, opened(weights, folder):
        pass
    text = str(caught.value)
    assert text.startswith(str(folder / "weights.pt"))
    return text.removeprefix(str(folder / "weights.pt "))


def empty(*names: str) -> dict[str, Tensor]:
    return {name: torch.ones(1) for name in names}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_autoencoder_is_found_under_any_prefix(prefix: str, tmp_path: Path) -> None:
    weights = autoencoder(**SMALLEST)
    with opened(prefixed(weights, prefix), tmp_path) as source:
        assert not source.inflated
        for key, tensor in weights.items():
            assert torch.equal(read_tensor(source, key), tensor)


def test_a_bare_decoder_is_found(tmp_path: Path) -> None:
    weights = bare_decoder(**SMALLEST)
    with opened(weights, tmp_path) as source:
        assert not source.inflated
        for key, tensor in weights.items():
            assert torch.equal(read_tensor(source, f"decoder.{key}"), tensor)
        assert source.info("encoder.conv_in.weight") is None
        assert source.info("post_quant_conv.weight") is None


def test_an_autoencoder_is_told_from_what_stands_around_it(tmp_path: Path) -> None:
    around = empty(
        "model.diffusion_model.input_blocks.0.0.weight",
        "model_ema.decoderconv_inweight",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "first_stage_model.loss.discriminator.main.0.weight",
        "alphas_cumprod",
    )
    weights = prefixed(autoencoder(**SMALLEST))
    with opened({**around, **weights}, tmp_path) as source:
        assert torch.equal(
            read_tensor(source, "encoder.conv_in.weight"),
            weights[f"{FIRST_STAGE}encoder.conv_in.weight"],
        )


def test_of_several_image_autoencoders_none_is_chosen(tmp_path: Path) -> None:
    one = autoencoder(**SMALLEST)
    said = refused({**prefixed(one, "teacher."), **prefixed(one, "student.")}, tmp_path)
    assert said == (
        "holds several autoencoders, under 'student.' (an image decoder), 'teacher.' (an image "
        "decoder); choose one with --prefix"
    )


def test_an_encoder_alone_is_told(tmp_path: Path) -> None:
    weights = {k: v for k, v in autoencoder(**SMALLEST).items() if k.startswith("encoder.")}
    assert refused(weights, tmp_path) == (
        "holds an encoder, and no decoder of this family: no key ends in "
        "'decoder.mid.block_1.conv1.weight'; expected an image autoencoder with its decoder"
    )


def test_anything_else_is_told_with_names_that_it_holds(tmp_path: Path) -> None:
    weights = empty("head.weight", "body.weight", "tail.weight", "tail.bias")
    assert refused(weights, tmp_path) == (
        "holds no image autoencoder: no key ends in 'decoder.mid.block_1.conv1.weight' (4 tensors, "
        "such as body.weight, head.weight, tail.bias)"
    )


def test_names_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    said = refused({0: torch.ones(2)}, tmp_path)  # type: ignore[dict-item]
    assert said.startswith("holds no named tensors")
