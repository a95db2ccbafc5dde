"""Pictures: PNG that another reader reads, and differences amplified alike for every frame."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from inflate.parity.result import Picture
from inflate.report.images import LONGEST, MOST, png, strips

from .building import pictures


def decoded(uri: str) -> Tensor:
    """The pixels ``H W 3`` of a data URI, by Pillow."""
    start, _, text = uri.partition(",")
    assert start == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return torch.from_numpy(np.array(image))


def picture(reference: Tensor, candidate: Tensor | None = None, frame: int = 0) -> Picture:
    return Picture("p", frame, None, reference, reference if candidate is None else candidate)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (64, 40)])
def test_png_keeps_every_pixel(size: tuple[int, int]) -> None:
    pixels = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
    with Image.open(io.BytesIO(png(pixels))) as image:
        assert torch.equal(torch.from_numpy(np.array(image)), pixels)


def test_levels_from_black_to_white() -> None:
    image = torch.tensor([-1.0, 0.0, 1.0, 7.0, -9.0]).expand(3, 1, 5)
    (strip,) = strips([picture(image)])
    shown = decoded(dict(strip.frames[0].images)["image decoder"])
    assert shown[0, :, 0].tolist() == [0, 128, 255, 255, 0]


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (4, 3)])
def test_images_of_other_channels(channels: int, shown: int) -> None:
    image = torch.rand(channels, 4, 4) * 2 - 1
    (strip,) = strips([picture(image)])
    pixels = decoded(strip.frames[0].images[0][1])
    expected = ((image[:shown] + 1) * 127.5).round().to(torch.uint8).expand(3, -1, -1)
    assert torch.equal(pixels, expected.permute(1, 2, 0))


def test_what_is_shown_of_a_frame() -> None:
    (strip,) = strips(pictures(0.07))
    assert (strip.probe, len(strip.frames), strip.left_out) == ("real", 5, 0)
    for number, frame in enumerate(strip.frames):
        assert frame.number == number
        assert frame.size == (80, 48)
        captions = [caption for caption, _ in frame.images]
        assert captions == ["source", "image decoder", "video decoder", "difference times 10"]
        assert len({uri for _, uri in frame.images}) == 4
        assert frame.largest == pytest.approx(0.07, rel=0.05)


@pytest.mark.parametrize(
    ("largest", "gain"), [(0.07, 10), (0.5, 2), (0.3, 2), (9e-8, 1e7), (4.0, 0.2), (1e-44, None)]
)
def test_the_difference_is_amplified_to_most_of_the_range(
    largest: float, gain: float | None
) -> None:
    zero = torch.zeros(3, 2, 2)
    (strip,) = strips(
        [
            picture(zero, zero + largest),
            picture(zero, zero - largest / 2, 1),
            picture(zero, zero, 2),
        ]
    )
    caption, _ = strip.frames[0].images[-1]
    if gain is not None:
        assert caption == f"difference times {gain:g}"
    more, less, none = (int(decoded(f.images[-1][1])[0, 0, 0]) for f in strip.frames)
    assert more >= 127.5 * 1.38, "lighter: above the image decoder's"
    assert less < none == 128, "darker: below it"


def test_no_difference_says_so() -> None:
    (strip,) = strips(pictures(0.0))
    for frame in strip.frames:
        caption, uri = frame.images[-1]
        assert (caption, frame.largest) == ("no difference", 0.0)
        assert set(decoded(uri).flatten().tolist()) == {128}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_magenta(bad: float) -> None:
    image = torch.zeros(3, 2, 2)
    spoilt = image.clone()
    spoilt[1, 0, 1] = bad
    (strip,) = strips([picture(image, spoilt)])
    assert strip.frames[0].largest is None
    for caption, uri in strip.frames[0].images[1:]:
        assert decoded(uri)[0, 1].tolist() == [255, 0, 255], caption
        assert decoded(uri)[1, 1].tolist() == [128, 128, 128]


def test_large_images_are_made_smaller() -> None:
    (strip,) = strips([picture(torch.zeros(3, 3 * LONGEST, LONGEST))])
    assert strip.frames[0].size == (LONGEST // 3, LONGEST)
    assert decoded(strip.frames[0].images[0][1]).shape == (LONGEST, LONGEST // 3, 3)


def test_of_many_frames_the_first_and_the_last_are_shown() -> None:
    many = [picture(torch.zeros(3, 2, 2), frame=n) for n in reversed(range(100))]
    (strip,) = strips(many)
    numbers = [frame.number for frame in strip.frames]
    assert numbers == sorted(numbers)
    assert (len(numbers), numbers[0], numbers[-1]) == (MOST, 0, 99)
    assert strip.left_out == 100 - MOST


def test_half_precision_is_welcome() -> None:
    (strip,) = strips([picture(torch.zeros(3, 400, 300, dtype=torch.bfloat16))])
    assert strip.frames[0].largest == 0.0
