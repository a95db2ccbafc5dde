"""Markdown: the verdict, what fails, and never more than a step's summary can take."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from inflate.parity.result import WeightsResult
from inflate.report.documents import parity_document
from inflate.report.markdown import as_markdown

from .building import (
    FAILED,
    FIRST,
    GUILTY,
    HOSTILE,
    HOSTILE_NAME,
    REPORTS,
    document_of,
    shown_verdict,
)

SIGNS = {"bitwise": "✅", "within-tolerance": "🟡", "fail": "❌"}


@pytest.mark.parametrize("name", REPORTS)
def test_it_starts_with_the_verdict_and_its_tables_hold(name: str) -> None:
    text = as_markdown(document_of(name))
    verdict, tone = shown_verdict(name)
    assert text.startswith(f"## {SIGNS[tone]} Parity: {verdict}\n\n")
    tables = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert len(tables) >= 2
    for table in tables:
        cells = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(cells) == 1, table


def test_what_a_fold_changes_is_next_to_the_verdict() -> None:
    for text in (as_markdown(document_of("folded")), as_markdown(document_of("close to folded"))):
        assert "0.95" in text.splitlines()[2]


def test_what_fails_is_there_with_its_numbers() -> None:
    text = as_markdown(document_of("failed"))
    assert f"| `{FIRST}` | `Conv2d` | 0.0522 | 0.00261 | 26 dB |" in text
    assert "69 compared, 35 out of tolerance" in text
    assert "and 25 more layers" in text
    assert GUILTY.replace("_", r"\_") in text
    assert "**no GPU was found**" in text
    assert "14 now, 14 from the next step, 14 never" in text
    assert "4 of 5 damages noticed" in text
    assert "first frame, middle frame, last frame, interior | video 0, frame 1" in text
    rows = [row for row in text.splitlines() if "❌ fail |" in row or "🟡 within" in row]
    signs = [SIGNS["fail"] in row for row in rows]
    assert signs == sorted(signs, reverse=True), "what fails comes first"


def test_names_are_text_and_nothing_else() -> None:
    text = as_markdown(document_of("hostile"))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\n# {{" not in text, "no line of its own"
    outside = re.sub(r"`[^`\n]*`", "", text)
    assert "<script" not in outside


def test_it_fits_whatever_there_is_to_tell() -> None:
    long = HOSTILE_NAME * 300
    many = replace(
        HOSTILE,
        probes=tuple(replace(probe, name=long) for probe in FAILED.probes * 100),
        layers=tuple(replace(layer, name=long) for layer in FAILED.layers * 100),
        weights=WeightsResult(9000, (long,) * 9000),
        notes=(long,) * 900,
    )
    text = as_markdown(parity_document(many))
    assert len(text.encode()) < 64_000
    assert "and 760 more probes" in text
    assert "and 3490 more layers" in text
    assert "and 8990 more tensors" in text
