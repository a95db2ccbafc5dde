"""A document as JSON text: small, and a row of a list a line, so that two of them compare well."""

from __future__ import annotations

import json

from inflate.report.summary import Document


def as_json(document: Document) -> str:
    """A document as JSON; it holds no NaN, which JSON does not know."""
    entries = [f"{_dumped(key)}: {_rows(value)}" for key, value in document.items()]
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _rows(value: object) -> str:
    if not isinstance(value, list) or not value:
        return _dumped(value)
    return "[\n " + ",\n ".join(map(_dumped, value)) + "\n]"


def _dumped(value: object) -> str:
    return json.dumps(value, allow_nan=False)
