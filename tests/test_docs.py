"""The documents: links, navigation, install lines, and the modules and tests that they name."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from inflate import errors
from inflate.vocabulary import TARGETS

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *PAGES]
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    text = FENCED.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_link_has_a_target(path: Path) -> None:
    text = FENCED.sub("", path.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        place, _, anchor = unquote(link).partition("#")
        if "://" in place:
            continue
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), link
        # A page of the site can link to nothing outside of it.
        assert DOCS not in path.parents or DOCS in target.parents, link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_in_the_navigation_once_and_on_the_index() -> None:
    sections = yaml.safe_load(text_of("mkdocs.yml"))["nav"]
    entries = [entry for section in sections for pages in section.values() for entry in pages]
    nav = [page for e in entries for page in ([e] if isinstance(e, str) else e.values())]
    assert sorted(nav) == [str(page.relative_to(DOCS)) for page in PAGES]
    index = set(re.findall(r"\]\(([\w-]+\.md)", text_of("docs/index.md")))
    assert index == set(nav) - {"index.md"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_install_lines_install_the_checkout(path: Path) -> None:
    known = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    text = path.read_text(encoding="utf-8")
    assert "inflate-video" not in text
    for line in re.findall(r"pip install ([^\n`]+)", text):
        for extras in re.findall(r"\.\[([\w,-]+)\]", line):
            assert set(extras.split(",")) <= known.keys(), line


def test_the_readme_has_the_times_that_were_measured() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \|", text_of("docs/performance.md"), re.MULTILINE)
    seconds = dict(rows)
    line = (
        f"{seconds['convert']} s unchecked and {seconds['convert, checked']} s checked; a script "
        f"written by hand, without a check, takes {seconds['hand-written']} s"
    )
    assert line in " ".join(text_of("README.md").split())


def test_every_kind_of_error_has_an_entry() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", text_of("docs/troubleshooting.md"), re.MULTILINE)
    kinds = {name for name in vars(errors) if name.endswith("Error") and name[0] != "_"}
    assert {*listed} == {*kinds, "UsageError"}


def test_every_module_that_the_architecture_names_exists() -> None:
    text = text_of("docs/architecture.md")
    rooms = text[text.index("## Rooms") : text.index("## Where")]
    rows = [row for row in rooms.splitlines() if row.startswith("| `")]
    for row in rows:
        room, _, modules = row.strip("|").split("|")
        for folder in re.findall(r"`(\w+/)`", room):
            for module in re.findall(r"`([a-z_]+)`", modules):
                path = ROOT / "inflate" / folder / module
                assert path.is_dir() or path.with_suffix(".py").is_file(), path
    packages = {f"{path.parent.name}/" for path in (ROOT / "inflate").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "inflate").glob("*.py") if path.stem[0] != "_"}
    named = {name for row in rows for name in re.findall(r"`([\w/]+)`", row.split("|")[1])}
    assert named == packages | modules


def test_everything_is_where_the_architecture_says() -> None:
    text = text_of("docs/architecture.md")
    table = text[text.index("## Where") : text.index("## One fingerprint")]
    rows = re.findall(r"^\| [^|]+ \| `(inflate/[^|]+)` \| (.+) \|$", table, re.MULTILINE)
    assert len(rows) >= 10
    for first, names in rows:
        paths = [first, *re.findall(r"`(inflate/[\w/.]+)`", names)]
        sources = [ROOT / path for path in paths]
        assert all(source.exists() for source in sources), first
        text = "\n".join(s.read_text(encoding="utf-8") for s in sources if s.is_file())
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^\s*(?:def |class )?{name}\b", text, re.MULTILINE), name


def test_every_format_names_a_test_that_exists_and_every_layout_has_a_row() -> None:
    text = text_of("docs/formats.md")
    for name in re.findall(r"`(tests[\w/]*(?:\.py)?(?:::\w+)?)`", text):
        path, _, function = name.partition("::")
        assert (ROOT / path).exists(), name
        if function:
            assert re.search(rf"^def {function}\(", text_of(path), re.MULTILINE), name
    tables = re.findall(r"^\|.* test \|\n\|[-| ]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [row.strip("|").split("|") for table in tables for row in table.splitlines()]
    assert len(rows) > 15
    assert all("`tests/" in cells[-1] for cells in rows)
    for target in TARGETS:
        assert any(f"`{target}`" in cells[0] for cells in rows), target
