"""What a copy may be told of a video checkpoint's temporal layers: what its file leaves open."""

from __future__ import annotations

from dataclasses import replace

from inflate.checkpoint.spec import decoder_spec
from inflate.errors import ConfigError
from inflate.loading import CONFIG_KEY, Source
from inflate.mix_factor import alpha_of


def as_copied(asked: Source, own: Source) -> Source:
    """A video checkpoint as it is to be copied: with its own temporal layers, however it blends.

    A file of another tool holds the numbers of its blend, and not whether they are shares (fixed)
    or go through a sigmoid first (learned): that alone may be said. The class that a folder of
    diffusers names always learns its blend.

    Args:
        asked: the source with the settings that were asked for.
        own: the source as it describes itself.

    Raises:
        ConfigError: other temporal layers are asked for than it has.
    """
    path = own.checkpoint.path
    temporal = asked.config.temporal
    stated = CONFIG_KEY in own.checkpoint.metadata or own.located.dialect == "diffusers"
    if not stated and temporal.merge_strategy == "fixed":
        shares = _shares(own)
        known = replace(own.config.temporal, merge_strategy="fixed", alpha=temporal.alpha)
        told = temporal.alpha != own.config.temporal.alpha
        if temporal != known or (told and any(share != temporal.alpha for share in shares)):
            raise _changed(own)
        wrong = [share for share in shares if not 0.0 <= share <= 1.0]
        if wrong:
            raise ConfigError(
                f"{path} blends by numbers such as {wrong[0]:g}, which are no shares of 0 to 1: "
                "its blend is not fixed; leave --merge-strategy out"
            )
        # The numbers stay those of the file; this one says whether a sigmoid reaches all of them.
        alpha = min(shares, key=lambda share: min(share, 1.0 - share), default=temporal.alpha)
        temporal = replace(temporal, alpha=alpha)
        return replace(asked, config=replace(asked.config, temporal=temporal))
    if temporal != own.config.temporal:
        raise _changed(own)
    return asked


def _shares(source: Source) -> list[float]:
    """The share of the temporal branch in each block of a decoder whose blend is fixed."""
    shares = []
    for tensor in decoder_spec(source.config.architecture, source.config.temporal):
        info = source.info(tensor.key)
        # A missing or misshapen one is reported with whatever else does not fit.
        if tensor.weighs is not None and info is not None and info.parameters == 1:
            stored = source.read(tensor.key).double().item()
            shares.append(alpha_of(stored, "fixed", tensor.weighs))
    return shares


def _changed(own: Source) -> ConfigError:
    return ConfigError(
        f"{own.checkpoint.path} is inflated already, with {own.config.temporal}; its temporal "
        "layers cannot be changed by copying. Convert the image checkpoint anew"
    )
