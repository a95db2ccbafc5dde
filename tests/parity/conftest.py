"""What the tests of parity share: the command line."""

from __future__ import annotations

from ..cli.conftest import run

__all__ = ["run"]
