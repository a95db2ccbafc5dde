"""Values as text for people, shared by the renderers."""

from __future__ import annotations

from collections.abc import Iterable

from inflate.config.schema import Architecture


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


def error_text(error: float | None) -> str:
    """An error as text; None is one that is not finite."""
    return "not finite" if error is None else f"{error:.3g}"


def bytes_text(nbytes: int) -> str:
    """A number of bytes in the unit that suits it."""
    size = float(nbytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def listed(values: Iterable[int]) -> str:
    """Numbers, separated by spaces."""
    return " ".join(map(str, values))
