"""The jobs, convert, verify and inspect: values in, values out; nothing is printed here.

They are imported when first used: inspecting a safetensors file needs no torch, the others do.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from inflate.workflow.sources import check_working_directory

if TYPE_CHECKING:
    from inflate.workflow.conversion import ConversionResult, convert, convert_with
    from inflate.workflow.inspection import Inspection, inspect
    from inflate.workflow.saving import save_video_autoencoder
    from inflate.workflow.verification import verify, verify_with

__all__ = [
    "ConversionResult",
    "Inspection",
    "convert",
    "convert_with",
    "inspect",
    "save_video_autoencoder",
    "verify",
    "verify_with",
]

_HOMES = {
    "ConversionResult": "conversion",
    "Inspection": "inspection",
    "convert": "conversion",
    "convert_with": "conversion",
    "inspect": "inspection",
    "save_video_autoencoder": "saving",
    "verify": "verification",
    "verify_with": "verification",
}


def __getattr__(name: str) -> Any:
    """Import a job when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'inflate.workflow' has no attribute {name!r}")
    if name not in ("Inspection", "inspect") and "torch" not in sys.modules:
        check_working_directory()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
