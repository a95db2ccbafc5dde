"""What the tests of safety share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from .serving import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A warm process that runs jobs in children of its own."""
    if sys.platform != "linux":
        pytest.skip("needs fork and /proc")
    with Server() as warm:
        yield warm
