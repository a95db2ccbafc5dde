"""A parity report as text for people: the verdict, the table behind it, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from inflate.cli.console import safe_console
from inflate.report.summary import (
    Document,
    advice,
    failing,
    floor_of,
    fold_text,
    guilty_modules,
    learning_counts,
    learning_text,
    missed_damages,
    multiple_text,
    never_learning,
    place_text,
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


def print_parity(report: ParityReport) -> None:
    """A report: its verdict first, then the numbers, then what to do."""
    from inflate.report.documents import parity_document

    print_document(parity_document(report))


def print_document(document: Document) -> None:
    """The same of a document."""
    console = safe_console()
    where, fold = document["environment"], fold_text(document)
    said = Text.assemble(
        "parity: ",
        (verdict_text(document), f"bold {_COLOURS[tone(document)]}"),
        f"  (largest error {error_text(document['max_abs_error'])}, ",
        (f"{fold}, " if fold else "", "bold yellow"),
        f"{where['dtype']} on ",
    )
    said.append(
        one_line(where["device"]) + (", no GPU was found" if where["fallback"] else ""),
        "bold yellow" if where["fallback"] else "",
    )
    console.print(said.append(")"), soft_wrap=True)
    if document["verdict"] != "bitwise":
        console.print(Text(one_line(reason(document))), soft_wrap=True)
    console.print(_probes(document["probes"]))
    for text, style in _facts(document):
        console.print(Text(one_line(text), style), soft_wrap=True)
    for text in advice(document):
        console.print(Text.assemble(("to do: ", "bold"), one_line(text)), soft_wrap=True)


def _probes(probes: list[dict[str, Any]]) -> Table:
    table = Table("probe", "latents", "frames", "verdict", "largest error", box=None)
    detailed = any(probe["verdict"] == "fail" and probe["worst"] for probe in probes)
    if detailed:
        table.add_column("parts that fail")
        table.add_column("worst at")
    for probe in probes:
        cells = [
            Text(one_line(probe["name"])),
            Text(shape_text(probe["shape"])),
            Text(str(probe["frames"])),
            Text(probe["verdict"], _COLOURS[probe["verdict"]]),
            Text(error_text(probe["max_abs_error"])),
        ]
        if detailed and probe["verdict"] == "fail":
            cells += [Text(_parts_text(probe["parts"])), Text(place_text(probe["worst"]))]
        table.add_row(*cells)
    return table


def _parts_text(parts: list[dict[str, Any]]) -> str:
    names = [one_line(part["name"]) for part in failing(parts)]
    return "all" if len(names) == len(parts) > 1 else ", ".join(names)


def _facts(document: Document) -> Iterator[tuple[str, str]]:
    """Further lines, a part of the report each, with their styles."""
    layers, bad = document["layers"], failing(document["layers"])
    if layers:
        first = document["first_divergence"]
        text = f"layers: {len(layers)} compared, {len(bad)} out of tolerance"
        yield text + (f", first {first}" if first is not None else ""), "red" if bad else ""
    if (floor := floor_of(document)) is not None:
        multiple = multiple_text(document)
        yield (
            f"noise floor: {error_text(floor)}"
            + (f"; the error is {multiple}" if multiple else ""),
            "",
        )
    yield from _weights(document["weights"])
    if document["fold"] is not None:
        fold = {key: error_text(value) for key, value in document["fold"].items()}
        yield (
            "fold: post_quant_conv in conv_in changes its output by up to {border} on the border "
            "and {inside} inside, the images by up to {output}".format(**fold),
            "",
        )
    if (cast := document["cast"]) is not None:
        yield (
            f"cast: {cast['source_dtype']} to {cast['stored_dtype']} changes the image decoder's "
            f"output by up to {error_text(cast['max_abs_error'])}",
            "",
        )
    if document["bisect"] is not None:
        guilty = guilty_modules(document)
        yield (
            f"bisect: {'guilty: ' + ', '.join(guilty) if guilty else 'no temporal module is'}",
            "",
        )
    yield from _learning(document)
    yield from _trained(document)
    if document["self_test"] is not None:
        damages, missed = document["self_test"]["damages"], missed_damages(document)
        text = f"self-test: {len(damages) - len(missed)} of {len(damages)} damages noticed"
        yield (
            text + (f"; not noticed: {', '.join(missed)}" if missed else ""),
            "red" if missed else "",
        )


def _learning(document: Document) -> Iterator[tuple[str, str]]:
    counts = learning_counts(document)
    if counts is None:
        return
    yield learning_text(counts), ""
    for reason_, tensors in never_learning(document).items():
        names = ", ".join(t["name"] for t in tensors[:_FEW])
        more = f" and {len(tensors) - _FEW} more; --json lists them" if len(tensors) > _FEW else ""
        style = "yellow" if any(t["change"] for t in tensors) else ""
        yield f"  never, {len(tensors)}: {reason_}: {names}{more}", style


def _trained(document: Document) -> Iterator[tuple[str, str]]:
    trained = document.get("trained")
    if trained is None:
        return
    for problem in trained["problems"]:
        yield f"trained: {problem}", "red"
    yield (
        f"trained: outputs differ from the image decoder's by up to "
        f"{error_text(trained['max_abs_difference'])}, "
        f"{error_text(trained['relative_difference'])} of them in root mean square",
        "",
    )
    for part in trained["movements"]:
        far = f"{error_text(part['distance'])} from the start"
        if part["relative"] is not None:
            far += f", {error_text(part['relative'])} of its norm"
        yield f"  {part['part']}: {part['moved']} of {part['tensors']} tensors moved, {far}", ""


def _weights(weights: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if weights["compared"]:
        yield f"weights: {weights['compared']} compared, {weights['different']} different", ""
    for name in weights["names"][:_MOST]:
        yield f"  differs from its source: {name}", "red"
    if weights["different"] > _MOST:
        yield f"  and {weights['different'] - _MOST} more; --json lists them", "red"
    temporal = weights["temporal"]
    if temporal is not None:
        changed = len(temporal["changed"])
        yield (
            f"temporal: {temporal['compared']} compared, {changed} changed since they were made",
            "",
        )
