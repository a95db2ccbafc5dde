"""The public names of ``inflate``, and the kernel that rooms read alike."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import inflate
from inflate.vocabulary import LARGEST_KERNEL, kernel_of

from .models.builders import BAD_KERNELS


@pytest.mark.parametrize("name", inflate.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(inflate, name)
    if name != "__version__":
        assert value.__name__ == name
        assert inspect.getdoc(value)


@pytest.mark.parametrize("size", [*BAD_KERNELS, LARGEST_KERNEL + 2])
def test_a_kernel_is_one_odd_number_or_three(size: Any) -> None:
    assert kernel_of(LARGEST_KERNEL) == kernel_of([LARGEST_KERNEL] * 3) == (LARGEST_KERNEL,) * 3
    with pytest.raises(ValueError, match="video_kernel_size"):
        kernel_of(size)
