"""Formulas that several tests compare with, written without the package's modules."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of one head, ``... L C``."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.softmax(-1) @ v


def gelu(x: Tensor) -> Tensor:
    """The exact one, not its approximation by a tanh."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def group_norm(x: Tensor, eps: float, groups: int = 32) -> Tensor:
    """Group norm of ``N C ...`` without gain and bias."""
    g = x.reshape(x.shape[0], groups, -1)
    g = g - g.mean(-1, keepdim=True)
    return (g / (g.square().mean(-1, keepdim=True) + eps).sqrt()).reshape(x.shape)


def time_mix(block: nn.Module, x: Tensor) -> Tensor:
    """The transformer block of temporal attention, on the frames of one pixel, ``T C``."""
    weights = block.state_dict()

    def norm(name: str, y: Tensor) -> Tensor:
        return F.layer_norm(y, y.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    def linear(name: str, y: Tensor) -> Tensor:
        out = y @ weights[f"{name}.weight"].T
        return out + weights[f"{name}.bias"] if f"{name}.bias" in weights else out

    def feed(name: str, y: Tensor) -> Tensor:
        a, g = linear(f"{name}.net.0.proj", y).chunk(2, dim=-1)
        return linear(f"{name}.net.2", a * gelu(g))

    def attend(name: str, y: Tensor) -> Tensor:
        q, k, v = (linear(f"{name}.to_{part}", y) for part in "qkv")
        return linear(f"{name}.to_out.0", attention(q, k, v))

    x = feed("ff_in", norm("norm_in", x)) + x
    x = attend("attn1", norm("norm1", x)) + x
    x = attend("attn2", norm("norm2", x)) + x
    return feed("ff", norm("norm3", x)) + x
