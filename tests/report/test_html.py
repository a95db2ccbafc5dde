"""The pages as text: they load nothing, run one script, and show names as names."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from inflate.batch.reports import to_html
from inflate.report.html import as_page
from inflate.report.summary import reason

from .building import HOSTILE, REPORTS, document_of, shown_verdict

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


def batch_document_of(*statuses: str, name: str = "img") -> dict[str, Any]:
    """A summary of a batch with a job of each status, in folders that they share."""
    jobs = [
        {
            "source": f"/data/in/{number}/{name}.ckpt", "output": f"/data/out/{name}{number}.st",
            "status": status, "reused": False, "verdict": "bitwise" if status == "held" else None,
            "compared_with": "reference", "max_abs_error": 0.0, "seconds": 10.0 / (number + 1),
            "error": "it broke" if status == "failed" else None, "traceback": None,
            "report": f"jobs/{number}.html" if status == "held" else None,
        }
        for number, status in enumerate(statuses)
    ]  # fmt: skip
    keys = ("held", "unequal", "failed", "not-run")
    counts = {key.replace("-", "_"): statuses.count(key) for key in keys}
    return {
        "inflate": "1", "executor": "local", "ledger": "ledger.sqlite", "seconds": 3.0,
        "counts": {**counts, "total": len(jobs), "reused": 0}, "jobs": jobs,
    }  # fmt: skip


PAGES = {
    **{name: lambda name=name: as_page(document_of(name), REPORTS[name].pictures)
       for name in REPORTS},
    "batch": lambda: to_html(batch_document_of("held", "failed", "not-run", "unequal")),
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_it_loads_nothing_and_allows_nothing(name: str) -> None:
    text = PAGES[name]()
    page = Page(text)
    (policy,) = [a["content"] or "" for a in page.all("meta") if "http-equiv" in a]
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
        assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png;")
        assert (attributes.get("href") or "#").startswith(("#", "jobs/"))
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.parametrize("name", REPORTS)
def test_links_lead_somewhere_and_ids_are_unique(name: str) -> None:
    page = Page(PAGES[name]())
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        assert (link["href"] or "").removeprefix("#") in ids


def test_quality_has_means_and_a_plot_over_time_for_each_measure() -> None:
    page = Page(PAGES["equal"]())
    text = " ".join(" ".join(page.words).split())
    assert "PSNR (dB) 30.5 32.25 video decoder" in text
    assert "SSIM 0.9 0.9 equal" in text
    assert "flicker (grey levels) 4 1 video decoder" in text
    assert "LPIPS 0.125 0.25 image decoder" in text
    lines = page.all("polyline")
    assert [line["class"] for line in lines] == ["candidate", "reference"] * 4
    assert [len((line["points"] or "").split()) for line in lines] == [3, 3, 3, 3, 2, 2, 3, 3]
    assert "#quality" in [link["href"] for link in page.all("a")]
    bare = Page(PAGES["bare"]())
    assert set(bare.ids()) == {"main", "verdict", "probes", "images", "files"}
    assert bare.all("img") == []


@pytest.mark.parametrize("name", ["equal", "folded", "close", "close to folded", "failed"])
def test_the_verdict_is_the_title(name: str) -> None:
    text = as_page(document_of(name))
    (heading,) = re.findall(r'<h1 id="verdict">.*?</svg>(.*?)</h1>', text, flags=re.DOTALL)
    assert f"<title>{heading}: img.video.safetensors</title>" in text
    assert f'<header class="card verdict {shown_verdict(name)[1]}">' in text
    assert reason(document_of(name)) in Page(text).text
    assert ("folded" in heading) == ("folded" in name)


def test_names_are_names_whatever_they_hold() -> None:
    batch = to_html(batch_document_of("held", "failed", name="<script>alert(1)</script>\x1b"))
    for text in (as_page(document_of("hostile"), HOSTILE.pictures), batch):
        assert text.count("<script>") == 1
        assert "alert(1)" in Page(text).text, "it is shown"
        assert not {"\x1b", "\u202e"} & set(text)
        assert "{{ 7" in text or text is batch


def test_a_batch_shows_failures_first_and_relative_paths() -> None:
    page = Page(PAGES["batch"]())
    rows = [a["data-status"] for a in page.all("tr") if "data-status" in a]
    assert rows == ["failed", "unequal", "not-run", "held"]
    assert page.text.count("/data/in/") == page.text.count("/data/out/") == 1
    assert "1/img.ckpt it broke img1.st" in page.text


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
