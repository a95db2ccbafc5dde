"""A parity report as text: the verdict and its cause, then the table behind it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from inflate.cli.console import print_text, safe_console
from inflate.report.summary import (
    Document,
    advice,
    failing,
    floor_of,
    fold_text,
    guilty_modules,
    learning_counts,
    learning_text,
    mean_texts,
    measure_text,
    missed_damages,
    multiple_text,
    never_learning,
    quality_probes,
    reason,
    tone,
    verdict_text,
)
from inflate.report.text import error_text, one_line, shape_text

if TYPE_CHECKING:
    from inflate.parity.result import ParityReport

_COLOURS = {"bitwise": "green", "within-tolerance": "yellow", "fail": "red"}
_MOST = 10
_FEW = 3
_INDENT = 8
"""Columns that ``cause:`` and the other labels of a failure take."""

Lines = Iterator[tuple[str, str]]
"""Lines with their styles."""


def print_parity(report: ParityReport) -> None:
    """Print a report: its verdict first, then the numbers."""
    from inflate.report.documents import parity_document

    print_document(parity_document(report))


def print_document(document: Document) -> None:
    """Print the document of a report; see :func:`print_parity`."""
    console = safe_console()
    failed = document["verdict"] == "fail"
    if failed:
        for label, text in _failure(document):
            line = Text.assemble((f"{label + ':':<{_INDENT}}", "bold"), one_line(text))
            line.highlight_regex(r"^parity: +FAIL", "bold red")
            print_text(console, line, _INDENT)
    else:
        print_text(console, _first_line(document))
        if document["verdict"] != "bitwise":
            print_text(console, one_line(reason(document)))
    console.print(_failed_probes(document) if failed else _probes(document["probes"]))
    for text, style in _facts(document):
        print_text(console, Text(one_line(text), style), len(text) - len(text.lstrip()))
    advised = advice(document)
    for text in advised[1:] if failed else advised:
        print_text(console, Text.assemble(("to do: ", "bold"), one_line(text)), len("to do: "))


def _first_line(document: Document) -> Text:
    fold = fold_text(document)
    trained = document.get("trained") is not None
    line = Text.assemble(
        "parity without temporal layers: " if trained else "parity: ",
        (verdict_text(document), f"bold {_COLOURS[tone(document)]}"),
        f"  (largest error {error_text(document['max_abs_error'])}, ",
        (f"{fold}, " if fold else "", "bold yellow"),
    )
    style = "bold yellow" if document["environment"]["fallback"] else ""
    return line.append(_where(document), style).append(")")


def _where(document: Document) -> str:
    where = document["environment"]
    no_gpu = ", no GPU was found" if where["fallback"] else ""
    return one_line(f"{where['dtype']} on {where['device']}{no_gpu}")


def _failure(document: Document) -> Iterator[tuple[str, str]]:
    """What a failure begins with: each line's label and text."""
    tolerance, multiple = document["tolerance"], multiple_text(document)
    yield (
        "parity",
        f"FAIL   largest error {error_text(document['max_abs_error'])} "
        f"(limit {tolerance['atol']:g} + {tolerance['rtol']:g} |ref|)"
        + (f", {multiple.replace(' times the ', ' x ')}" if multiple else ""),
    )
    yield "cause", _cause(document)
    first, weights = document["first_divergence"], document["weights"]
    found = [f"layer {first}"] if first is not None else []
    if weights["compared"]:
        equal = weights["compared"] - weights["different"]
        found.append(f"spatial weights: {'all ' if not weights['different'] else ''}{equal} equal")
        if weights["different"]:
            found[-1] += f", {weights['different']} different"
    if found:
        yield "first", "   |   ".join(found)
    yield "next", _next_step(document)


def _cause(document: Document) -> str:
    weights = document["weights"]
    changed = (weights["temporal"] or {"changed": []})["changed"]
    if (name := _other_source(document)) is not None:
        return f"CANDIDATE was made from {name}, not from REFERENCE"
    if document["overflow"] is not None:
        return reason(document)
    if bad := document.get("not_finite"):
        return f"{_named(bad, 'tensor')} {'holds' if len(bad) == 1 else 'hold'} NaN or infinity"
    if weights["different"]:
        verb = "differs" if weights["different"] == 1 else "differ"
        return f"{_named(weights['names'], 'copied tensor')} {verb} from REFERENCE"
    faulty = guilty_modules(document)
    if faulty and len(changed) != 1:
        return f"{_named(faulty, 'temporal module')} changes the output"
    if changed:
        return f"{_named(changed, 'temporal tensor')} changed since conversion"
    return "unknown: every tensor that can be compared is equal"


def _other_source(document: Document) -> str | None:
    """The checkpoint that the candidate was made from, where the reference holds other weights."""
    source = document.get("recorded_source")
    if source is None or source["given"] or not document["weights"]["different"]:
        return None
    return source["name"] or "another checkpoint"


def _next_step(document: Document) -> str:
    """The command that finds the faulty module, or the first advice."""
    settled = document["overflow"], document["bisect"], document.get("not_finite")
    if any(settled) or document["weights"]["different"]:
        return next(iter(advice(document)), "inflate convert REFERENCE, and verify again")
    paths = dict.fromkeys(document[side]["path"] for side in ("reference", "candidate"))
    return f"inflate verify {shlex.join(paths)} --bisect"


def _named(names: Sequence[str], kind: str) -> str:
    """One name, or a number of things and the first of their names."""
    if len(names) == 1:
        return names[0]
    return f"{len(names)} {kind}s ({names[0]}, ...)"


def _probes(probes: list[dict[str, Any]]) -> Table:
    table = Table("probe", "latents", "frames", "verdict", "largest error", box=None)
    for probe in probes:
        name, verdict, error = _judged(probe)
        table.add_row(name, shape_text(probe["shape"]), str(probe["frames"]), verdict, error)
    return table


def _failed_probes(document: Document) -> Table:
    """The probes of a failure: where each fails in place of its shape, to fit 80 columns."""
    table = Table("probe", "verdict", "largest error", box=None)
    table.add_column("worst at")
    for column in table.columns:
        column.no_wrap = True
    table.add_column("parts that fail")
    for probe in document["probes"]:
        cells = [*_judged(probe)]
        if probe["verdict"] == "fail" and probe["worst"]:
            cells += [Text(",".join(map(str, probe["worst"].values())))]
            cells += [Text(_parts_text(probe["parts"]))]
        table.add_row(*cells)
    return table


def _judged(probe: dict[str, Any]) -> tuple[Text, Text, Text]:
    return (
        Text(one_line(probe["name"])),
        Text(probe["verdict"], _COLOURS[probe["verdict"]]),
        Text(error_text(probe["max_abs_error"])),
    )


def _parts_text(parts: list[dict[str, Any]]) -> str:
    names = [one_line(part["name"]) for part in failing(parts)]
    return "all" if len(names) == len(parts) > 1 else ", ".join(names)


def _facts(document: Document) -> Lines:
    """Further lines, one for each part of the report."""
    failed = document["verdict"] == "fail"
    if failed:
        style = "bold yellow" if document["environment"]["fallback"] else ""
        yield f"computed: {_where(document)}", style
        if any(probe["worst"] for probe in document["probes"]):
            yield "worst at: video, frame, channel, row, column, counted from 0", ""
        if fold := fold_text(document):
            yield fold, "bold yellow"
    layers, bad = document["layers"], failing(document["layers"])
    if layers:
        yield (
            f"layers: {len(layers)} compared, {len(bad)} out of tolerance",
            "red" if bad else "",
        )
    if (floor := floor_of(document)) is not None:
        multiple = multiple_text(document)
        yield (
            f"noise floor: {error_text(floor)}"
            + (f"; the error is {multiple}" if multiple else ""),
            "",
        )
    yield from _weights(document["weights"], document.get("not_finite") or (), failed=failed)
    if document["fold"] is not None:
        fold_errors = {key: error_text(value) for key, value in document["fold"].items()}
        yield (
            "fold: post_quant_conv in conv_in changes its output by up to {border} on the border "
            "and {inside} inside, the images by up to {output}".format(**fold_errors),
            "",
        )
    if (cast := document["cast"]) is not None:
        yield (
            f"cast: {cast['source_dtype']} to {cast['stored_dtype']} changes the image decoder's "
            f"output by up to {error_text(cast['max_abs_error'])}",
            "",
        )
    if document["bisect"] is not None:
        faulty = guilty_modules(document)
        yield f"bisect: {'faulty: ' + ', '.join(faulty) if faulty else 'no faulty module'}", ""
    yield from _learning(document)
    yield from _trained(document)
    yield from _quality(document)
    if document["self_test"] is not None:
        damages, missed = document["self_test"]["damages"], missed_damages(document)
        text = f"self-test: {len(damages) - len(missed)} of {len(damages)} corruptions detected"
        yield (
            text + (f"; not detected: {', '.join(missed)}" if missed else ""),
            "red" if missed else "",
        )


def _learning(document: Document) -> Lines:
    counts = learning_counts(document)
    if counts is None:
        return
    yield learning_text(counts), ""
    for why, tensors in never_learning(document).items():
        names = ", ".join(t["name"] for t in tensors[:_FEW])
        more = f" and {len(tensors) - _FEW} more; --json lists them" if len(tensors) > _FEW else ""
        style = "yellow" if any(t["change"] for t in tensors) else ""
        yield f"  never, {len(tensors)}: {why}: {names}{more}", style


def _trained(document: Document) -> Iterator[tuple[str, str]]:
    trained = document.get("trained")
    if trained is None:
        return
    for problem in trained["problems"]:
        yield f"trained: {problem}", "red"
    yield (
        f"trained: with temporal layers, outputs differ by at most "
        f"{error_text(trained['max_abs_difference'])} "
        f"(relative RMS {error_text(trained['relative_difference'])})",
        "",
    )
    for part in trained["movements"]:
        far = f"{error_text(part['distance'])} from the start"
        if part["relative"] is not None:
            far += f", {error_text(part['relative'])} of its norm"
        yield f"  {part['part']}: {part['moved']} of {part['tensors']} tensors moved, {far}", ""


def _quality(document: Document) -> Lines:
    for probe in quality_probes(document):
        means = [f"{measure_text(m)} {' -> '.join(mean_texts(m))}" for m in probe["measures"]]
        yield f"quality of {probe['probe']}, image -> video decoder: {', '.join(means)}", ""


def _weights(weights: dict[str, Any], not_finite: Sequence[str], *, failed: bool) -> Lines:
    if weights["compared"]:
        yield f"weights: {weights['compared']} compared, {weights['different']} different", ""
    temporal = weights["temporal"] or {"changed": []}
    yield from _listed("differs from its source", weights["names"])
    if weights["temporal"] is not None:
        changed = len(temporal["changed"])
        yield f"temporal: {temporal['compared']} compared, {changed} changed since conversion", ""
    if failed:
        yield from _listed("changed since conversion", temporal["changed"])
        yield from _listed("holds NaN or infinity", not_finite)


def _listed(what: str, names: Sequence[str]) -> Lines:
    for name in names[:_MOST]:
        yield f"  {what}: {name}", "red"
    if len(names) > _MOST:
        yield f"  and {len(names) - _MOST} more; --json lists them", "red"
