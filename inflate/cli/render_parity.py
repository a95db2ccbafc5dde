"""The document of a parity report on a terminal: the verdict, why, what to do, the numbers."""

from __future__ import annotations

from rich.text import Text

from inflate.cli.console import print_table, print_text
from inflate.report.facts import PROBE_COLUMNS, facts, probe_rows
from inflate.report.summary import (
    Document,
    advice,
    causes,
    reason,
    tone,
    verdict_text,
)
from inflate.report.text import error_text, listed

_COLOURS = {"bitwise": "green", "within-tolerance": "yellow", "fail": "red"}
_MOST = 5
"""Names of a cause."""


def print_document(document: Document) -> None:
    """Print the document of a report."""
    failed, where = document["verdict"] == "fail", document["environment"]
    verdict = "FAIL" if failed else verdict_text(document)
    line = Text("parity: " if document["trained"] is None else "parity without temporal layers: ")
    line.append(verdict, f"bold {_COLOURS[tone(document)]}")
    line.append(f"  (largest error {error_text(document['max_abs_error'])}, ")
    computed = f"{where['dtype']} on {where['device']}"
    if where["fallback"]:
        computed += ", no GPU was found"
    line.append(computed, "bold yellow" if where["fallback"] else "").append(")")
    print_text(line)
    if verdict != "bitwise":
        print_text(Text(reason(document)))
    if failed:
        for what, names in causes(document).items():
            print_text(Text.assemble(("cause: ", "bold"), f"{what}: {listed(names, _MOST)}"))
    for sentence in advice(document):
        print_text(Text.assemble(("next:  ", "bold"), sentence))
    shown = (0, 3, 4, 5, 6) if failed else (0, 1, 2, 3, 4)
    rows = [
        [Text(cell, _COLOURS.get(cell, "")) for cell in map(row.__getitem__, shown)]
        for row in probe_rows(document)
    ]
    print_table([PROBE_COLUMNS[column] for column in shown], rows)
    for fact in facts(document):
        print_text(Text(f"{fact.name}: {fact.text}", "yellow" if fact.alarm else ""))
