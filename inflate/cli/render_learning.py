"""When temporal tensors learn, as text for people."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from inflate.parity.learning import summary
from inflate.parity.result import TensorLearning, TrainabilityResult

_SHOWN = 5


def print_summary(result: TrainabilityResult | None) -> None:
    """The counts in a line, where they are known."""
    if result is not None:
        Console(highlight=False).print(summary(result), soft_wrap=True)


def print_learning(result: TrainabilityResult) -> None:
    """The counts, then whatever never learns: why, what to change, and the first names."""
    console = Console(highlight=False)
    console.print(summary(result), soft_wrap=True)
    groups: dict[tuple[str, str | None], list[TensorLearning]] = {}
    for tensor in result.tensors:
        if tensor.learns == "never":
            groups.setdefault((tensor.reason, tensor.change), []).append(tensor)
    for (reason, change), tensors in groups.items():
        advice = f"; {change}" if change else ""
        style = "yellow" if change else ""
        text = f"  never, {len(tensors)}: {reason}{advice}"
        console.print(Text(text, style=style), soft_wrap=True)
        for tensor in tensors[:_SHOWN]:
            console.print(Text(f"    {tensor.name}"), soft_wrap=True)
        if len(tensors) > _SHOWN:
            console.print(f"    and {len(tensors) - _SHOWN} more; --json lists them")
