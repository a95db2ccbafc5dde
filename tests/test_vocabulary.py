"""The closed sets of words, and the kernel that several rooms read alike."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from inflate import vocabulary
from inflate.vocabulary import LARGEST_KERNEL, kernel_of

from .models.builders import BAD_KERNELS


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("TIME_MODES", ("all", "conv-only", "attn-only")),
        ("MERGE_STRATEGIES", ("learned", "fixed")),
        ("ATTN_TYPES", ("vanilla", "vanilla-xformers", "none")),
        ("STORED_TYPES", ("float32", "float16", "bfloat16")),
    ],
)
def test_the_words_are_those_of_the_contract(name: str, words: tuple[str, ...]) -> None:
    assert getattr(vocabulary, name) == words


@pytest.mark.parametrize(
    ("size", "kernel"),
    [
        (1, (1, 1, 1)),
        (3, (3, 3, 3)),
        ([3, 1, 1], (3, 1, 1)),
        ((5, 3, 1), (5, 3, 1)),
    ],
)
def test_a_kernel_is_one_odd_number_or_three(size: Any, kernel: tuple[int, int, int]) -> None:
    assert kernel_of(size) == kernel


@pytest.mark.parametrize("size", BAD_KERNELS)
def test_anything_else_is_told(size: Any) -> None:
    with pytest.raises(ValueError, match="video_kernel_size") as caught:
        kernel_of(size)
    assert str(caught.value) == (
        f"video_kernel_size is {size!r}; expected one positive odd number, or three for time, "
        "height and width, such as 3 or [3, 1, 1]"
    )


@pytest.mark.parametrize("module", ["inflate", "inflate.vocabulary", "inflate.errors"])
def test_words_and_errors_need_no_torch(module: str) -> None:
    code = f"import {module}, sys; print(*({{'torch', 'omegaconf'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_a_kernel_that_no_memory_holds_is_told() -> None:
    assert kernel_of(LARGEST_KERNEL) == (LARGEST_KERNEL,) * 3
    with pytest.raises(ValueError, match=r"^video_kernel_size is 99999; expected 999 at most$"):
        kernel_of(99999)
