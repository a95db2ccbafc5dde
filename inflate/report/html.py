"""A parity document as one HTML page that makes no network requests."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from inflate._version import __version__
from inflate.display import bytes_text, counted, error_text
from inflate.errors import printable
from inflate.report import summary, text
from inflate.report.plot import error_plot, part_of, time_plot
from inflate.report.summary import Document

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
    """A document as HTML, with pictures, which the document itself does not hold."""
    strips: Sequence[object] = ()
    if pictures:
        # Only pictures need torch; a page of a stored document has none.
        from inflate.report.images import strips as strips_of

        strips = strips_of(pictures)
    overflow, probes = document["overflow"], document["probes"]
    # In the order of the probe with the most parts: first, middle, last.
    most_first = sorted(probes, key=lambda probe: -len(probe["parts"]))
    verdict = summary.verdict_text(document)
    plan: dict[str, list[object]] = {}
    for row in document["plan"]:
        plan.setdefault(part_of(row["name"]), []).append(row)
    return render_page(
        "report.html.j2",
        document=document,
        title=f"Overflow in {overflow['dtype']}" if overflow else _TITLES[verdict],
        strips=strips,
        plot=error_plot(document),
        plan=plan,
        part_names=list({part["name"]: None for probe in most_first for part in probe["parts"]}),
        probes=[(probe, {part["name"]: part for part in probe["parts"]}) for probe in probes],
    )


def render_page(template: str, **values: Any) -> str:
    """A template that extends ``base.html.j2`` as a page; texts in ``values`` are escaped."""
    script = (resources.files("inflate.report") / "templates" / "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
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
        # Names come from files: escape what would move a cursor or reverse a line.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {"breakable": _breakable, "error": error_text, "size": bytes_text}
    environment.globals |= {
        "common_folder": _common_folder,
        "counted": counted,
        "summary": summary,
        "text": text,
        "time_plot": time_plot,
    }
    return environment


def _breakable(value: str) -> Markup:
    """Text in which long names may wrap after dots, dashes and slashes."""
    return Markup(re.sub(r"(?<=\w)([._/])(?=\w)", r"\1<wbr>", str(escape(printable(value)))))  # noqa: S704 - escaped


def _common_folder(paths: Iterable[str]) -> str:
    """The common folder or URL prefix of some files, with its last slash."""
    folder, slash, _ = commonprefix(list(paths)).rpartition("/")  # noqa: RUF071 - cut at a slash
    return folder + slash
