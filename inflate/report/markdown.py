"""A parity document as Markdown that fits GitHub's step summary, however much there is to say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from inflate.report.summary import (
    Document,
    advice,
    better_decoder,
    causes,
    failing,
    learning_counts,
    mean_texts,
    measure_text,
    missed_damages,
    multiple_text,
    place_text,
    quality_probes,
    reason,
    tolerance_text,
    tone,
    verdict_text,
)
from inflate.report.text import error_text, one_line, shape_text, sqnr_text, with_names

SIGNS = {"bitwise": "✅", "within-tolerance": "🟡", "fail": "❌"}
_MOST = 10
_LONGEST = 200


def as_markdown(document: Document) -> str:
    """A document as GitHub's Markdown, below 64 kB: of long lists, only the first that fail."""
    return "\n".join(_lines(document)) + "\n"


def code(text: str, longest: int = _LONGEST) -> str:
    """A text as code, in which nothing can end the code or the cell of a table."""
    return f"`{_cut(text, longest).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def escaped(text: str) -> str:
    """A text in which nothing is markup."""
    marks = {c: f"\\{c}" for c in "\\`*_[]#|~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
    return "".join(marks.get(c, c) for c in _cut(text))


def _cut(text: str, longest: int = _LONGEST) -> str:
    line = one_line(text)
    return line if len(line) <= longest else line[: longest - 4] + " ..."


def _sentence(text: str) -> str:
    return with_names(text, code, escaped)


def _lines(document: Document) -> Iterator[str]:
    yield f"## {SIGNS[tone(document)]} Parity: {verdict_text(document)}\n"
    yield f"{reason(document, _sentence)}\n"
    for what, names in causes(document).items():
        more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
        yield f"- {what}: {', '.join(map(code, names[:_MOST]))}{more}"
    if what_to_do := advice(document, _sentence):
        yield "\n**What to do**\n"
        yield from (f"- {text}" for text in what_to_do[:_MOST])
    yield ""
    yield from _table(("", ""), list(_facts(document).items()))
    yield from _probes(document)
    yield from _layers(document)
    yield from _quality(document)
    yield from (f"> {escaped(text)}\n" for text in document["notes"][:_MOST])


def _facts(document: Document) -> dict[str, str]:
    where, weights = document["environment"], document["weights"]
    device = code(where["device"]) + (" (**no GPU found**)" if where["fallback"] else "")
    facts = {
        "reference": code(document["reference"]["path"]),
        "candidate": code(document["candidate"]["path"]),
        "computed": f"{where['dtype']} on {device}, TF32 {'on' if where['tf32'] else 'off'}, "
        f"torch {code(where['torch'])}",
        "tolerance": tolerance_text(document),
    }
    if multiple := multiple_text(document):
        facts["largest error"] = f"{error_text(document['max_abs_error'])}, {multiple}"
    if weights["compared"]:
        facts["copied tensors"] = f"{weights['compared']} compared, {weights['different']} differ"
    if (counts := learning_counts(document)) is not None:
        facts["temporal tensors learn"] = (
            f"{counts['now']} now, {counts['next-step']} from the next step, "
            f"{counts['never']} never"
        )
    if document["self_test"] is not None:
        damages, missed = document["self_test"]["damages"], missed_damages(document)
        facts["self-test"] = f"{len(damages) - len(missed)} of {len(damages)} damages detected"
    return facts


def _probes(document: Document) -> Iterator[str]:
    # Those that fail first, so that none of them is left out.
    probes = sorted(document["probes"], key=lambda probe: probe["verdict"] != "fail")
    yield "### Probes\n"
    yield from _table(
        ("probe", "latents", "frames", "verdict", "largest error", "parts that fail", "worst"),
        [
            (
                code(probe["name"]),
                shape_text(probe["shape"]),
                probe["frames"],
                f"{SIGNS[probe['verdict']]} {probe['verdict']}",
                error_text(probe["max_abs_error"]),
                escaped(", ".join(part["name"] for part in failing(probe["parts"])[:_MOST])),
                place_text(probe["worst"]),
            )
            for probe in probes
        ],
        "probes",
        4 * _MOST,
    )


def _layers(document: Document) -> Iterator[str]:
    bad = failing(document["layers"])
    if document["layers"]:
        yield f"### Layers: {len(document['layers'])} compared, {len(bad)} out of tolerance\n"
    if bad:
        yield from _table(
            ("layer", "kind", "largest error", "mean", "SQNR"),
            [
                (
                    code(layer["name"]),
                    code(layer["kind"]),
                    *(error_text(layer["errors"][key]) for key in ("max_abs", "mean_abs")),
                    sqnr_text(layer["errors"]),
                )
                for layer in bad
            ],
            "layers",
        )


def _quality(document: Document) -> Iterator[str]:
    for probe in quality_probes(document):
        yield f"### Quality of {code(probe['probe'])} against the real frames\n"
        yield from _table(
            ("mean", "image decoder", "video decoder", "better"),
            [(measure_text(m), *mean_texts(m), better_decoder(m)) for m in probe["measures"]],
        )


def _table(
    head: Sequence[str], rows: Sequence[Iterable[object]], what: str = "", most: int = _MOST
) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    yield from (f"| {' | '.join(map(str, row))} |" for row in rows[:most])
    yield f"\nand {len(rows) - most} more {what}\n" if len(rows) > most else ""
