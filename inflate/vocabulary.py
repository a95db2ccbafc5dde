"""Words and constants that configuration, models, files and commands share; imports nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

TimeMode = Literal["all", "conv-only", "attn-only"]
MergeStrategy = Literal["learned", "fixed"]
AttnType = Literal["vanilla", "vanilla-xformers", "none"]
Target = Literal["autoencoder", "decoder", "sgm", "diffusers", "comfyui", "cogvideo", "temporal"]
PostQuant = Literal["keep", "fold"]
Weights = Literal["plain", "ema"]
StoredType = Literal["float32", "float16", "bfloat16"]
ComputeType = Literal["float32", "float16", "bfloat16", "float64"]
Verdict = Literal["bitwise", "within-tolerance", "fail"]
ComparedWith = Literal["reference", "folded-reference"]
TRAINED = "trained"
"""Replaces the verdict in the header of a file that was saved after training."""

VERDICT_KEY = "inflate.parity.verdict"
DEVICE_KEY = "inflate.parity.device"
COMPARED_WITH_KEY = "inflate.parity.compared_with"
"""Header keys of the verdict, and of the reference of the comparison."""

TemporalPart = Literal[
    "mix_factor", "time_stack", "time_mix_conv", "time_mix_block", "video_time_embed"
]

TEMPORAL_PARTS: tuple[TemporalPart, ...] = get_args(TemporalPart)
"""Names that only a video decoder's keys contain."""

TIME_MODES: tuple[str, ...] = get_args(TimeMode)
MERGE_STRATEGIES: tuple[str, ...] = get_args(MergeStrategy)
ATTN_TYPES: tuple[str, ...] = get_args(AttnType)
TARGETS: tuple[str, ...] = get_args(Target)
STORED_TYPES: tuple[str, ...] = get_args(StoredType)

GROUPS = 32
"""Groups of every GroupNorm of this family; channel counts are multiples of it."""


DDCONFIG_FIXED = {"use_linear_attn": False, "use_timestep": False}
"""Keys of a ``ddconfig`` with a single value in this family; other values mean another network."""

DDCONFIG_KEYS = (
    *("attn_resolutions", "attn_type", "ch", "ch_mult", "double_z", "dropout", "gather_norm"),
    *("give_pre_end", "in_channels", "num_res_blocks", "out_ch", "resamp_with_conv", "resolution"),
    *("tanh_out", "z_channels"),
    *DDCONFIG_FIXED,
)
"""Keys of the ``ddconfig`` in LDM, sgm and CogVideo. Encoder and decoder share it, so each module
accepts and ignores the other's keys."""

LARGEST_KERNEL = 999
"""Larger kernels are useless, and their number of elements may exceed 64 bits."""


def kernel_of(video_kernel_size: int | Sequence[int]) -> tuple[int, int, int]:
    """The kernel size of a temporal convolution, ``(time, height, width)``.

    Raises:
        ValueError: not one or three positive odd numbers, or larger than :data:`LARGEST_KERNEL`;
            an even kernel cannot be centred.
    """
    if isinstance(video_kernel_size, Sequence):
        sizes = tuple(video_kernel_size)
    else:
        sizes = (video_kernel_size,) * 3
    whole = all(isinstance(k, int) and not isinstance(k, bool) for k in sizes)
    if len(sizes) != 3 or not whole or any(k < 1 or k % 2 == 0 for k in sizes):
        raise ValueError(
            f"video_kernel_size is {video_kernel_size!r}; expected one positive odd number, or "
            "three for time, height and width, such as 3 or [3, 1, 1]"
        )
    if max(sizes) > LARGEST_KERNEL:
        raise ValueError(
            f"video_kernel_size is {video_kernel_size!r}; expected {LARGEST_KERNEL} at most"
        )
    return sizes[0], sizes[1], sizes[2]


def seems_trained(changed: int, compared: int) -> bool:
    """Whether so many temporal tensors changed that training is likely: damage changes few."""
    return 10 * changed > compared
