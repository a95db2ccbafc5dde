"""When temporal tensors will learn, in a line."""

from __future__ import annotations

from inflate.cli.console import safe_console
from inflate.parity.learning import counts
from inflate.parity.result import TrainabilityResult
from inflate.report.summary import learning_text


def print_summary(result: TrainabilityResult | None) -> None:
    """The counts in a line, where they are known."""
    if result is not None:
        safe_console().print(learning_text(counts(result)), soft_wrap=True)
