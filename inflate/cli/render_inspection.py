"""An inspection as text for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from inflate.cli.console import safe_console
from inflate.cli.text import architecture_text, kernel_text
from inflate.report.summary import verdict_text
from inflate.report.text import bytes_text, one_line
from inflate.vocabulary import COMPARED_WITH_KEY, VERDICT_KEY
from inflate.workflow.header import SOURCE_BLEND_KEY
from inflate.workflow.inspection import Inspection


def print_inspection(found: Inspection) -> None:
    """What a file holds, a fact a line, then its parts and what stands in the way."""
    console = safe_console()
    for name, fact in _facts(found):
        console.print(Text(one_line(f"{name:<14}{fact}")), soft_wrap=True)
    table = Table("part", "tensors", "parameters", "bytes", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    groups = [(group.name, group) for group in found.parts]
    groups += [(f"dropped: {group.name}", group) for group in found.dropped]
    for name, group in groups:
        table.add_row(
            Text(name), str(group.tensors), f"{group.parameters:,}", bytes_text(group.nbytes)
        )
    console.print(table)
    if not found.obstacles:
        left = sum(group.tensors for group in found.dropped)
        console.print(
            Text(
                one_line(
                    f"convert would copy {found.copied} tensors into the decoder, keep "
                    f"{found.passed_through} beside it, leave {left} behind, and write "
                    f"{found.would_write}"
                ),
                style="green",
            ),
            soft_wrap=True,
        )
    for obstacle in found.obstacles:
        console.print(Text(one_line(f"in the way: {obstacle}"), style="yellow"), soft_wrap=True)


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    yield "file", str(found.path)
    count = f", {len(found.files.weights)} files" if len(found.files.weights) > 1 else ""
    yield "format", found.files.format + count
    yield "types", ", ".join(f"{dtype} ({n})" for dtype, n in found.dtypes.items())
    if found.names is not None:
        yield "names", {"ldm": "LDM and sgm", "diffusers": "diffusers"}[found.names]
        yield "prefix", found.prefix or "(none)"
    if found.architecture is not None:
        yield "architecture", architecture_text(found.architecture)
        yield "preset", ", ".join(found.presets) or "none of this shape"
    if found.temporal is not None:
        mode = found.temporal.time_mode
        kernel = "" if mode == "attn-only" else f", kernel {kernel_text(found.temporal.kernel)}"
        yield "temporal", mode + kernel
    if found.blend is not None:
        yield "blend", f"{found.blend.strategy or 'unknown'}: {found.blend.reason}"
    if found.has_ema:
        yield "averages", "moving averages of the weights are beside them: --weights ema"
    if found.foreign:
        yield "foreign", ", ".join(found.foreign) + " (replaced by inert stand-ins)"
    if found.fingerprint is not None:
        yield "fingerprint", found.fingerprint
    header = found.metadata
    if "inflate.source.name" in header:
        yield "source.name", header["inflate.source.name"]
    if VERDICT_KEY in header:
        compared_with = header.get(COMPARED_WITH_KEY)
        verdict = verdict_text({"verdict": header[VERDICT_KEY], "compared_with": compared_with})
        if SOURCE_BLEND_KEY in header:
            name = header.get("inflate.source.name", "a video checkpoint")
            verdict += f", as a copy of {name}; not compared with an image decoder"
        if found.changed:
            verdict += "; the tensors changed after the check, so this is not about them"
        yield "verdict", verdict
