"""Batch manifests: YAML, read through OmegaConf, with a type for every value.

Problems are collected, not raised, so that a batch can report them with the problems of files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inflate.config.yaml_files import load_yaml
from inflate.errors import ConfigError, InflateError, nearest, quoted
from inflate.options import JOB_OPTIONS, MATRIX_OPTIONS, ConvertOptions

_KEYS = ("defaults", "jobs", "ledger")
_EXAMPLE = "{source: 'ckpts/*.safetensors', output: 'out/{stem}.safetensors'}"


@dataclass(frozen=True)
class Entry:
    """An item of ``jobs``, which may expand to many jobs; ``place`` is its name in messages.

    ``options`` and the lists of ``matrix`` hold values of the declared types.
    """

    place: str
    source: str
    output: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    matrix: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def with_options(self, options: Mapping[str, Any]) -> Entry:
        """The entry with these options instead of its own and of the axes of its matrix."""
        matrix = {key: values for key, values in self.matrix.items() if key not in options}
        return dataclasses.replace(self, options={**self.options, **options}, matrix=matrix)


@dataclass(frozen=True)
class Manifest:
    """The entries of a batch, and every problem in their keys and values.

    Relative paths start at ``folder``; ``path`` is the manifest file, if there is one.
    """

    folder: Path
    entries: tuple[Entry, ...]
    ledger: str | None = None
    problems: tuple[str, ...] = ()
    path: Path | None = None


def read_manifest(path: Path) -> Manifest:
    """Read a manifest: ``defaults``, ``jobs`` and optionally ``ledger``.

    Raises:
        ConfigError: it is not YAML, not a mapping, or a value calls a resolver; other problems are
            in ``problems``.
    """
    values = load_yaml(path)
    problems = [
        f"{key}: unknown key{nearest(key, _KEYS)}; expected {', '.join(_KEYS)}"
        for key in values
        if key not in _KEYS
    ]
    ledger = values.get("ledger")
    if ledger is not None and (not isinstance(ledger, str) or "://" in ledger):
        problems.append(f"ledger is {quoted(ledger)}; expected a local path")
        ledger = None
    defaults = _read_entry("defaults", values.get("defaults") or {}, problems)
    if defaults.source:
        problems.append("defaults.source: each job names its own source")
    jobs = values.get("jobs")
    if not isinstance(jobs, list) or not jobs:
        found = "missing" if jobs is None else quoted(jobs)
        problems.append(f"jobs is {found}; expected a list such as [{_EXAMPLE}]")
        jobs = []
    entries = []
    for number, job in enumerate(jobs):
        own = _read_entry(
            f"jobs[{number}]", {"source": job} if isinstance(job, str) else job, problems
        )
        if own.source:
            output = defaults.output if own.output is None else own.output
            merged = defaults.with_options(own.options)
            options = {k: v for k, v in merged.options.items() if k not in own.matrix}
            matrix = {**merged.matrix, **own.matrix}
            entries.append(Entry(own.place, own.source, output, options, matrix))
        elif isinstance(job, Mapping) and job.get("source") is None:
            problems.append(f"{own.place} has no source; expected a path, pattern or URL")
    return Manifest(path.parent, tuple(entries), ledger, tuple(problems), path)


def _read_entry(place: str, content: object, problems: list[str]) -> Entry:
    """The ``defaults``, or one job; a missing source is empty."""
    if not isinstance(content, Mapping):
        problems.append(f"{place} is {quoted(content)}; expected keys such as {_EXAMPLE}")
        return Entry(place, "")
    known = ("source", "output", "matrix", *JOB_OPTIONS)
    problems += [
        f"{place}.{key}: unknown key{nearest(str(key), known)}"
        for key in content
        if key not in known
    ]
    given = {k: value for k, value in content.items() if k in known and value is not None}
    names = {key: given.pop(key) for key in ("source", "output") if key in given}
    for key, value in [*names.items()]:
        if not isinstance(value, str) or not value:
            problems.append(f"{place}.{key} is {quoted(value)}; expected a path or URL")
            del names[key]
    matrix = _read_matrix(f"{place}.matrix", given.pop("matrix", {}), problems)
    problems += [
        f"{place}.{key} is set and also in its matrix; keep one of them"
        for key in sorted(given.keys() & matrix.keys())
    ]
    options = _typed(given, f"{place}.", problems)
    return Entry(place, names.get("source", ""), names.get("output"), options, matrix)


def _read_matrix(place: str, content: object, problems: list[str]) -> dict[str, tuple[Any, ...]]:
    if not isinstance(content, Mapping):
        example = "{time_mode: [all, conv-only]}"
        problems.append(f"{place} is {quoted(content)}; expected lists, such as {example}")
        return {}
    read = {}
    for key, values in content.items():
        if key not in MATRIX_OPTIONS:
            what = "cannot vary in a matrix" if key in JOB_OPTIONS else "unknown key"
            problems.append(f"{place}.{key}: {what}{nearest(str(key), MATRIX_OPTIONS)}")
        elif not isinstance(values, list) or not values:
            problems.append(f"{place}.{key} is {quoted(values)}; expected a list of values")
        else:
            each = [
                _typed({key: value}, f"{place}.{key}[{number}]: ", problems)
                for number, value in enumerate(values)
            ]
            read[str(key)] = tuple(options[key] for options in each if key in options)
    return read


def _typed(given: Mapping[str, Any], place: str, problems: list[str]) -> dict[str, Any]:
    """Option values converted to the options' types; empty if one of them is wrong."""
    try:
        options = ConvertOptions(**given)
    except ConfigError as error:
        problems += [place + problem for problem in error.problems]
    except InflateError as error:  # An unknown device.
        problems.append(f"{place.rstrip('.: ')}: {error}")
    else:
        return {key: getattr(options, key) for key in given}
    return {}
