"""Manifests of batches: YAML, read through OmegaConf, with a type for every value.

Problems are collected, not raised, so that a batch can report them together with those of files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from inflate.config.schema import is_finite_number, one_line
from inflate.config.yaml_files import REFUSALS, load_yaml, plain
from inflate.errors import ConfigError, nearest, quoted
from inflate.options import JOB_OPTIONS, MATRIX_OPTIONS, ConvertOptions

# Optional and Union stay spelled out: OmegaConf reads these annotations on Python 3.10 as well.

_ENTRY_KEYS = ("source", "output", "matrix")
_EXAMPLE = "{source: 'ckpts/*.safetensors', output: 'out/{stem}.safetensors'}"


@dataclass(frozen=True)
class Entry:
    """An item of ``jobs``, which may stand for many; ``place`` is its name in messages.

    ``options`` and the lists of ``matrix`` hold values of the right types.
    """

    place: str
    source: str
    output: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    matrix: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def with_options(self, options: Mapping[str, Any]) -> Entry:
        """The entry with options that replace its own and the axes of its matrix."""
        matrix = {key: values for key, values in self.matrix.items() if key not in options}
        return dataclasses.replace(self, options={**self.options, **options}, matrix=matrix)


@dataclass(frozen=True)
class Manifest:
    """The entries of a batch, and every problem of their keys and values.

    Relative paths start from ``folder``; ``path`` is the file itself, if there is one.
    """

    folder: Path
    entries: tuple[Entry, ...]
    ledger: str | None = None
    problems: tuple[str, ...] = ()
    path: Path | None = None


def read_manifest(path: Path) -> Manifest:
    """Read a manifest: ``defaults``, ``jobs``, and perhaps ``ledger``.

    Raises:
        ConfigError: it is not YAML, not a mapping, or a value calls a resolver; all else is in
            ``problems``.
    """
    content = load_yaml(path)
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{path} is not a manifest; expected 'jobs:' with a list under it")
    values = plain(content, path)
    reading = _Reading()
    for key in values:
        if key not in ("defaults", "jobs", "ledger"):
            close = nearest(key, ("defaults", "jobs", "ledger"))
            reading.problems.append(f"{key}: unknown key{close}; expected defaults, jobs, ledger")
    ledger = values.get("ledger")
    if ledger is not None and not isinstance(ledger, str):
        reading.problems.append(f"ledger is {quoted(ledger)}; expected a path")
        ledger = None
    defaults = reading.section("defaults", values.get("defaults") or {})
    if defaults.source is not None:
        reading.problems.append("defaults.source: each job names its own source")
    jobs = values.get("jobs")
    if not isinstance(jobs, list) or not jobs:
        reading.problems.append(f"jobs is {quoted(jobs)}; expected a list such as [{_EXAMPLE}]")
        jobs = []
    entries = []
    for number, job in enumerate(jobs):
        place = f"jobs[{number}]"
        own = reading.section(place, {"source": job} if isinstance(job, str) else job)
        if own.source is None:
            if isinstance(job, Mapping) and job.get("source") is None:
                reading.problems.append(f"{place} has no source; expected a path, pattern or URL")
            continue
        matrix = {k: v for k, v in defaults.matrix.items() if k not in own.options} | own.matrix
        options = {k: v for k, v in defaults.options.items() if k not in own.matrix} | own.options
        output = own.output if own.output is not None else defaults.output
        entries.append(Entry(place, own.source, output, options, matrix))
    return Manifest(path.parent, tuple(entries), ledger, tuple(reading.problems), path)


@dataclass
class _Section:
    source: str | None = None
    output: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    matrix: dict[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass
class _Reading:
    """Collects problems while a manifest is read."""

    problems: list[str] = field(default_factory=list)

    def section(self, place: str, content: object) -> _Section:
        """The ``defaults``, or one job."""
        read = _Section()
        if not isinstance(content, Mapping):
            self.problems.append(f"{place} is {quoted(content)}; expected keys such as {_EXAMPLE}")
            return read
        for key, value in content.items():
            if key in ("source", "output"):
                if value is not None and (not isinstance(value, str) or not value):
                    self.problems.append(
                        f"{place}.{key} is {quoted(value)}; expected a path or URL"
                    )
                else:
                    setattr(read, key, value)
            elif key == "matrix":
                read.matrix = self._matrix(place, value)
            elif key not in JOB_OPTIONS:
                known = (*_ENTRY_KEYS, *JOB_OPTIONS)
                self.problems.append(f"{place}.{key}: unknown key{nearest(str(key), known)}")
            elif value is not None:
                self._keep(read.options, str(key), f"{place}.{key}", value)
        for key in sorted(read.options.keys() & read.matrix.keys()):
            self.problems.append(f"{place}.{key} is set and in its matrix too; keep one of them")
        return read

    def _matrix(self, place: str, content: object) -> dict[str, tuple[Any, ...]]:
        read: dict[str, tuple[Any, ...]] = {}
        if content is None:
            return read
        if not isinstance(content, Mapping):
            self.problems.append(
                f"{place}.matrix is {quoted(content)}; expected lists, such as {{time_mode: [all, "
                "conv-only]}"
            )
            return read
        for key, values in content.items():
            where = f"{place}.matrix.{key}"
            if key not in MATRIX_OPTIONS:
                what = "cannot vary in a matrix" if key in JOB_OPTIONS else "unknown key"
                self.problems.append(f"{where}: {what}{nearest(str(key), MATRIX_OPTIONS)}")
            elif not isinstance(values, list) or not values:
                self.problems.append(
                    f"{where} is {quoted(values)}; expected a list of at least one value"
                )
            else:
                kept: dict[str, Any] = {}
                for number, value in enumerate(values):
                    self._keep(kept, str(key), f"{where}[{number}]", value, str(number))
                read[str(key)] = tuple(kept.values())
        return read

    def _keep(
        self, into: dict[str, Any], key: str, place: str, value: object, under: str = ""
    ) -> None:
        try:
            into[under or key] = typed(key, value)
        except ConfigError as error:
            self.problems.append(f"{place} is {quoted(value)}: {error}")


def typed(key: str, value: object) -> Any:
    """A value of an option, converted to the type of the option.

    Raises:
        ConfigError: it is of another type.
    """
    try:
        return _typed(key, json.dumps(value))
    except TypeError as error:
        raise ConfigError("expected a plain value; put quotes around a date") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError("expected a value with fewer digits and brackets") from error


@lru_cache(maxsize=4096)
def _typed(key: str, encoded: str) -> Any:
    draft = OmegaConf.structured(ConvertOptions)
    OmegaConf.set_readonly(draft, False)  # A frozen dataclass gives read-only nodes.
    value = json.loads(encoded)
    if _is_template(value):
        raise ConfigError("expected a plain value, without references")
    try:
        OmegaConf.update(draft, key, value, merge=False)
    except REFUSALS as error:
        raise ConfigError(one_line(error)) from error
    found = OmegaConf.to_container(draft)[key]  # type: ignore[call-overload, index]
    if isinstance(found, float) and not is_finite_number(found):
        raise ConfigError("expected a finite number")
    return tuple(found) if isinstance(found, list) else found


def _is_template(value: object) -> bool:
    parts = value if isinstance(value, list) else [value]
    return any(isinstance(part, str) and ("${" in part or part == "???") for part in parts)
