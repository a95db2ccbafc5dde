"""The complete video autoencoder: image encoder, quant convs, codebook, video decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from inflate.models.blocks import at_least_float32, conv1x1
from inflate.models.image import Encoder
from inflate.models.video_decoder import Trainable, VideoDecoder


class Codebook(nn.Module):
    """The entries of a vector-quantised latent space; its key is ``embedding.weight``."""

    def __init__(self, entries: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entries, channels)

    def forward(self, z: Tensor) -> Tensor:
        """Replace each latent pixel by its nearest entry, ``N e h w -> N e h w``.

        Source:
            van den Oord et al., "Neural Discrete Representation Learning", 2017, equation 1.
        """
        entries = at_least_float32(self.embedding.weight)
        pixels = at_least_float32(z).flatten(2).transpose(1, 2)
        # One image at a time: the distances of a clip to a large codebook need too much memory.
        chosen = torch.stack([torch.cdist(image, entries).argmin(dim=1) for image in pixels])
        nearest = self.embedding(chosen)
        return nearest.transpose(1, 2).reshape(z.shape).contiguous()


class LatentEncoder(nn.Module):
    """An image encoder with its quant conv and codebook, if any, ``N C H W -> N e h w``.

    ``latent_channels`` is ``e``; ``quant_conv`` has the convolution's input and output channels.
    Without an encoder, ``encode`` raises.
    """

    def __init__(
        self,
        encoder: Encoder | None,
        *,
        latent_channels: int,
        quant_conv: tuple[int, int] | None = None,
        codebook_entries: int | None = None,
    ) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.encoder = encoder
        self.quant_conv = conv1x1(*quant_conv) if quant_conv else None
        self.quantize: Codebook | None = None
        if codebook_entries is not None:
            self.quantize = Codebook(codebook_entries, latent_channels)

    def encode(self, images: Tensor, *, sample: bool = False) -> Tensor:
        """Encode images to unscaled latents, ``N e h w`` or ``B T e h w``.

        Latents are the nearest entries of the codebook, or the mean of the posterior; with
        ``sample`` they are drawn from the posterior, if the encoder has a variance.

        Args:
            images: ``N C H W`` or ``B T C H W`` in [-1, 1].
            sample: draw from the posterior.

        Raises:
            ValueError: ``images`` has another shape, or the file has no encoder.

        Source:
            Kingma and Welling, "Auto-Encoding Variational Bayes", 2014; the bounds of the
            log-variance are those of LDM, ldm/modules/distributions/distributions.py.
        """
        if self.encoder is None:
            raise ValueError(
                "this file holds no encoder: convert the whole image autoencoder to have encode()"
            )
        channels = self.encoder.conv_in.in_channels
        h = self.encoder(_folded("images", images, channels))
        if self.quant_conv is not None:
            h = self.quant_conv(h)
        if self.quantize is not None:
            h = self.quantize(h)
        else:  # With double_z, a KL encoder returns mean and log-variance.
            z, logvar = h[:, : self.latent_channels], h[:, self.latent_channels :]
            if sample and logvar.shape[1]:
                z = z + (0.5 * logvar.clamp(-30.0, 20.0)).exp() * torch.randn_like(z)
            h = z.contiguous()
        return _unfolded(h, images)


class VideoAutoencoder(LatentEncoder, Trainable):
    """An image encoder and a video decoder, with the quant convs and the codebook between them.

    ``post_quant_conv`` has the input and output channels of the convolution before the decoder, if
    any; ``**between`` are arguments of :class:`LatentEncoder`.
    """

    def __init__(
        self,
        decoder: VideoDecoder,
        encoder: Encoder | None,
        *,
        post_quant_conv: tuple[int, int] | None = None,
        **between: Any,
    ) -> None:
        super().__init__(encoder, **between)
        self.post_quant_conv = conv1x1(*post_quant_conv) if post_quant_conv else None
        self.decoder = decoder

    def decode(
        self,
        latents: Tensor,
        timesteps: int | None = None,
        skip_video: bool = False,
        *,
        chunk: int | None = None,
    ) -> Tensor:
        """Decode latents to images, ``(B T) C H W`` or ``B T C H W``, near [-1, 1].

        Args:
            latents: ``(B T) e h w`` or ``B T e h w``, unscaled.
            timesteps: frames per video, T; not needed for the second form.
            skip_video: run only the image layers.
            chunk: for long clips, the number of frames per video to hold in memory at a time.

        Raises:
            ValueError: ``latents`` has another shape, or not ``timesteps`` frames; also the errors
                of :meth:`inflate.models.video_decoder.VideoDecoder.decode`.
            OSError: the temporary files of long clips cannot be written.
        """
        post = self.post_quant_conv
        z = _folded("latents", latents, (post or self.decoder.conv_in).in_channels)
        if latents.dim() == 5:
            frames = latents.shape[1]
            if timesteps not in (None, frames):
                raise ValueError(
                    f"timesteps is {timesteps}, but the latents have {frames} frames per video; "
                    "leave timesteps out"
                )
            timesteps = frames
        if post is not None:
            z = post(z)
        if chunk is not None and not latents.requires_grad:
            z = z.detach()  # A gradient of post_quant_conv alone must not forbid chunks.
        out = self.decoder.decode(z, timesteps, skip_video, chunk=chunk)
        return _unfolded(out, latents)

    def forward(
        self, latents: Tensor, timesteps: int | None = None, skip_video: bool = False
    ) -> Tensor:
        """Same as :meth:`decode`; wrappers such as DistributedDataParallel call this method."""
        return self.decode(latents, timesteps, skip_video)


def _folded(name: str, x: Tensor, channels: int) -> Tensor:
    """``N C H W`` or ``B T C H W`` to ``N C H W``; ValueError for other shapes."""
    if x.dim() not in (4, 5) or x.shape[-3] != channels:
        raise ValueError(
            f"{name} have the shape {list(x.shape)}; expected (B T) C H W or B T C H W with "
            f"{channels} channels"
        )
    return x if x.dim() == 4 else x.flatten(0, 1)


def _unfolded(out: Tensor, x: Tensor) -> Tensor:
    """``(B T) ...`` in the form of ``x``: folded, or ``B T ...``."""
    return out if x.dim() == 4 else out.reshape(*x.shape[:2], *out.shape[1:])
