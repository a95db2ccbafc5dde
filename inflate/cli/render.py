"""Conversions, plans and inspections as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from inflate.cli.console import print_text, safe_console
from inflate.cli.render_parity import print_parity
from inflate.config.presets import matching_presets, scaling_factors
from inflate.config.schema import Architecture, Temporal
from inflate.formats.recorded import SOURCE_BLEND_KEY, SOURCE_NAME_KEY
from inflate.formats.targets import LAYOUTS
from inflate.inflation.plan import Copy, InflationPlan, PlannedTensor
from inflate.io.remote import shown
from inflate.report.summary import verdict_text
from inflate.report.text import bytes_text, one_line, shape_text
from inflate.vocabulary import COMPARED_WITH_KEY, DEVICE_KEY, VERDICT_KEY, Verdict

if TYPE_CHECKING:
    from inflate.workflow import ConversionResult, Inspection

_INDENT = 14


def print_conversion(result: ConversionResult, source: str) -> None:
    """What a conversion wrote, from what, and how it was checked."""
    console = safe_console()
    _print_summary(console, result.plan)
    if result.parity is not None:
        print_parity(result.parity)
    elif result.output is not None:
        console.print("parity: unverified (--skip-parity)", style="yellow")
    if result.output is not None:
        line = f"{shown(source)} -> {shown(str(result.output))} in {result.seconds['total']:.1f} s"
        print_text(console, one_line(line))
    elif result.parity is not None:
        console.print("nothing was written, since parity did not hold", style="red")


def print_plan(plan: InflationPlan, source: str, destination: str, *, verbose: bool) -> None:
    """The counts of a plan, then every tensor if ``verbose``."""
    console = safe_console()
    _print_summary(console, plan)
    print_text(console, one_line(f"{shown(source)} -> {destination} (dry run)"))
    if not verbose:
        print_text(console, f"{len(plan.tensors)} tensors; --verbose lists them")
        return
    table = Table("tensor", "shape", "type", "origin", box=None, pad_edge=False)
    for tensor in plan.tensors:
        origin = tensor.origin
        where = f"copy of {origin.source}" if isinstance(origin, Copy) else str(origin.rule)
        table.add_row(Text(tensor.info.name), shape_text(tensor.shape), tensor.dtype, Text(where))
    print_table(console, table)


def print_inspection(found: Inspection) -> None:
    """What a file holds, its parts, and what convert would do with it."""
    console = safe_console()
    _print_facts(console, _inspected(found))
    table = _parts_table()
    groups = [(group.name, group) for group in found.parts]
    groups += [(f"dropped: {group.name}", group) for group in found.dropped]
    for name, group in groups:
        table.add_row(
            Text(name), str(group.tensors), f"{group.parameters:,}", bytes_text(group.nbytes)
        )
    console.print(table)
    _print_facts(console, _layouts(found))
    if not found.obstacles:
        dropped = sum(group.tensors for group in found.dropped)
        line = (
            f"convert would copy {found.copied} decoder tensors, keep {found.passed_through} "
            f"others, drop {dropped}, and write {found.would_write}"
        )
        print_text(console, Text(one_line(line), "green"))
    for obstacle in found.obstacles:
        print_text(console, Text(one_line(f"obstacle: {obstacle}"), "yellow"))


def _layouts(found: Inspection) -> Iterator[tuple[str, str]]:
    """Whether each layout can be written, and why not; nothing if all fail for one reason."""
    if len({*found.layouts.values(), found.obstacles}) == 1 and found.obstacles:
        return
    for layout, problems in found.layouts.items():
        if problems:
            yield layout, f"no: {'; '.join(problems)}"
        else:
            yield layout, f"yes, --layout {layout}, for {LAYOUTS[layout].readers}"


def print_table(console: Console, table: Table) -> None:
    """Print a table whose columns fit the terminal, and are not cut or folded in a pipe."""
    width = console.width if console.is_terminal else max(console.width, 250)
    console.print(table, width=width)


def _print_facts(console: Console, facts: Iterable[tuple[str, str]]) -> None:
    for name, fact in facts:
        print_text(console, one_line(f"{name:<{_INDENT}}{fact}"), _INDENT)


def _inspected(found: Inspection) -> Iterator[tuple[str, str]]:
    trained = ", trained" if found.trained else ""
    yield "kind", (found.kind or "not an autoencoder of this family") + trained
    yield "file", str(found.path)
    count = f", {len(found.files.weights)} files" if len(found.files.weights) > 1 else ""
    yield "format", found.files.format + count
    yield "types", ", ".join(f"{dtype} ({n})" for dtype, n in found.dtypes.items())
    if found.names is not None:
        yield "names", {"ldm": "LDM and sgm", "diffusers": "diffusers"}[found.names]
        yield "prefix", found.prefix or "(none)"
    if found.layout is not None:
        yield "layout", f"{found.layout}, read by {LAYOUTS[found.layout].readers}"
    if found.architecture is not None:
        yield "architecture", _architecture_text(found.architecture)
        yield "preset", ", ".join(found.presets) or "none matches"
        yield "scaling", _scaling_text(found.architecture)
    if found.temporal is not None:
        yield "temporal", found.temporal.time_mode + _kernel_text(found.temporal)
    if found.blend is not None:
        alpha = "" if found.blend.alpha is None else f", alpha {found.blend.alpha:g}"
        yield "blend", f"{found.blend.strategy or 'unknown'}{alpha}: {found.blend.reason}"
    if found.has_ema:
        yield "averages", "has moving averages of the weights: --weights ema"
    if found.foreign:
        yield "foreign", ", ".join(found.foreign) + " (replaced by inert stand-ins)"
    header = found.metadata
    if SOURCE_NAME_KEY in header:
        yield "source.name", header[SOURCE_NAME_KEY]
    if VERDICT_KEY in header:
        verdict = verdict_text(
            {"verdict": header[VERDICT_KEY], "compared_with": header.get(COMPARED_WITH_KEY)}
        )
        name = header.get(SOURCE_NAME_KEY, "its source")
        if SOURCE_BLEND_KEY in header:
            verdict += f", as a copy of {name}; not compared with an image decoder"
        elif header[VERDICT_KEY] in get_args(Verdict):
            verdict += f", compared with {name} on {header.get(DEVICE_KEY, 'an unknown device')}"
        if found.changed:
            verdict += "; the tensors changed after the check, so it does not apply to them"
        yield "verdict", verdict
    if found.fingerprint is not None:
        yield "fingerprint", found.fingerprint


def _print_summary(console: Console, plan: InflationPlan) -> None:
    architecture, temporal = plan.config.architecture, plan.config.temporal
    blend = f"{temporal.merge_strategy}, alpha {temporal.alpha:g}"
    facts = {
        "architecture": _architecture_text(architecture),
        "preset": ", ".join(matching_presets(architecture)) or "none matches",
        "temporal": f"{temporal.time_mode}, {blend}{_kernel_text(temporal)}",
    }
    _print_facts(console, facts.items())
    table = _parts_table()
    fates: dict[str, list[PlannedTensor]] = {
        "copied": [], "temporal, copied": [], "initialised": [], "passed through": []
    }  # fmt: skip
    for tensor in plan.tensors:
        fates[_fate(tensor)].append(tensor)
    for fate, tensors in fates.items():
        if tensors or fate == "copied":
            parameters, nbytes = (
                sum(t.parameters for t in tensors),
                sum(t.info.nbytes for t in tensors),
            )
            table.add_row(fate, str(len(tensors)), f"{parameters:,}", bytes_text(nbytes))
    for reason, count in Counter(dropped.reason for dropped in plan.dropped).items():
        nbytes = sum(d.nbytes for d in plan.dropped if d.reason == reason)
        table.add_row(f"dropped: {reason}", str(count), "", bytes_text(nbytes))
    total = sum(t.parameters for t in plan.tensors)
    table.add_row("written", str(len(plan.tensors)), f"{total:,}", bytes_text(plan.nbytes))
    console.print(table)


def _fate(tensor: PlannedTensor) -> str:
    if tensor.part == "temporal":
        return "temporal, copied" if isinstance(tensor.origin, Copy) else "initialised"
    return "copied" if tensor.part == "spatial" else "passed through"


def _parts_table() -> Table:
    table = Table("part", "tensors", "parameters", "bytes", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    return table


def _architecture_text(architecture: Architecture) -> str:
    levels = shape_text(architecture.attention_levels)
    return (
        f"ch {architecture.ch}, ch_mult {shape_text(architecture.ch_mult)}, "
        f"num_res_blocks {architecture.num_res_blocks}, z_channels {architecture.z_channels}, "
        f"attention {architecture.attn_type}" + (f", also in levels {levels}" if levels else "")
    )


def _scaling_text(architecture: Architecture) -> str:
    """The factor between the latents of the decoder and those of diffusion models."""
    factor, shift = architecture.scaling_factor, architecture.shift_factor
    known = scaling_factors(architecture)
    if factor is not None:
        return f"{factor:g}" + (f", shift {shift:g}" if shift else "")
    return f"{', '.join(f'{one:g}' for one in known)}, by preset" if known else "unknown"


def _kernel_text(temporal: Temporal) -> str:
    if temporal.time_mode == "attn-only":
        return ""
    return f", kernel {','.join(map(str, temporal.kernel))}"
