"""Initial values of temporal tensors: the rule of each, and the array that it makes.

Each temporal branch starts as an exact identity, so the video decoder equals the image decoder
with any blend. Every other temporal tensor is random, so that gradients arrive.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from inflate.config.schema import Config, Temporal
from inflate.formats.spec import TensorSpec, decoder_spec
from inflate.io.arrays import Array, np
from inflate.mix_factor import mix_factor_of
from inflate.vocabulary import TemporalPart


@dataclass(frozen=True)
class Rule:
    """How the values of a tensor are made.

    ``zeros`` and ``ones``; ``dirac``, a convolution that returns its input; ``constant``, every
    element ``value``; ``uniform``, drawn between ``-value`` and ``value``.
    """

    name: Literal["zeros", "ones", "dirac", "constant", "uniform"]
    value: float = 0.0

    def __str__(self) -> str:
        """The rule as printed in plans."""
        if self.name == "uniform":
            return f"uniform(±{self.value:.4g})"
        return f"constant({self.value:g})" if self.name == "constant" else self.name


ZEROS, ONES, DIRAC = Rule("zeros"), Rule("ones"), Rule("dirac")

IDENTITY_LAYERS: Mapping[TemporalPart, frozenset[str]] = {
    "time_stack": frozenset({"out_layers.3"}),
    "time_mix_block": frozenset({"attn1.to_out.0", "attn2.to_out.0", "ff_in.net.2", "ff.net.2"}),
    "video_time_embed": frozenset({"2"}),
}
"""The layers of each temporal part that make it an identity when they are zero."""


def start_rules(config: Config) -> dict[str, Rule]:
    """The rule of every temporal tensor, by key."""
    spec = decoder_spec(config.architecture, config.temporal)
    return {t.key: start_rule(t, config.temporal) for t in spec if t.part is not None}


def start_rule(tensor: TensorSpec, temporal: Temporal) -> Rule:
    """The rule of one temporal tensor."""
    assert tensor.part is not None, tensor.key
    is_weight = tensor.key.endswith(".weight")
    if tensor.weighs is not None:
        value = mix_factor_of(float(temporal.alpha), temporal.merge_strategy, tensor.weighs)
        return Rule("constant", value)
    if tensor.part == "time_mix_conv":
        return DIRAC if is_weight else ZEROS
    if tensor.layer in IDENTITY_LAYERS[tensor.part]:
        return ZEROS
    if tensor.role == "norm":
        return ONES if is_weight else ZEROS
    return usual_start(tensor.fan_in)


def usual_start(fan_in: int) -> Rule:
    """The random initialization of a layer with ``fan_in`` inputs per output.

    Source:
        He et al., 2015, as ``torch.nn.Linear`` and ``torch.nn.Conv3d`` apply it.
    """
    return Rule("uniform", 1.0 / math.sqrt(fan_in))


def make_array(rule: Rule, shape: tuple[int, ...], key: str, seed: int) -> Array:
    """Make the array of a rule. A constant is stored once and broadcast, read-only.

    Random numbers come from a generator seeded by ``seed`` and ``key``: they do not depend on other
    tensors or on their order.

    Source:
        ``dirac``: Zagoruyko and Komodakis, "DiracNets", 2017.
    """
    if rule.name == "uniform":
        return _draw(_generator(key, seed), math.prod(shape), rule.value).reshape(shape)
    if rule.name == "dirac":
        array = np.zeros(shape, np.float32)
        centre = tuple(extent // 2 for extent in shape[2:])
        for channel in range(min(shape[:2])):
            array[(channel, channel, *centre)] = 1.0
        return array
    value = {"zeros": 0.0, "ones": 1.0}.get(rule.name, rule.value)
    with np.errstate(over="ignore"):  # Becomes infinity, which the caller reports.
        return np.broadcast_to(np.float32(value), shape)


def draw_chunks(
    rule: Rule, shape: tuple[int, ...], key: str, seed: int, buffer_elements: int
) -> Iterator[Array]:
    """:func:`make_array`, flattened, in successive pieces of ``buffer_elements``."""
    starts = range(0, math.prod(shape), buffer_elements)
    if rule.name == "uniform":
        generator = _generator(key, seed)
        for start in starts:
            yield _draw(generator, min(buffer_elements, math.prod(shape) - start), rule.value)
        return
    whole = make_array(rule, shape, key, seed).reshape(-1)
    yield from (whole[start : start + buffer_elements] for start in starts)


def _generator(key: str, seed: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def _draw(generator: np.random.Generator, count: int, bound: float) -> Array:
    """``count`` numbers between ``-bound`` and ``bound``."""
    scale = np.float32(bound)
    if float(scale) > bound:  # Rounding to float32 must not leave the bounds.
        scale = np.nextafter(scale, np.float32(0))
    numbers = generator.random(count, dtype=np.float32)
    numbers -= np.float32(0.5)  # Exact: multiples of 2**-24.
    numbers *= 2 * scale
    return numbers
