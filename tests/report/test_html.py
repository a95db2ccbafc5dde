"""The page as text: it loads nothing, runs one script, and shows names as names."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser

import pytest
from jinja2 import DictLoader

from inflate.report import html
from inflate.report.html import as_page, render_page
from inflate.report.summary import reason

from .building import (
    BARE,
    EQUAL,
    FIRST,
    GUILTY,
    HOSTILE,
    REPORTS,
    document_of,
    shown_verdict,
)

VOID = {"meta", "img", "input", "br", "wbr"}


class Page(HTMLParser):
    """A page's elements, its text, and whether everything that opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element opens, unless it is one that never has content."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element without content, of SVG."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """The element that opened last closes."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Words between the elements."""
        self.words.append(data)

    @property
    def text(self) -> str:
        """All words, single spaces between them."""
        return " ".join("".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of a name."""
        return [attributes for name, attributes in self.elements if name == tag]

    def ids(self) -> list[str | None]:
        """Every id."""
        return [a["id"] for _, a in self.elements if "id" in a]


@pytest.mark.parametrize("name", REPORTS)
def test_it_loads_nothing_and_allows_nothing(name: str) -> None:
    text = as_page(document_of(name), REPORTS[name].pictures)
    page = Page(text)
    (policy,) = [
        a["content"] or ""
        for a in page.all("meta")
        if a.get("http-equiv") == "Content-Security-Policy"
    ]
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        f"script-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert page.all("link") == []
    for _, attributes in page.elements:
        assert not any(key.startswith("on") for key in attributes)
        assert (attributes.get("src") or "data:").startswith("data:image/png;base64,") or (
            "src" not in attributes
        )
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.parametrize("name", REPORTS)
def test_links_lead_somewhere_and_ids_are_one_of_a_kind(name: str) -> None:
    page = Page(as_page(document_of(name), REPORTS[name].pictures))
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        assert (link["href"] or "").removeprefix("#") in ids


def test_what_is_there_is_shown() -> None:
    page = Page(as_page(document_of("failed"), REPORTS["failed"].pictures))
    assert page.text.index("Not equal") < page.text.index("What to do") < page.text.index("Probes")
    for words in (
        FIRST,
        GUILTY,
        "cpu: no GPU was found",
        "38,474 times the noise floor",
        "All 69 layers as a table",
        "video 0, frame 4, channel 1, row 13, column 7",
        "292 tensors · 47.5 MB",
        "138 copied 42 initialised 112 passed through",
        "initialised: uniform(0.02)",
        "128 128 3 1 1 · float32 · 196.6 kB",
        "a fixed blend at 0 stops its gradient",
        "one Dirac kernel moved by a frame",
        "64 temporal tensors were compared",
        "a7" * 32,
        "clip.mp4",
    ):
        assert words in page.text
    assert len(page.all("img")) == 20
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("title")) == 1 + 69, "the page's, and one a layer"
    failed = [a for tag, a in page.elements if tag == "g" and a.get("class") == "fail"]
    assert len(failed) == 35


def test_what_is_absent_is_absent() -> None:
    page = Page(as_page(document_of("bare"), BARE.pictures))
    assert set(page.ids()) == {"main", "verdict", "probes", "images", "files"}
    assert "svg" in {tag for tag, _ in page.elements}, "the verdict's sign"
    assert "What to do" not in page.text
    assert "There are no images here" in page.text


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("equal", "Bitwise equal"),
        ("folded", "Bitwise equal to the folded decoder"),
        ("close", "Within tolerance"),
        ("close to folded", "Within tolerance of the folded decoder"),
        ("failed", "Not equal"),
        ("overflow", "Overflow in float16"),
    ],
)
def test_the_verdict_is_the_title(name: str, title: str) -> None:
    text = as_page(document_of(name))
    assert f"<title>{title}: img.video.safetensors</title>" in text
    (heading,) = re.findall(r'<h1 id="verdict">.*?</svg>(.*?)</h1>', text, flags=re.DOTALL)
    assert heading == title
    assert f'<header class="card verdict {shown_verdict(name)[1]}">' in text


def test_what_a_fold_changes_is_among_the_figures_and_the_reasons() -> None:
    text = as_page(document_of("folded"))
    assert reason(document_of("folded")) in Page(text).text
    assert "<dt>Fold</dt><dd>0.95<small>" in text
    assert "<dt>Fold</dt>" not in as_page(document_of("equal"))


def test_names_are_names_whatever_they_hold() -> None:
    text = as_page(document_of("hostile"), HOSTILE.pictures)
    assert text.count("<script>") == 1
    assert "alert(1)" in Page(text).text, "it is shown"
    for raw in ("\x1b", "\u202e"):
        assert raw not in text
    assert "49" not in re.sub(r"[\d.]{3,}|#\w+|base64,[^\"]*|sha256-[^']*", "", text)


def test_other_pages_share_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    template = '{% extends "base.html.j2" %}{% block main %}<p>{{ name }}</p>{% endblock %}'
    environment = html._environment().overlay()
    assert environment.loader is not None
    source, _, _ = environment.loader.get_source(environment, "base.html.j2")
    style, _, _ = environment.loader.get_source(environment, "style.css")
    environment.loader = DictLoader(
        {"base.html.j2": source, "style.css": style, "index.html.j2": template}
    )
    monkeypatch.setattr(html, "_environment", lambda: environment)
    text = render_page("index.html.j2", name="<b>")
    assert "script-src 'none'" in unescape(text)
    assert "<script" not in text
    assert "<p>&lt;b&gt;</p>" in text


def test_a_stored_document_is_rendered_without_torch() -> None:
    code = (
        "import sys, json\n"
        "from inflate.report.writing import render\n"
        "document = json.load(sys.stdin)\n"
        "assert all(render(document, kind) for kind in ('html', 'md', 'xml', 'json'))\n"
        "assert 'torch' not in sys.modules\n"
    )
    stored = json.dumps(document_of("failed"))
    subprocess.run([sys.executable, "-c", code], input=stored, text=True, check=True)


def test_a_page_stays_small() -> None:
    assert len(as_page(document_of("equal"), EQUAL.pictures)) < 250_000
