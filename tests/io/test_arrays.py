"""Operations on arrays that numpy lacks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inflate.io.arrays import aligned_zeros, cast, is_finite, numpy_dtype
from inflate.io.index import FLOATS, WIDTHS
from inflate.loading import as_tensor


@pytest.mark.parametrize("name", WIDTHS)
def test_types_are_those_of_torch(name: str) -> None:
    array = np.array([[1, 0]]).astype(numpy_dtype(name))
    assert array.itemsize == WIDTHS[name]
    tensor = as_tensor(array)
    assert tensor.dtype == getattr(torch, name)
    assert tensor.tolist() == [[1, 0]]
    assert tensor.data_ptr() == array.ctypes.data


def test_a_buffer_that_does_not_fit_is_a_lack_of_memory() -> None:
    with pytest.raises(MemoryError):
        aligned_zeros(1 << 60)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("values", "finite"),
    [
        ([], True), ([-0.0, -1.0], True), ([-math.nan, 1.0], False), ([1.0, math.inf], False),
        ([-math.inf, 1.0], False),
    ],
)  # fmt: skip
def test_is_finite(values: list[float], finite: bool, dtype: str) -> None:
    assert is_finite(np.array(values).astype(numpy_dtype(dtype))) is finite


@given(st.lists(st.floats(width=64), min_size=1), st.sampled_from(FLOATS), st.sampled_from(FLOATS))
def test_numbers_are_rounded_as_torch_rounds_them(
    values: list[float], source: str, target: str
) -> None:
    # Numbers halfway between two of the narrower type, give or take little, are among them.
    near = [1 + 2**-11 + 2**-25, 1 + 2**-8 - 2**-30, 1 + 2**-9 + 2**-40, 65519.999, 65520.0, 3e38]
    with np.errstate(over="ignore", invalid="ignore"):
        array = cast(np.array([*values, *near]), source)
    ours = as_tensor(cast(array, target))
    theirs = as_tensor(array).to(getattr(torch, target))
    assert torch.equal(ours.nan_to_num(7.0, 8.0, 9.0), theirs.nan_to_num(7.0, 8.0, 9.0))
