"""How a temporal block blends its two branches, and how many frames its batch is folded from."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inflate.mix_factor import Weighs, alpha_of, mix_factor_of


class TemporalBlock(nn.Module):
    """A block that blends a spatial and a temporal branch.

    Subclasses set :attr:`mix_weighs`, the branch that their ``mix_factor`` weighs.
    """

    mix_weighs: ClassVar[Weighs]
    mix_factor: Tensor

    def init_blend(self, alpha: float, merge_strategy: str) -> None:
        """Register ``mix_factor`` (a parameter if ``learned``, a buffer if ``fixed``)."""
        value = torch.tensor([float(mix_factor_of(alpha, merge_strategy, self.mix_weighs))])
        self.merge_strategy = merge_strategy
        if merge_strategy == "learned":
            self.mix_factor = nn.Parameter(value)
        else:
            self.register_buffer("mix_factor", value)
        self._silent = False
        self._noted: tuple[Tensor | None, int | None] = (None, None)
        self._note_share()

    def temporal_share(self) -> Tensor:
        """The share of the temporal branch in the blend, from 0 to 1."""
        alpha = alpha_of(self.mix_factor, self.merge_strategy, self.mix_weighs)
        return torch.sigmoid(alpha) if self.merge_strategy == "learned" else alpha

    def blend(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        """The weighted sum of two branches of one shape, in the memory layout of ``spatial``.

        It overwrites ``spatial`` unless a gradient needs it. Computed as ``a + w (b - a)``: of
        bit-identical branches it is bit-identical, where ``w b + (1 - w) a`` would round.
        Convolutions choose their algorithm, and so their rounding, by the layout.
        """
        share = self.temporal_share().to(spatial.dtype)
        if any(t.requires_grad for t in (spatial, temporal, share)):
            return torch.lerp(spatial, temporal, share)
        return spatial.lerp_(temporal, share)

    def is_silent(self) -> bool:
        """Whether the blend is fixed and fully spatial, so that the temporal branch can be skipped.

        The value is read only after it was set (built, loaded, moved or written to), since reading
        waits for the device. A compiled graph holds it as a constant and asserts that it is
        unchanged.
        """
        if self.merge_strategy == "learned" or self.mix_factor.requires_grad:
            return False
        if not torch.compiler.is_compiling():
            self._note_share()
        elif self._silent:
            torch._assert_async(
                self.temporal_share() == 0,
                "mix_factor was written to after its graph was compiled without the temporal "
                "branch: call torch.compiler.reset()",
            )
        return self._silent

    def _note_share(self) -> None:
        mix = self.mix_factor
        if self.merge_strategy == "learned" or mix.is_meta or type(mix) is not Tensor:
            return
        # An inference tensor does not count its writes, so it is read each time.
        version = None if mix.is_inference() else mix._version
        if self._noted[0] is not mix or self._noted[1] != version or version is None:
            self._noted = (mix, version)
            self._silent = bool((self.temporal_share() == 0).all())

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._note_share()


def frames_of(x: Tensor, timesteps: int | None) -> int:
    """The number of frames ``T`` that a batch ``(B T) ...`` is folded from.

    Raises:
        ValueError: ``timesteps`` is not given, not positive, or does not divide the batch.
    """
    if timesteps is None:
        raise ValueError("timesteps is not given; pass the number of frames of each video")
    if timesteps < 1 or x.shape[0] % timesteps:
        raise ValueError(
            f"timesteps is {timesteps}, and the batch holds {x.shape[0]} frames; expected a "
            "positive number that divides it, since a batch is whole videos, (B T) C H W"
        )
    return timesteps
