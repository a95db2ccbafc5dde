"""Turn pretrained image autoencoders into video decoders that start out as their equals.

The names below are the public ones; they are imported when first used, so that a command that only
prints help need not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from inflate._version import __version__

if TYPE_CHECKING:
    from inflate.errors import InflateError
    from inflate.loading import load_video_autoencoder, load_video_decoder
    from inflate.models import VideoDecoder
    from inflate.report.writing import save_report
    from inflate.workflow import convert, inspect, save_video_autoencoder, verify

__all__ = [
    "InflateError",
    "VideoDecoder",
    "__version__",
    "convert",
    "inspect",
    "load_video_autoencoder",
    "load_video_decoder",
    "save_report",
    "save_video_autoencoder",
    "verify",
]

_HOMES = {
    "InflateError": "inflate.errors",
    "VideoDecoder": "inflate.models",
    "convert": "inflate.workflow",
    "inspect": "inflate.workflow",
    "load_video_autoencoder": "inflate.loading",
    "load_video_decoder": "inflate.loading",
    "save_video_autoencoder": "inflate.workflow",
    "save_report": "inflate.report.writing",
    "verify": "inflate.workflow",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'inflate' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, for ``dir`` and ``help``."""
    return sorted(__all__)
