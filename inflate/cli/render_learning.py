"""When temporal tensors will learn, in a line."""

from __future__ import annotations

from inflate.cli.console import result_console
from inflate.parity.learning import summary
from inflate.parity.result import TrainabilityResult


def print_summary(result: TrainabilityResult | None) -> None:
    """The counts in a line, where they are known."""
    if result is not None:
        result_console().print(summary(result), soft_wrap=True)
