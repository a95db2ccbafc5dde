"""Parity documents read back, and believed only where they keep to their published schema."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from inflate.errors import InflateError, needs_extra
from inflate.report.summary import PARITY_SCHEMA, Document
from inflate.report.text import one_line

_Number = TypeVar("_Number", int, float)
_LARGEST = 64 * 2**20


@cache
def parity_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ``inflate/parity-report/1``."""
    file = resources.files("inflate.report") / "schema" / "parity-report-1.schema.json"
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema


def read_document(path: str | Path) -> Document:
    """Read a parity document.

    Raises:
        InflateError: no such file, no JSON, another schema or version, or a document that does not
            keep to it; or the extra ``report`` is missing.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise InflateError(f"{path} has more than {_LARGEST:,} bytes; no parity report has")
        text = path.read_bytes().decode("utf-8")
        document = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite(float),
            parse_int=_finite(int),
        )
    except OSError as error:
        raise InflateError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InflateError(
            f"{path} is no JSON: {error}; expected what --report FILE.json writes"
        ) from error
    found = document.get("schema") if isinstance(document, dict) else None
    if found != PARITY_SCHEMA:
        raise InflateError(
            f"{path} has the schema {found!r}; expected {PARITY_SCHEMA!r}, as --report FILE.json "
            "and verify --json write it" + _newer(found)
        )
    _check(document, path)
    return dict(document)


def _check(document: Document, path: Path) -> None:
    with needs_extra("report", "reading a report", InflateError):
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match
    problem = best_match(Draft202012Validator(parity_schema()).iter_errors(document))
    if problem is not None:
        where = "".join(f"[{step!r}]" for step in problem.absolute_path) or "the document"
        said = one_line(problem.message)
        said = said if len(said) <= 200 else said[:200] + " ..."
        raise InflateError(f"{path} does not keep to {PARITY_SCHEMA}: {where}: {said}")


def _newer(found: object) -> str:
    name, _, number = str(found).rpartition("/")
    if f"{name}/1" == PARITY_SCHEMA and number.isdecimal():
        return "; a newer inflate wrote it, and can render it"
    return ""


def _finite(kind: Callable[[str], _Number]) -> Callable[[str], _Number]:
    """A reader of numbers that refuses those that are larger than any float."""

    def read(text: str) -> _Number:
        if math.isinf(float(text)):
            raise ValueError(f"it holds the number {text[:80]}, larger than any float")
        return kind(text)

    return read


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")
