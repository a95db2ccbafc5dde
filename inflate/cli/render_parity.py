"""Print a parity report on a terminal: verdict, reason, what to do, measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from inflate.cli.console import print_table, print_text
from inflate.display import error_text
from inflate.report.facts import PROBE_COLUMNS, facts, probe_rows
from inflate.report.summary import Document, advice, causes, reason, tone, verdict_text
from inflate.report.text import listed, multiple_text

_COLOURS = {"bitwise": "green", "within-tolerance": "yellow", "fail": "red"}
_MOST = 5
"""How many names of a cause are printed."""

_FAULTY, _CHANGED = "Faulty temporal modules", "Temporal tensors changed since the conversion"
_PHRASES = {
    "Made from another checkpoint": (
        "the candidate was made from {}, not from the reference", "checkpoint",
    ),
    "Tensors that hold NaN or infinity": ("NaN or infinity in {}", "tensor"),
    "Copied tensors that differ from the source": ("not the reference's: {}", "copied tensor"),
    _FAULTY: ("at fault: {}", "temporal module"),
    _CHANGED: ("{} changed since conversion", "temporal tensor"),
}  # fmt: skip
"""A short text per cause in the summary, and the kind of thing that its names denote."""


def print_document(document: Document) -> None:
    """Print the document of a report."""
    failed = document["verdict"] == "fail"
    if failed:
        for label, text in _failure(document):
            line = Text.assemble((f"{label + ':':<8}", "bold"), text)
            line.highlight_regex(r"^parity: +FAIL", "bold red")
            print_text(line)
    else:
        print_text(_first_line(document))
        if verdict_text(document) != "bitwise":
            print_text(Text(reason(document)))
        for sentence in advice(document):
            print_text(Text.assemble(("next:  ", "bold"), sentence))
    shown = (0, 3, 4, 5, 6) if failed else (0, 1, 2, 3, 4)
    rows = [
        [Text(cell, _COLOURS.get(cell, "")) for cell in map(row.__getitem__, shown)]
        for row in probe_rows(document)
    ]
    print_table([PROBE_COLUMNS[column] for column in shown], rows)
    if failed:
        print_text(Text(f"computed: {_where(document)}"))
    for fact in facts(document):
        print_text(Text(f"{fact.name}: {fact.text}", "yellow" if fact.alarm else ""))


def _first_line(document: Document) -> Text:
    line = Text("parity: " if document["trained"] is None else "parity without temporal layers: ")
    line.append(verdict_text(document), f"bold {_COLOURS[tone(document)]}")
    line.append(f"  (largest error {error_text(document['max_abs_error'])}, ")
    alarm = document["environment"]["fallback"]
    return line.append(_where(document), "bold yellow" if alarm else "").append(")")


def _where(document: Document) -> str:
    where = document["environment"]
    no_gpu = ", no GPU was found" if where["fallback"] else ""
    return f"{where['dtype']} on {where['device']}{no_gpu}"


def _failure(document: Document) -> Iterator[tuple[str, str]]:
    """The first lines of a failure: each line's label and text."""
    tolerance, multiple = document["tolerance"], multiple_text(document)
    floor = f", {multiple.replace(' times the ', ' x ')}" if multiple else ""
    yield (
        "parity",
        f"FAIL   largest error {error_text(document['max_abs_error'])} "
        f"(limit {tolerance['atol']:g} + {tolerance['rtol']:g} |ref|){floor}",
    )
    yield "cause", _cause(document)
    first, weights = document["first_divergence"], document["weights"]
    found = [f"layer {first}"] if first is not None else []
    if weights["compared"]:
        different = weights["different"]
        equal = weights["compared"] - different
        found.append(
            f"spatial weights: {equal} equal, {different} different"
            if different
            else f"spatial weights: all {equal} equal"
        )
    if found:
        yield "first", "   |   ".join(found)
    for sentence in advice(document):
        _, command, arguments = sentence.rpartition(": inflate ")
        yield "next", f"inflate {arguments}" if command else sentence


def _cause(document: Document) -> str:
    found = causes(document)
    if len(found.get(_CHANGED, ())) == 1:
        found.pop(_FAULTY, None)  # The tensor is more specific than its module.
    if document["overflow"] is None:
        for what, (phrase, kind) in _PHRASES.items():
            if what in found:
                return phrase.format(_named(found[what], kind))
    return reason(document)


def _named(names: Sequence[str], kind: str) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} {kind}s ({listed(names, _MOST)})"
