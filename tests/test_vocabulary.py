"""The kernel that several rooms read alike, and imports without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from inflate.vocabulary import LARGEST_KERNEL, kernel_of

from .models.builders import BAD_KERNELS


@pytest.mark.parametrize(
    ("size", "kernel"),
    [
        (1, (1, 1, 1)),
        ([3, 1, 1], (3, 1, 1)),
        ((5, 3, 1), (5, 3, 1)),
        (LARGEST_KERNEL, (LARGEST_KERNEL,) * 3),
    ],
)
def test_a_kernel_is_one_odd_number_or_three(size: Any, kernel: tuple[int, int, int]) -> None:
    assert kernel_of(size) == kernel


@pytest.mark.parametrize("size", [*BAD_KERNELS, LARGEST_KERNEL + 2])
def test_anything_else_is_refused_with_its_value(size: Any) -> None:
    with pytest.raises(ValueError, match="video_kernel_size") as caught:
        kernel_of(size)
    assert repr(size) in str(caught.value)


@pytest.mark.parametrize("module", ["inflate", "inflate.options", "inflate.cli.app"])
def test_imports_need_no_torch(module: str) -> None:
    code = f"import {module}, sys; print(*({{'torch', 'omegaconf'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
