"""The settings allowed for the copy of a video checkpoint: only what its file leaves open."""

from __future__ import annotations

from dataclasses import replace

from inflate.checkpoint.spec import decoder_spec
from inflate.errors import ConfigError
from inflate.loading import CONFIG_KEY, Source
from inflate.mix_factor import alpha_of


def as_copied(asked: Source, own: Source) -> Source:
    """The video checkpoint to copy, with its own temporal layers.

    A file of another tool stores each ``mix_factor``, but not whether it is a share (``fixed``) or
    goes through a sigmoid (``learned``); only this may be set. The class that a diffusers folder
    names always has a learned blend.

    Args:
        asked: the source with the requested settings.
        own: the source with the settings of its file.

    Raises:
        ConfigError: the settings request other temporal layers than the file has.
    """
    path = own.checkpoint.path
    temporal = asked.config.temporal
    stated = CONFIG_KEY in own.checkpoint.metadata or own.located.dialect == "diffusers"
    if not stated and temporal.merge_strategy == "fixed":
        shares = _shares(own)
        known = replace(own.config.temporal, merge_strategy="fixed", alpha=temporal.alpha)
        given = temporal.alpha != own.config.temporal.alpha
        if temporal != known or (given and any(share != temporal.alpha for share in shares)):
            raise _changed(own)
        wrong = [share for share in shares if not 0.0 <= share <= 1.0]
        if wrong:
            raise ConfigError(
                f"{path} blends by numbers such as {wrong[0]:g}, which are not shares between "
                "0 and 1: its blend is not fixed; leave --merge-strategy out"
            )
        # The copy keeps the file's numbers; this one shows whether a sigmoid reaches all of them.
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
        "layers cannot be changed by copying. Convert the image checkpoint again"
    )
