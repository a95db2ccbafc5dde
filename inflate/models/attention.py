"""Attention: the kernel (torch's, or xformers' on CUDA) and the block of the image layers.

This is the only module that imports xformers.
"""

from __future__ import annotations

import functools
import logging
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inflate.models.blocks import add_to, best_layout, conv1x1, spatial_norm
from inflate.vocabulary import ATTN_TYPES

logger = logging.getLogger(__name__)


def attend(q: Tensor, k: Tensor, v: Tensor, *, memory_efficient: bool = False) -> Tensor:
    """Scaled dot-product attention with one head and scale ``C**-0.5``; ``N L C``, like ``q``.

    ``k`` and ``v`` are ``N S C``. ``memory_efficient`` prefers xformers' kernel; off CUDA, or
    without xformers, torch's own kernel runs, and a warning is logged once.

    Source:
        Vaswani et al., "Attention Is All You Need", 2017, equation 1.
    """
    if memory_efficient and (out := _xformers_attention(q, k, v)) is not None:
        return out
    # Add a head axis: without one, torch does not use CUDA's fused kernels.
    q, k, v = (t.unsqueeze(1) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).squeeze(1)


def _xformers_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
    if not q.is_cuda:
        why = f"the device is {q.device.type}"
    elif (ops := _xformers_ops()) is None:
        why = "xformers is not installed"
    else:
        try:
            return ops.memory_efficient_attention(q, k, v)
        except NotImplementedError:  # xformers has no kernel for this device, type and size.
            why = f"xformers has no kernel for {q.dtype} of {q.shape[-1]} channels here"
    if not torch.compiler.is_compiling():
        _log_fallback(why)
    return None


@functools.cache
def _xformers_ops() -> ModuleType | None:
    try:
        from xformers import ops
    except ImportError:
        return None
    return ops


@functools.cache
def _log_fallback(why: str) -> None:
    logger.warning("attn_type 'vanilla-xformers': using torch's attention, since %s", why)


class AttnBlock(nn.Module):
    """Self-attention over the pixels of an image, with a skip connection: ``N C H W -> N C H W``.

    Source:
        ``AttnBlock`` of ``ldm/modules/diffusionmodules/model.py``.
    """

    memory_efficient: ClassVar[bool] = False

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.norm = spatial_norm(in_channels)
        self.q = conv1x1(in_channels, in_channels)
        self.k = conv1x1(in_channels, in_channels)
        self.v = conv1x1(in_channels, in_channels)
        self.proj_out = conv1x1(in_channels, in_channels)

    def attention(self, x: Tensor) -> Tensor:
        """The attended tokens before ``proj_out``: ``N C H W -> N (H W) C``."""
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2).contiguous() for f in (self.q, self.k, self.v))
        return attend(q, k, v, memory_efficient=self.memory_efficient)

    def project(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Fold tokens ``N (H W) C`` to ``N C H W``, project them and add ``x``."""
        h = best_layout(tokens.transpose(1, 2).reshape(x.shape))
        return add_to(self.proj_out(h), x)

    def forward(self, x: Tensor) -> Tensor:
        """``N C H W -> N C H W``."""
        return self.project(self.attention(x), x)


class MemoryEfficientAttnBlock(AttnBlock):
    """:class:`AttnBlock` with xformers' kernels: the same keys."""

    memory_efficient = True


def make_attn(
    in_channels: int,
    attn_type: str = "vanilla",
    kinds: tuple[type[AttnBlock], type[AttnBlock]] = (AttnBlock, MemoryEfficientAttnBlock),
    **arguments: Any,
) -> nn.Module:
    """The attention block of an ``attn_type``; ``none`` is an identity without keys.

    ``kinds`` are the classes for ``vanilla`` and ``vanilla-xformers``.

    Raises:
        ValueError: an unknown ``attn_type``.
    """
    if attn_type not in ATTN_TYPES:
        raise ValueError(f"attn_type is {attn_type!r}; expected one of {', '.join(ATTN_TYPES)}")
    if attn_type == "none":
        return nn.Identity()
    return kinds[attn_type == "vanilla-xformers"](in_channels, **arguments)
