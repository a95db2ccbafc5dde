"""``convert``, ``verify``, ``inspect`` and saving: options in, results out; nothing is printed.

They are imported on first use: inspecting a safetensors file needs no torch, the others do.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from inflate.workflow.sources import check_working_directory

if TYPE_CHECKING:
    from inflate.workflow.conversion import convert as convert
    from inflate.workflow.inspection import Inspection as Inspection
    from inflate.workflow.inspection import inspect as inspect
    from inflate.workflow.production import ConversionResult as ConversionResult
    from inflate.workflow.saving import save_video_autoencoder as save_video_autoencoder
    from inflate.workflow.verification import verify as verify

_HOMES = {
    "ConversionResult": "production",
    "Inspection": "inspection",
    "convert": "conversion",
    "inspect": "inspection",
    "save_video_autoencoder": "saving",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'inflate.workflow' has no attribute {name!r}")
    if name not in ("Inspection", "inspect") and "torch" not in sys.modules:
        check_working_directory()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
