"""Results as text for people: the verdict first, then the numbers behind it."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from inflate.cli.console import result_console
from inflate.cli.text import architecture_text, bytes_text, error_text, kernel_text
from inflate.config.presets import matching_presets
from inflate.inflation.plan import Copy, InflationPlan
from inflate.parity.result import FoldResult, ParityReport
from inflate.remote import shown
from inflate.workflow import ConversionResult

_COLOURS = {"bitwise": "green", "within-tolerance": "yellow", "fail": "red"}
_PARTS = (
    ("spatial", "copied"),
    ("temporal", "initialised"),
    ("passed-through", "passed through"),
)


def print_conversion(result: ConversionResult, source: str) -> None:
    """What a conversion made of what, and how it was checked."""
    console = result_console()
    _print_facts(console, result.plan)
    console.print(_summary(result.plan))
    if result.parity is not None:
        print_parity(result.parity)
    elif result.output is not None:
        console.print("parity: unverified (--skip-parity)", style="yellow")
    if result.output is not None:
        console.print(
            Text(
                f"{shown(source)} -> {shown(str(result.output))} in {result.seconds['total']:.1f} s"
            ),
            soft_wrap=True,
        )
    elif result.parity is not None:
        console.print("nothing was written, since parity did not hold", style="red")


def print_plan(plan: InflationPlan) -> None:
    """Every tensor of a plan, then its counts."""
    console = result_console()
    table = Table("tensor", "shape", "type", "origin", box=None, pad_edge=False)
    for tensor in plan.tensors:
        origin = tensor.origin
        where = f"copy of {origin.source}" if isinstance(origin, Copy) else str(origin.rule)
        shape = " ".join(map(str, tensor.shape))
        table.add_row(Text(tensor.info.name), shape, tensor.dtype, Text(where))
    _print_wide(console, table)
    _print_facts(console, plan)
    console.print(_summary(plan))


def print_parity(report: ParityReport) -> None:
    """A verdict and the table behind it."""
    console = result_console()
    colour = _COLOURS[report.verdict]
    where = f"{report.environment.dtype} on {report.environment.device}"
    console.print(
        Text.assemble(
            "parity: ", (report.verdict, f"bold {colour}"),
            f"  (largest error {error_text(report.max_abs_error)}, {where})",
        )
    )  # fmt: skip
    table = Table("probe", "latents", "frames", "verdict", "largest error", box=None)
    for probe in report.probes:
        shape = " ".join(map(str, probe.shape))
        verdict = Text(probe.verdict, style=_COLOURS[probe.verdict])
        table.add_row(
            probe.name, shape, str(probe.frames), verdict, error_text(probe.max_abs_error)
        )
    console.print(table)
    weights = report.weights
    if weights.compared:
        console.print(f"weights: {weights.compared} compared, {len(weights.different)} different")
    for name in weights.different[:10]:
        console.print(Text(f"  differs from its source: {name}"), style="red", soft_wrap=True)
    if len(weights.different) > 10:
        console.print(f"  and {len(weights.different) - 10} more; --json lists them", style="red")
    if report.fold is not None:
        _print_fold(console, report.fold)
    if report.cast is not None:
        cast = report.cast
        console.print(
            f"cast: {cast.source_dtype} to {cast.stored_dtype} changes the image decoder's output "
            f"by up to {error_text(cast.max_abs_error)}"
        )


def _print_fold(console: Console, fold: FoldResult) -> None:
    console.print(
        f"fold: post_quant_conv in conv_in changes its output by up to {error_text(fold.border)} "
        f"on the border and {error_text(fold.inside)} inside, the images by up to "
        f"{error_text(fold.output)}; parity is that of the folded decoder",
        soft_wrap=True,
    )


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
