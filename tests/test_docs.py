"""What the documents say of tests: each that a table names exists, and README and docs agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inflate.vocabulary import TARGETS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/formats.md")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def named_tests(document: str) -> list[str]:
    """The tests that a document names, ``path`` or ``path::function``."""
    return re.findall(r"`(tests[\w/]*(?:\.py)?(?:::\w+)?)`", text_of(document))


def rows(document: str) -> list[list[str]]:
    """The cells of every row of a table whose last column is ``shown by``."""
    found: list[list[str]] = []
    showing = False
    for line in text_of(document).splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            showing = False
        elif cells[-1] == "shown by":
            showing = True
        elif showing and not set(line) <= set("|- "):
            found.append(cells)
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_test_that_is_named_exists(document: str) -> None:
    named = named_tests(document)
    assert len(named) > 10
    for name in named:
        path, _, function = name.partition("::")
        assert (ROOT / path).exists(), name
        if function:
            source = (ROOT / path).read_text(encoding="utf-8")
            assert re.search(rf"^def {function}\(", source, re.MULTILINE), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_row_of_the_tables_names_a_test(document: str) -> None:
    assert len(rows(document)) > 15
    for cells in rows(document):
        assert "`tests/" in cells[-1], cells


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_layout_out_has_a_row(document: str) -> None:
    first = [cells[0] for cells in rows(document)]
    for target in TARGETS:
        assert any(f"`{target}`" in cell for cell in first), target


def test_both_documents_have_the_same_rows() -> None:
    one, other = ({cells[-1] for cells in rows(document)} for document in DOCUMENTS)
    assert one == other
