"""From a manifest to jobs: sources found, matrices multiplied, outputs named, problems listed."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from inflate.batch.naming import name_output, static_folder
from inflate.batch.settings import effective_settings, option_problems
from inflate.config.manifest import Entry, Manifest
from inflate.errors import ConfigError, InflateError, OutputError, printable
from inflate.io.protected import place_of
from inflate.io.remote import is_remote, local_path, matches
from inflate.options import SETTINGS
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
        layers |= {
            k: v for k, v in self.options.items() if k not in _IRRELEVANT and k not in SETTINGS
        }
        return json.dumps(layers, sort_keys=True, default=list)

    @property
    def overwrite(self) -> bool:
        """Whether an output that is nobody's may be replaced."""
        return bool(self.options.get("overwrite"))


@dataclass(frozen=True)
class Expanded:
    """The jobs of a manifest in its order.

    ``problems`` says everything that is wrong with them at once: keys, values, sources that are not
    there, outputs that collide.
    """

    jobs: tuple[Job, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def expand(manifest: Manifest, own: Iterable[Path] = ()) -> Expanded:
    """The jobs that a manifest asks for.

    Args:
        manifest: what asks for them.
        own: files that the batch writes beside the outputs, which no pattern stands for.
    """
    problems = list(manifest.problems)
    found: list[tuple[Job, bool]] = []
    for entry in manifest.entries:
        try:
            sources, globbed = _sources(entry.source, manifest.folder)
        except InflateError as error:
            problems.append(f"{entry.place}.source: {error}")
            sources, globbed = [], False
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
    jobs, notes = _without_own_outputs(found, own)
    problems += _collisions(jobs)
    return Expanded(tuple(jobs), tuple(problems), tuple(notes))


def output_folder(manifest: Manifest) -> Path:
    """The folder that all local outputs share."""
    folders = [
        static_folder(_template(entry, manifest.folder), entry.source) for entry in manifest.entries
    ]
    local = {os.path.abspath(folder) for folder in folders if folder is not None}
    return Path(os.path.relpath(os.path.commonpath(local))) if local else Path()


def identity(location: str) -> str:
    """A location as one that two ways to write it share."""
    return location if is_remote(location) else os.path.abspath(local_path(location))


def check_names(job: Job) -> None:
    """Raise OutputError where a name is not text, so that no ledger and no report can hold it."""
    for name in (job.source, job.output):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise OutputError(f"{printable(name)} is not a name in UTF-8; rename it") from error


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


def _without_own_outputs(
    found: list[tuple[Job, bool]], own: Iterable[Path]
) -> tuple[list[Job], list[str]]:
    """The jobs less those whose source the batch writes, where a glob found it.

    A job that would replace its own source stays, and is refused.
    """
    made = dict.fromkeys(map(place_of, own))
    made.update((place_of(job.output), place_of(job.source)) for job, _ in found)
    kept = []
    for job, globbed in found:
        place = place_of(job.source)
        if not globbed or made.get(place, place) == place:
            kept.append(job)
    left = len(found) - len(kept)
    note = f"{left} jobs left out: a pattern matches what this batch makes as well"
    return kept, [note] if left else []


def _collisions(jobs: list[Job]) -> list[str]:
    by_output = defaultdict(list)
    for job in jobs:
        by_output[place_of(job.output)].append(job)
    problems = []
    for same in by_output.values():
        if len(same) > 1:
            makers = ", ".join(f"{job.source} ({job.place})" for job in same[:4])
            more = f" and {len(same) - 4} more" if len(same) > 4 else ""
            problems.append(
                f"{same[0].output} would be the output of {len(same)} jobs: {makers}{more}; tell "
                "them apart with {stem}, {parent}, {time_mode} and the like"
            )
    return problems


def label_of(job: Job) -> str:
    """A job in a word or two, for bars."""
    return f"{stem_of(job.source)} -> {Path(job.output).name}"
