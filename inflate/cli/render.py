"""Conversions, plans and inspections as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, get_args

from rich.text import Text

from inflate.cli.console import print_table, print_text, say_line
from inflate.cli.render_parity import print_document
from inflate.config.loading import matching_presets, scaling_factors
from inflate.config.schema import Architecture, Temporal
from inflate.display import bytes_text
from inflate.formats.recorded import SOURCE_BLEND_KEY, SOURCE_NAME_KEY
from inflate.formats.targets import LAYOUTS
from inflate.inflation.plan import InflationPlan, PlannedTensor
from inflate.io.index import TensorInfo
from inflate.io.location import shown
from inflate.report.documents import parity_document
from inflate.report.summary import verdict_text
from inflate.report.text import shape_text
from inflate.vocabulary import COMPARED_WITH_KEY, DEVICE_KEY, VERDICT_KEY, Verdict
from inflate.workflow.inspection import Group, Inspection, by_reason

if TYPE_CHECKING:
    from inflate.workflow.production import ConversionResult


def print_conversion(result: ConversionResult, source: str) -> None:
    """Print the output of a conversion, its source, and the result of the check."""
    _print_counts(result.plan)
    if result.parity is not None:
        print_document(parity_document(result.parity))
    elif result.output is not None:
        print_text(Text("parity: unverified (--skip-parity)", "yellow"))
    if result.output is not None:
        seconds = result.seconds["total"]
        say_line(f"{shown(source)} -> {shown(str(result.output))} in {seconds:.1f} s")
    elif result.parity is not None:
        print_text(Text("nothing was written, since parity did not hold", "red"))


def print_plan(plan: InflationPlan, source: str, destination: str, *, verbose: bool) -> None:
    """Print the counts of a plan, then every tensor if ``verbose``."""
    _print_counts(plan)
    say_line(f"{shown(source)} -> {destination} (dry run)")
    if not verbose:
        say_line(f"{len(plan.tensors)} tensors; --verbose lists them")
        return
    rows = []
    for tensor in plan.tensors:
        origin = tensor.origin
        where = f"copy of {origin}" if isinstance(origin, str) else str(origin)
        rows.append((tensor.info.name, shape_text(tensor.shape), tensor.dtype, where))
    print_table(("tensor", "shape", "type", "origin"), rows)


def print_inspection(found: Inspection) -> None:
    """Print the content of a file, its parts, and what convert would do with it."""
    _print_facts(_inspected(found))
    _print_groups(found.parts, found.dropped)
    # If all layouts fail for the same reason as convert, print it once.
    if not found.obstacles or len({*found.layouts.values(), found.obstacles}) > 1:
        _print_facts(_layouts(found))
    if not found.obstacles:
        dropped = sum(group.tensors for group in found.dropped)
        line = (
            f"convert would copy {found.copied} decoder tensors, pass {found.passed_through} "
            f"others through, drop {dropped}, and write {found.would_write}"
        )
        print_text(Text(line, "green"))
    # A sound video checkpoint can be copied into other layouts.
    sound = found.inflated and not all(found.layouts.values())
    for obstacle in found.obstacles:
        print_text(Text(f"{'note' if sound else 'obstacle'}: {obstacle}", "yellow"))


def _layouts(found: Inspection) -> Iterator[tuple[str, str]]:
    for layout, problems in found.layouts.items():
        if problems:
            yield layout, f"no: {'; '.join(problems)}"
        else:
            yield layout, f"yes, --layout {layout}, for {LAYOUTS[layout].readers}"


def _print_facts(facts: Iterable[tuple[str, str]]) -> None:
    for name, fact in facts:
        say_line(f"{name:<14}{fact}")


def _print_groups(
    kept: Iterable[Group], dropped: Iterable[Group], whole: Iterable[Group] = ()
) -> None:
    head = ("part", "tensors", "parameters", "bytes")
    named = [(group.name, group) for group in kept]
    named += [(f"dropped: {group.name}", group) for group in dropped]
    named += [(group.name, group) for group in whole]
    rows = [(n, str(g.tensors), f"{g.parameters:,}", bytes_text(g.nbytes)) for n, g in named]
    print_table(head, rows, head[1:])


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
        yield "foreign", ", ".join(found.foreign) + " (not loaded)"
    yield from _recorded(found)
    if found.fingerprint is not None:
        yield "fingerprint", found.fingerprint


def _recorded(found: Inspection) -> Iterator[tuple[str, str]]:
    """The source and the verdict in a file's header."""
    header = found.metadata
    if SOURCE_NAME_KEY in header:
        yield "source.name", header[SOURCE_NAME_KEY]
    if VERDICT_KEY not in header:
        return
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


def _print_counts(plan: InflationPlan) -> None:
    """The architecture of a plan, and the number of tensors per origin."""
    architecture, temporal = plan.config.architecture, plan.config.temporal
    blend = f"{temporal.merge_strategy}, alpha {temporal.alpha:g}"
    facts = {
        "architecture": _architecture_text(architecture),
        "preset": ", ".join(matching_presets(architecture)) or "none matches",
        "temporal": f"{temporal.time_mode}, {blend}{_kernel_text(temporal)}",
    }
    _print_facts(facts.items())
    fates: dict[str, list[TensorInfo]] = {
        "copied": [], "temporal, copied": [], "initialised": [], "passed through": []
    }  # fmt: skip
    for tensor in plan.tensors:
        fates[_fate(tensor)].append(tensor.info)
    kept = [Group.of(fate, infos) for fate, infos in fates.items() if infos or fate == "copied"]
    written = Group.of("written", [tensor.info for tensor in plan.tensors])
    _print_groups(kept, by_reason(plan.dropped), [written])


def _fate(tensor: PlannedTensor) -> str:
    if tensor.part == "temporal":
        return "temporal, copied" if isinstance(tensor.origin, str) else "initialised"
    return "copied" if tensor.part == "spatial" else "passed through"


def _architecture_text(architecture: Architecture) -> str:
    levels = shape_text(architecture.attention_levels)
    return (
        f"ch {architecture.ch}, ch_mult {shape_text(architecture.ch_mult)}, "
        f"num_res_blocks {architecture.num_res_blocks}, z_channels {architecture.z_channels}, "
        f"attention {architecture.attn_type}" + (f", also in levels {levels}" if levels else "")
    )


def _scaling_text(architecture: Architecture) -> str:
    """The scaling factor between the decoder's latents and those of diffusion models."""
    factor, shift = architecture.scaling_factor, architecture.shift_factor
    known = scaling_factors(architecture)
    if factor is not None:
        return f"{factor:g}" + (f", shift {shift:g}" if shift else "")
    return f"{', '.join(f'{one:g}' for one in known)}, by preset" if known else "unknown"


def _kernel_text(temporal: Temporal) -> str:
    if temporal.time_mode == "attn-only":
        return ""
    return f", kernel {','.join(map(str, temporal.kernel))}"
