"""The attention kernel: torch's own, or xformers' on CUDA where it is installed.

This is the only module that imports xformers.
"""

from __future__ import annotations

import functools
import logging
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

logger = logging.getLogger(__name__)


def attend(q: Tensor, k: Tensor, v: Tensor, *, memory_efficient: bool = False) -> Tensor:
    """Scaled dot-product attention with one head and scale ``C**-0.5``.

    Args:
        q: queries, ``N L C``.
        k: keys, ``N S C``.
        v: values, ``N S C``.
        memory_efficient: prefer xformers' kernel. Off CUDA, or without xformers, torch's own kernel
            runs, which is logged once.

    Returns:
        The attended values, ``N L C``.

    Source:
        Vaswani et al., "Attention Is All You Need", 2017, equation 1.
    """
    if memory_efficient:
        out = _xformers_attention(q, k, v)
        if out is not None:
            return out
    # Without a head axis, CUDA's fused kernels are not considered.
    q, k, v = (t.unsqueeze(1) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).squeeze(1)


def _xformers_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
    """The same by xformers, or None where it is missing or has no kernel."""
    ops = _xformers_ops() if q.is_cuda else None
    if ops is not None:
        try:
            out: Tensor = ops.memory_efficient_attention(q, k, v)
        except NotImplementedError:  # No kernel for this device, type and size.
            why = f"xformers has no kernel for {q.dtype} of {q.shape[-1]} channels here"
        else:
            return out
    else:
        why = "xformers is not installed" if q.is_cuda else f"the device is {q.device.type}"
    if not torch.compiler.is_compiling():
        _log_fallback(why)
    return None


@functools.cache
def _xformers_ops() -> ModuleType | None:
    try:
        from xformers import ops
    except ImportError:
        return None
    return ops  # type: ignore[no-any-return]


@functools.cache
def _log_fallback(why: str) -> None:
    logger.warning("attn_type 'vanilla-xformers': using torch's attention, since %s", why)
