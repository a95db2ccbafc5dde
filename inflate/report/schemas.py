"""The published JSON Schemas, and a reader that validates parity documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from inflate.display import one_line
from inflate.errors import InflateError, needs_extra
from inflate.io.files import like
from inflate.report.documents import PARITY_SCHEMA
from inflate.report.summary import Document

_LARGEST = 64 * 2**20


@cache
def published_schemas() -> Mapping[str, dict[str, Any]]:
    """The JSON Schemas (draft 2020-12) of all documents, by the value of their ``schema`` key."""
    found = {}
    for file in (resources.files("inflate.report") / "schema").iterdir():
        if file.name.endswith(".schema.json"):
            content = json.loads(file.read_text(encoding="utf-8"))
            found[content["properties"]["schema"]["const"]] = content
    return found


def problem_of(document: Mapping[str, Any]) -> str | None:
    """The main violation of its schema in a document; None if it is valid.

    Raises:
        InflateError: the extra ``report`` is missing.
    """
    with needs_extra("report", "reading a report", InflateError):
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match
        from referencing import Registry, Resource
    schemas = published_schemas()
    registry: Registry[Any] = Registry().with_resources(
        (schema["$id"], Resource.from_contents(schema)) for schema in schemas.values()
    )
    validator = Draft202012Validator(schemas[document["schema"]], registry=registry)
    problem = best_match(validator.iter_errors(document))
    if problem is None:
        return None
    where = "".join(f"[{step!r}]" for step in problem.absolute_path) or "the document"
    words = one_line(problem.message)
    return f"{where}: {words if len(words) <= 200 else words[:200] + ' ...'}"


def read_document(path: str | Path) -> Document:
    """Read a parity document.

    Raises:
        InflateError: the file is missing, is not JSON, has an unknown schema or version, or
            violates its schema; or the extra ``report`` is missing.
    """
    path = Path(path)

    def unreadable(what: str) -> InflateError:
        return InflateError(f"{path} {what}", path=path)

    try:
        if path.stat().st_size > _LARGEST:
            raise unreadable(f"has more than {_LARGEST:,} bytes; no parity report has")
        # An integer with hundreds of digits becomes infinity, which JSON cannot hold.
        document = json.loads(
            path.read_bytes().decode("utf-8"),
            parse_int=lambda digits: int(digits) if len(digits) < 19 else float(digits),
        )
        json.dumps(document, allow_nan=False)
    except OSError as error:
        raise unreadable(f"cannot be read{like(path)}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise unreadable(
            f"is not valid JSON: {error}; expected a document from --report FILE.json"
        ) from error
    found = document.get("schema") if isinstance(document, dict) else None
    if found != PARITY_SCHEMA:
        raise unreadable(
            f"has the schema {found!r}; expected {PARITY_SCHEMA!r}, as from --report FILE.json"
        )
    if problem := problem_of(document):
        raise unreadable(f"violates {PARITY_SCHEMA}: {problem}")
    return dict(document)
