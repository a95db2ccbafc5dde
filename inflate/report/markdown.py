"""A parity document as Markdown of limited size, for GitHub's step summary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from inflate.display import one_line
from inflate.report.facts import PROBE_COLUMNS, facts, probe_rows
from inflate.report.summary import Document, advice, causes, reason, tone, verdict_text
from inflate.report.text import tolerance_text

SIGNS = {"bitwise": "✅", "within-tolerance": "🟡", "fail": "❌"}
_MOST, _ROWS = 10, 40
_LONGEST = 200
_SENTENCE = 800


def as_markdown(document: Document) -> str:
    """A document as GitHub Markdown below 64 kB; long lists have only the first failures."""
    return "\n".join(_lines(document)) + "\n"


def code(text: str, longest: int = _LONGEST) -> str:
    """Text as code, escaped so that it cannot end the code or the table cell."""
    return f"`{_cut(text, longest).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def escaped(text: str, longest: int = _LONGEST) -> str:
    """Text with markup escaped."""
    marks = {c: f"\\{c}" for c in "\\`*_[]#|~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
    return "".join(marks.get(c, c) for c in _cut(text, longest))


def _cut(text: str, longest: int) -> str:
    line = one_line(text)
    return line if len(line) <= longest else line[: longest - 4] + " ..."


def _lines(document: Document) -> Iterator[str]:
    yield f"## {SIGNS[tone(document)]} Parity: {verdict_text(document)}\n"
    yield f"{escaped(reason(document), _SENTENCE)}\n"
    for what, names in causes(document).items():
        more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
        yield f"- {what}: {', '.join(map(code, names[:_MOST]))}{more}"
    if what_to_do := advice(document):
        yield "\n**What to do**\n"
        yield from (f"- {_sentence(text)}" for text in what_to_do[:_MOST])
    yield ""
    yield from _table(("", ""), _facts(document), "facts")
    yield "### Probes\n"
    # List failures first, so that none is left out.
    rows = sorted(probe_rows(document), key=lambda row: row[3] != "fail")
    cells = [(code(row[0]), *map(escaped, row[1:])) for row in rows]
    yield from _table(PROBE_COLUMNS, cells, "probes")
    yield from (f"> {escaped(text)}\n" for text in document["notes"][:_MOST])


def _sentence(text: str) -> str:
    """A sentence with its options and its final command as code."""
    parts = re.split(r"(inflate .*[^.]|--[a-z-]+(?: \w+)?)", text)
    marked = [(code if i % 2 else escaped)(part, _SENTENCE) for i, part in enumerate(parts)]
    return "".join(marked)


def _facts(document: Document) -> list[tuple[str, str]]:
    where = document["environment"]
    device = code(where["device"]) + (" (**no GPU found**)" if where["fallback"] else "")
    return [
        *((side, code(document[side]["path"])) for side in ("reference", "candidate")),
        ("computed", f"{where['dtype']} on {device}, TF32 {'on' if where['tf32'] else 'off'}, "
                     f"torch {code(where['torch'])}"),
        ("tolerance", tolerance_text(document)),
        *((escaped(fact.name), escaped(fact.text)) for fact in facts(document)),
    ]  # fmt: skip


def _table(head: Sequence[str], rows: Sequence[Iterable[str]], what: str) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows[:_ROWS])
    yield f"\nand {len(rows) - _ROWS} more {what}\n" if len(rows) > _ROWS else ""
