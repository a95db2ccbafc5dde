"""From a manifest to jobs: sources found, matrices multiplied, outputs named, problems listed."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from inflate.batch.naming import name_output, static_folder
from inflate.batch.settings import KEYS, effective_settings, option_problems
from inflate.config.manifest import Entry, Manifest
from inflate.errors import ConfigError, InflateError
from inflate.remote import is_remote, local_path, matches
from inflate.workflow.sources import stem_of

_WILDCARDS = re.compile(r"[*?[]")
_IRRELEVANT = ("overwrite", "config", "set")
"""Options that do not decide a result, or do so only by the settings that they stand for."""


@dataclass(frozen=True)
class Job:
    """One conversion: a source, an output, and options of ``convert``.

    ``place`` is where the manifest asks for it.
    """

    place: str
    source: str
    output: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def settings(self) -> str:
        """Everything but the source that decides the result, as canonical text."""
        layers = effective_settings(self.options)
        layers |= {k: v for k, v in self.options.items() if k not in _IRRELEVANT and k not in KEYS}
        return json.dumps(layers, sort_keys=True, default=list)

    @property
    def overwrite(self) -> bool:
        """Whether an output that is nobody's may be replaced."""
        return bool(self.options.get("overwrite"))


@dataclass(frozen=True)
class Expanded:
    """The jobs of a manifest in its order, and the folder that their outputs share."""

    jobs: tuple[Job, ...]
    folder: Path
    notes: tuple[str, ...] = ()


def expand(manifest: Manifest) -> Expanded:
    """The jobs that a manifest asks for.

    Raises:
        ConfigError: every problem of the manifest at once: keys, values, sources that are not
            there, outputs that collide.
    """
    problems = list(manifest.problems)
    found: list[tuple[Job, bool]] = []
    folders = []
    for entry in manifest.entries:
        try:
            sources, globbed = _sources(entry.source, manifest.folder)
        except InflateError as error:
            problems.append(f"{entry.place}.source: {error}")
            sources, globbed = [], False
        folders.append(static_folder(_template(entry, manifest.folder), entry.source))
        for source in sources:
            for options in _combinations(entry, manifest.folder):
                wrong = option_problems(options)
                problems += [f"{entry.place}: {problem}" for problem in wrong]
                try:
                    if not wrong:
                        output = name_output(
                            _template(entry, manifest.folder), source, options, _axes(entry)
                        )
                        job = Job(entry.place, source, output, options)
                        found.append((job, globbed))
                except ConfigError as error:
                    problems.append(f"{entry.place}.output: {error}")
    jobs, notes = _without_own_outputs(found)
    problems += _collisions(jobs)
    if problems:
        raise ConfigError("the batch has errors, and nothing was started:", _unique(problems))
    return Expanded(tuple(jobs), _common(folders), tuple(notes))


def identity(location: str) -> str:
    """A location as one that two ways to write it share."""
    return location if is_remote(location) else os.path.abspath(local_path(location))


def _sources(pattern: str, folder: Path) -> tuple[list[str], bool]:
    """What a source stands for, and whether that is what a pattern matches."""
    if is_remote(pattern):
        if "*" not in pattern:  # A question mark is where a web address begins its query.
            return [pattern], False
        found = matches(pattern)
    else:
        path = os.path.normpath(os.path.join(folder, local_path(pattern)))
        if os.path.exists(path):
            return [path], False
        if not _WILDCARDS.search(path):
            raise ConfigError(f"{path} does not exist; expected a checkpoint")
        found = sorted(glob.glob(path, recursive=True))
        pattern = path
    if not found:
        raise ConfigError(f"nothing matches {pattern}; expected a checkpoint or more")
    return found, True


def _combinations(entry: Entry, folder: Path) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*entry.matrix.values()):
        chosen = {**entry.options, **dict(zip(entry.matrix, values, strict=True))}
        chosen = {key: value for key, value in chosen.items() if value is not None}
        config = chosen.get("config")
        if config is not None and os.path.isfile(folder / config):
            chosen["config"] = os.path.normpath(folder / config)
        yield chosen


def _axes(entry: Entry) -> list[str]:
    return [key for key, values in entry.matrix.items() if len(values) > 1]


def _template(entry: Entry, folder: Path) -> str | None:
    if entry.output is None or is_remote(entry.output):
        return entry.output
    # A folder stays one: join and normpath would take its slash away.
    end = "/" if entry.output.endswith(("/", os.sep)) else ""
    return os.path.normpath(os.path.join(folder, local_path(entry.output))) + end


def _without_own_outputs(found: list[tuple[Job, bool]]) -> tuple[list[Job], list[str]]:
    """The jobs less those whose source is what another of them makes, where a glob found it."""
    made = {identity(job.output) for job, _ in found}
    kept = [job for job, globbed in found if not (globbed and identity(job.source) in made)]
    left = len(found) - len(kept)
    note = f"{left} jobs left out: a pattern matches what this batch makes as well"
    return kept, [note] if left else []


def _collisions(jobs: list[Job]) -> list[str]:
    by_output = defaultdict(list)
    for job in jobs:
        by_output[identity(job.output)].append(job)
    problems = []
    for same in by_output.values():
        if len(same) > 1:
            makers = ", ".join(f"{job.source} ({job.place})" for job in same[:4])
            more = f" and {len(same) - 4} more" if len(same) > 4 else ""
            problems.append(
                f"{same[0].output} would be the output of {len(same)} jobs: {makers}{more}; tell "
                "them apart with {stem}, {parent}, {time_mode} and the like"
            )
    sources = {identity(job.source): job for job in jobs}
    for job in jobs:
        if identity(job.output) in sources:
            other = sources[identity(job.output)]
            problems.append(f"{job.output} is an output ({job.place}) and a source ({other.place})")
    return problems


def _common(folders: list[str | None]) -> Path:
    local = {os.path.abspath(folder) for folder in folders if folder is not None}
    return Path(os.path.relpath(os.path.commonpath(local))) if local else Path()


def _unique(problems: list[str]) -> list[str]:
    return list(dict.fromkeys(problems))


def label_of(job: Job) -> str:
    """A job in a word or two, for bars."""
    return f"{stem_of(job.source)} -> {Path(job.output).name}"
