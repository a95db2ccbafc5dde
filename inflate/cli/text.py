"""Values as text for people, shared by the renderers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from inflate.report.text import bytes_text, error_text

if TYPE_CHECKING:
    from inflate.config.schema import Architecture

__all__ = ["architecture_text", "bytes_text", "error_text", "kernel_text", "listed"]


def architecture_text(architecture: Architecture) -> str:
    """An architecture in a line."""
    inside = listed(architecture.attention_levels)
    return (
        f"ch {architecture.ch}, ch_mult {listed(architecture.ch_mult)}, "
        f"num_res_blocks {architecture.num_res_blocks}, z_channels {architecture.z_channels}, "
        f"attention {architecture.attn_type}" + (f" and inside levels {inside}" if inside else "")
    )


def kernel_text(kernel: tuple[int, ...]) -> str:
    """A kernel as the command line takes it."""
    return ",".join(map(str, kernel))


def listed(values: Iterable[int]) -> str:
    """Numbers, separated by spaces."""
    return " ".join(map(str, values))
