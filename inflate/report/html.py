"""A parity document as one page that needs nothing but itself: no network, no script to be read."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from inflate._version import __version__
from inflate.errors import printable
from inflate.report import summary, text
from inflate.report.summary import Document
from inflate.report.svg import error_plot
from inflate.report.tree import plan_tree

if TYPE_CHECKING:
    from inflate.parity.result import Picture

_TITLES = {
    "bitwise": "Bitwise equal",
    "bitwise with the folded decoder": "Bitwise equal to the folded decoder",
    "within-tolerance": "Within tolerance",
    "within-tolerance with the folded decoder": "Within tolerance of the folded decoder",
    "fail": "Not equal",
}


def as_page(document: Document, pictures: Sequence[Picture] = ()) -> str:
    """A document, and the pictures that it does not hold, as HTML."""
    strips: Sequence[object] = ()
    if pictures:
        # Only pictures need torch: a page of a stored document does without.
        from inflate.report.images import strips as strips_of

        strips = strips_of(pictures)
    # In the order of the probe that has most of them: first, middle, last.
    most_first = sorted(document["probes"], key=lambda probe: -len(probe["parts"]))
    parts = {part["name"]: None for probe in most_first for part in probe["parts"]}
    return render_page(
        "report.html.j2",
        script=_script(),
        document=document,
        title=_title(document),
        tone=summary.tone(document),
        reason=summary.reason(document),
        advice=summary.advice(document),
        strips=strips,
        plot=error_plot(document),
        tree=plan_tree(document["plan"]),
        part_names=list(parts),
        any_worst=any(probe["worst"] for probe in document["probes"]),
        probes=[
            (probe, {part["name"]: part for part in probe["parts"]}) for probe in document["probes"]
        ],
        learning=_learning(document),
        learning_counts=summary.learning_counts(document),
        failed_layers=summary.failing(document["layers"]),
        missed=summary.missed_damages(document),
    )


def render_page(template: str, *, script: str = "", **values: Any) -> str:
    """A template that extends ``base.html.j2`` as a page.

    Args:
        template: its name.
        script: the one script that may run in the page; nothing else is, whatever a text says.
        values: what the template is filled with; texts are escaped.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = "; ".join(
        (
            "default-src 'none'",
            "style-src 'unsafe-inline'",
            "img-src data:",
            f"script-src 'sha256-{digest}'" if script else "script-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    page = _environment().get_template(template)
    return page.render(policy=policy, script=Markup(script), version=__version__, **values)  # noqa: S704 - our own file


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("inflate.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Names come from files: what would move a cursor or turn a line around is shown as it is.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters.update(
        breakable=_breakable,
        error=text.error_text,
        sqnr=text.sqnr_text,
        size=text.bytes_text,
        shape=text.shape_text,
        place=summary.place_text,
    )
    environment.globals.update(
        counted=text.counted,
        multiple_text=summary.multiple_text,
        tolerance_text=summary.tolerance_text,
        floor_of=summary.floor_of,
    )
    return environment


def _breakable(value: str) -> Markup:
    """A text whose long names may go on in the next line, but only behind their dots and lines."""
    return Markup(re.sub(r"(?<=\w)([._/])(?=\w)", r"\1<wbr>", str(escape(printable(value)))))  # noqa: S704 - escaped


def _title(document: Document) -> str:
    overflow = document["overflow"]
    if overflow:
        return f"Overflow in {overflow['dtype']}"
    return _TITLES[summary.verdict_text(document)]


def _script() -> str:
    file = resources.files("inflate.report") / "templates" / "report.js"
    return file.read_text(encoding="utf-8")


def _learning(document: Document) -> list[dict[str, Any]]:
    """The temporal tensors by when they learn, why, and what to change; never first."""
    if document["trainability"] is None:
        return []
    groups: dict[tuple[str, str, str | None], list[str]] = {}
    for tensor in document["trainability"]["tensors"]:
        key = (tensor["learns"], tensor["reason"], tensor["change"])
        groups.setdefault(key, []).append(tensor["name"])
    order = ("never", "next-step", "now")
    return [
        {"learns": learns, "reason": why, "change": change, "names": names}
        for (learns, why, change), names in sorted(
            groups.items(), key=lambda item: order.index(item[0][0])
        )
    ]
