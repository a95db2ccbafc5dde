"""A parity document as Markdown that fits GitHub's step summary, however much it has to tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from inflate.report.summary import (
    Document,
    advice,
    failing,
    learning_counts,
    multiple_text,
    place_text,
    reason,
    tolerance_text,
    tone,
    verdict_text,
)
from inflate.report.text import error_text, one_line, shape_text, sqnr_text

SIGNS = {"bitwise": "✅", "within-tolerance": "🟡", "fail": "❌"}
_MOST = 10
_LONGEST = 200


def as_markdown(document: Document) -> str:
    """A document as GitHub's Markdown, below 64 kB: of long lists, only the first that fail."""
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Document) -> Iterator[str]:
    yield f"## {SIGNS[tone(document)]} Parity: {verdict_text(document)}"
    yield ""
    yield _plain(reason(document))
    told = advice(document)
    if told:
        yield ""
        yield "**What to do**"
        yield ""
        yield from (f"- {_plain(text)}" for text in told[:_MOST])
    yield ""
    yield from _environment(document)
    yield from _probes(document)
    yield from _layers(document)
    yield from _rest(document)


def _environment(document: Document) -> Iterator[str]:
    where = document["environment"]
    device = _code(where["device"]) + (" (**no GPU was found**)" if where["fallback"] else "")
    facts = {
        "reference": _code(document["reference"]["path"]),
        "candidate": _code(document["candidate"]["path"]),
        "computed": f"{where['dtype']} on {device}, TF32 {'on' if where['tf32'] else 'off'}, "
        f"torch {_code(where['torch'])}",
        "tolerance": tolerance_text(document),
    }
    if multiple := multiple_text(document):
        facts["largest error"] = f"{error_text(document['max_abs_error'])}, {multiple}"
    if (counts := learning_counts(document)) is not None:
        facts["temporal tensors learn"] = (
            f"{counts['now']} now, {counts['next-step']} from the next step, "
            f"{counts['never']} never"
        )
    yield from _table(("", ""), facts.items())


def _probes(document: Document) -> Iterator[str]:
    probes = document["probes"]
    yield "### Probes"
    yield ""
    # Those that fail first, so that none of them is left out.
    ordered = sorted(probes, key=lambda probe: probe["verdict"] != "fail")[: 4 * _MOST]
    yield from _table(
        ("probe", "latents", "frames", "verdict", "largest error", "parts that fail", "worst"),
        (
            (
                _code(probe["name"]),
                shape_text(probe["shape"]),
                probe["frames"],
                f"{SIGNS[probe['verdict']]} {probe['verdict']}",
                error_text(probe["max_abs_error"]),
                _plain(", ".join(part["name"] for part in failing(probe["parts"])[:_MOST])),
                place_text(probe["worst"]),
            )
            for probe in ordered
        ),
    )
    yield from _left_out(len(probes) - len(ordered), "probes")


def _layers(document: Document) -> Iterator[str]:
    layers = document["layers"]
    if not layers:
        return
    bad = failing(layers)
    yield f"### Layers: {len(layers)} compared, {len(bad)} out of tolerance"
    yield ""
    if not bad:
        return
    yield from _table(
        ("layer", "kind", "largest error", "mean", "SQNR"),
        (
            (
                _code(layer["name"]),
                _code(layer["kind"]),
                error_text(layer["errors"]["max_abs"]),
                error_text(layer["errors"]["mean_abs"]),
                sqnr_text(layer["errors"]),
            )
            for layer in bad[:_MOST]
        ),
    )
    yield from _left_out(len(bad) - _MOST, "layers")


def _rest(document: Document) -> Iterator[str]:
    weights = document["weights"]
    if weights["compared"]:
        yield f"Weights: {weights['compared']} compared, {weights['different']} different."
        yield ""
        yield from (f"- {_code(name)}" for name in weights["names"][:_MOST])
        yield from _left_out(len(weights["names"]) - _MOST, "tensors")
    damages = (document["self_test"] or {"damages": []})["damages"]
    if damages:
        caught = sum(damage["caught_by"] is not None for damage in damages)
        yield f"The check's own test: {caught} of {len(damages)} damages noticed."
        yield ""
    yield from (f"> {_plain(text)}\n" for text in document["notes"][:_MOST])


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    head = list(head)
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
    yield ""


def _left_out(number: int, what: str) -> Iterator[str]:
    if number > 0:
        yield f"\nand {number} more {what}\n"


def _cut(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 4] + " ..."


def _code(text: str) -> str:
    """A name as code, in which nothing can end the code or the cell of a table."""
    return f"`{_cut(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _plain(text: str) -> str:
    """A sentence in which nothing is markup."""
    marks = {c: f"\\{c}" for c in "\\`*_[]#|~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
    return "".join(marks.get(c, c) for c in _cut(text))
