"""Conversions and plans as text for people."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from inflate.cli.console import safe_console
from inflate.cli.render_parity import print_parity
from inflate.cli.text import architecture_text, kernel_text
from inflate.config.presets import matching_presets
from inflate.inflation.plan import Copy, InflationPlan
from inflate.io.remote import shown
from inflate.report.text import bytes_text, one_line
from inflate.workflow import ConversionResult

_PARTS = (
    ("spatial", "copied"),
    ("temporal", "initialised"),
    ("passed-through", "passed through"),
)


def print_conversion(result: ConversionResult, source: str) -> None:
    """What a conversion made of what, and how it was checked."""
    console = safe_console()
    _print_facts(console, result.plan)
    console.print(_summary(result.plan))
    if result.parity is not None:
        print_parity(result.parity)
    elif result.output is not None:
        console.print("parity: unverified (--skip-parity)", style="yellow")
    if result.output is not None:
        console.print(
            Text(
                one_line(
                    f"{shown(source)} -> {shown(str(result.output))} "
                    f"in {result.seconds['total']:.1f} s"
                )
            ),
            soft_wrap=True,
        )
    elif result.parity is not None:
        console.print("nothing was written, since parity did not hold", style="red")


def print_plan(plan: InflationPlan) -> None:
    """Every tensor of a plan, then its counts."""
    console = safe_console()
    table = Table("tensor", "shape", "type", "origin", box=None, pad_edge=False)
    for tensor in plan.tensors:
        origin = tensor.origin
        where = f"copy of {origin.source}" if isinstance(origin, Copy) else str(origin.rule)
        shape = " ".join(map(str, tensor.shape))
        table.add_row(Text(tensor.info.name), shape, tensor.dtype, Text(where))
    _print_wide(console, table)
    _print_facts(console, plan)
    console.print(_summary(plan))


def _print_facts(console: Console, plan: InflationPlan) -> None:
    architecture, temporal = plan.config.architecture, plan.config.temporal
    facts = {
        "architecture": architecture_text(architecture),
        "preset": ", ".join(matching_presets(architecture)) or "none of this shape",
        "temporal": f"{temporal.time_mode}, {temporal.merge_strategy}, alpha {temporal.alpha:g}"
        + ("" if temporal.time_mode == "attn-only" else f", kernel {kernel_text(temporal.kernel)}"),
    }
    for name, text in facts.items():
        console.print(Text(f"{name:<14}{text}"), soft_wrap=True)


def _summary(plan: InflationPlan) -> Table:
    table = Table("part", "tensors", "parameters", "bytes", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for part, words in _PARTS:
        tensors = [t for t in plan.tensors if t.part == part]
        parameters = sum(t.parameters for t in tensors)
        nbytes = sum(t.info.nbytes for t in tensors)
        table.add_row(words, str(len(tensors)), f"{parameters:,}", bytes_text(nbytes))
    reasons = Counter(dropped.reason for dropped in plan.dropped)
    for reason, count in reasons.items():
        nbytes = sum(d.nbytes for d in plan.dropped if d.reason == reason)
        table.add_row(f"dropped: {reason}", str(count), "", bytes_text(nbytes))
    total = sum(t.parameters for t in plan.tensors)
    table.add_row("written", str(len(plan.tensors)), f"{total:,}", bytes_text(plan.nbytes))
    return table


def _print_wide(console: Console, table: Table) -> None:
    # Names are not to be cut or folded in a pipe, where nobody's screen is the limit.
    width = max(console.width, 200) if not console.is_terminal else console.width
    console.print(table, width=width)
