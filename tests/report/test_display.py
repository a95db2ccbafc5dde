"""Results in a Python prompt and in a notebook: short, escaped, with the verdict first."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import inflate
from inflate.display import Displayed, bytes_text
from inflate.workflow.production import ConversionResult

from ..conversions import CPU
from .building import HOSTILE, REPORTS


@pytest.fixture(scope="module")
def results(image: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Displayed]:
    """One of everything that displays itself."""
    folder = tmp_path_factory.mktemp("results")
    conversion = inflate.convert(image, folder / "img.video.safetensors", **CPU)
    assert conversion.parity is not None
    return {
        "conversion": conversion,
        "parity": conversion.parity,
        "inspection": inflate.inspect(image),
    }


@pytest.mark.parametrize("name", ["conversion", "parity", "inspection"])
def test_everything_is_short(results: dict[str, Displayed], name: str) -> None:
    result = results[name]
    assert repr(result).startswith(f"<{type(result).__name__} ")
    assert len(repr(result)) < 250
    assert result._repr_html_().startswith(f"<p>{type(result).__name__}: <b>")


def test_a_conversion_has_its_verdict_file_and_size(results: dict[str, Displayed]) -> None:
    result = results["conversion"]
    assert isinstance(result, ConversionResult)
    size = bytes_text(result.plan.nbytes)
    assert repr(result) == f"<ConversionResult bitwise, img.video.safetensors, {size}>"
    dry = replace(result, output=None, parity=None, notes=("<note>",))
    assert repr(dry).startswith("<ConversionResult unverified, img.video.safetensors (not written)")
    assert "&lt;note&gt;" in dry._repr_html_()
    assert "<b>fail</b>" in REPORTS["failed"]._repr_html_()


def test_names_from_files_are_text() -> None:
    words: list[str] = []
    tags: set[str] = set()
    page = HTMLParser()
    page.handle_data = words.append  # type: ignore[method-assign]
    page.handle_starttag = lambda tag, _: tags.add(tag)  # type: ignore[method-assign]
    page.feed(HOSTILE._repr_html_())
    assert tags == {"p", "b", "table", "tr", "th", "td"}
    assert any("<script>" in text for text in words)
    assert not {"\x1b", "\n", "\u202e"} & set(HOSTILE._repr_html_() + repr(HOSTILE))
