"""Turn pretrained image autoencoders into video decoders with initially equal output.

The public names are imported on first use, so that printing help does not load torch.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from inflate._version import __version__ as __version__

if TYPE_CHECKING:
    from inflate.errors import InflateError as InflateError
    from inflate.loading import load_video_autoencoder as load_video_autoencoder
    from inflate.loading import load_video_decoder as load_video_decoder
    from inflate.models import VideoDecoder as VideoDecoder
    from inflate.report.writing import save_report as save_report
    from inflate.workflow.conversion import convert as convert
    from inflate.workflow.inspection import inspect as inspect
    from inflate.workflow.saving import save_video_autoencoder as save_video_autoencoder
    from inflate.workflow.verification import verify as verify

_HOMES = {
    "InflateError": "inflate.errors",
    "VideoDecoder": "inflate.models",
    "convert": "inflate.workflow.conversion",
    "inspect": "inflate.workflow.inspection",
    "load_video_autoencoder": "inflate.loading",
    "load_video_decoder": "inflate.loading",
    "save_report": "inflate.report.writing",
    "save_video_autoencoder": "inflate.workflow.saving",
    "verify": "inflate.workflow.verification",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'inflate' has no attribute {name!r}")
    if name not in ("InflateError", "inspect", "save_report") and "torch" not in sys.modules:
        from inflate.workflow.sources import check_working_directory

        check_working_directory()
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
