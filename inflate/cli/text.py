"""Values as text for people, shared by the renderers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inflate.report.text import shape_text

if TYPE_CHECKING:
    from inflate.config.schema import Architecture


def architecture_text(architecture: Architecture) -> str:
    """An architecture in a line."""
    inside = shape_text(architecture.attention_levels)
    return (
        f"ch {architecture.ch}, ch_mult {shape_text(architecture.ch_mult)}, "
        f"num_res_blocks {architecture.num_res_blocks}, z_channels {architecture.z_channels}, "
        f"attention {architecture.attn_type}" + (f" and inside levels {inside}" if inside else "")
    )


def kernel_text(kernel: tuple[int, ...]) -> str:
    """A kernel as the command line takes it."""
    return ",".join(map(str, kernel))
