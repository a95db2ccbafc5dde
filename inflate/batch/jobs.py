"""From a manifest to jobs: find sources, multiply matrices, name outputs, collect problems."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from inflate.batch.naming import name_output, static_folder
from inflate.config.loading import known_keys, parse_set, read_config
from inflate.config.manifest import Entry, Manifest
from inflate.config.schema import Settings, Temporal
from inflate.errors import ConfigError, InflateError, OutputError, nearest, printable
from inflate.io.files import like
from inflate.io.protected import place_of
from inflate.io.remote import is_remote, local_path, matches
from inflate.options import DEVICE, SETTINGS
from inflate.workflow.sources import stem_of

_WILDCARDS = re.compile(r"[*?[]")
_NOT_IN_RESULT = ("overwrite", "config", "set", *SETTINGS)
"""Options that do not decide a result, or do so only through ``Job.effective``."""


@dataclass(frozen=True)
class Job:
    """One conversion: a source, an output, and options of ``convert``.

    ``place`` is where the manifest has it, for messages.
    """

    place: str
    source: str
    output: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def settings(self) -> str:
        """Everything but the source that decides the result, as canonical JSON."""
        others = {k: v for k, v in self.options.items() if k not in _NOT_IN_RESULT}
        return json.dumps(effective_settings(self.options) | others, sort_keys=True, default=list)

    def check_names(self) -> None:
        """Raise OutputError for a name that is not UTF-8: no ledger and no report can hold it."""
        for name in (self.source, self.output):
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise OutputError(f"{printable(name)} is not valid UTF-8; rename it") from error


def expand(manifest: Manifest, own: Iterable[Path]) -> tuple[list[Job], list[str], list[str]]:
    """The jobs of a manifest in its order, every problem, and notes.

    Patterns do not match ``own``, the other files that the batch writes.
    """
    problems = list(manifest.problems)
    found: list[tuple[Job, bool]] = []
    for entry in manifest.entries:
        try:
            sources, globbed = _sources(entry.source, manifest.folder)
        except InflateError as error:
            problems.append(f"{entry.place}.source: {error}")
            continue
        axes = [key for key, values in entry.matrix.items() if len(values) > 1]
        template = _template(entry, manifest.folder)
        for source, options in itertools.product(sources, _combinations(entry, manifest.folder)):
            wrong = option_problems(options)
            problems += [f"{entry.place}: {problem}" for problem in wrong]
            if not wrong:
                try:
                    effective = effective_settings(options)
                    output = name_output(template, source, options, effective, axes)
                    found.append((Job(entry.place, source, output, options), globbed))
                except ConfigError as error:
                    problems.append(f"{entry.place}.output: {error}")
    jobs, notes = _without_own_outputs(found, own)
    return jobs, problems + _collisions(jobs), notes


def effective_settings(options: Mapping[str, Any]) -> Settings:
    """The settings that options come to: later layers win, as in ``convert``.

    Raises:
        ConfigError: the configuration or an assignment cannot be read.
    """
    settings = dict(_config(options["config"])) if options.get("config") else {}
    settings |= _assigned(tuple(options.get("set") or ()))
    return settings | {
        SETTINGS[k]: v for k, v in options.items() if k in SETTINGS and v is not None
    }


def option_problems(options: Mapping[str, Any]) -> list[str]:
    """Every problem of options that shows without their source."""
    try:
        settings = effective_settings(options)
    except ConfigError as error:
        return list(error.problems) or [str(error)]
    known = known_keys()
    problems = [f"{key}: unknown key{nearest(key, known)}" for key in settings if key not in known]
    device = options.get("device")
    if device is not None and not DEVICE.fullmatch(device):
        problems.append(f"device is {device!r}; expected auto, cpu, cuda, cuda:N or mps")
    if problems:
        return problems
    own = {k.partition(".")[2]: v for k, v in settings.items() if k.startswith("temporal.")}
    if isinstance(own.get("video_kernel_size"), list):
        own["video_kernel_size"] = tuple(own["video_kernel_size"])
    try:
        return Temporal(**own).problems()
    except (TypeError, ValueError) as error:
        return [str(error)]


def output_folder(manifest: Manifest) -> Path:
    """The folder that all local outputs share."""
    folders = [
        static_folder(_template(entry, manifest.folder), entry.source) for entry in manifest.entries
    ]
    local = {os.path.abspath(folder) for folder in folders if folder is not None}
    return Path(os.path.relpath(os.path.commonpath(local))) if local else Path()


def absolute(location: str) -> str:
    """A location as an absolute path or a URL."""
    return location if is_remote(location) else os.path.abspath(local_path(location))


def label_of(job: Job) -> str:
    """A short name of a job, for progress bars."""
    return f"{stem_of(job.source)} -> {Path(job.output).name}"


@lru_cache(maxsize=256)
def _config(name: str) -> Settings:
    return read_config(name)


@lru_cache(maxsize=256)
def _assigned(assignments: tuple[str, ...]) -> Settings:
    return parse_set(assignments)


def _sources(pattern: str, folder: Path) -> tuple[list[str], bool]:
    """The locations that a source stands for, and whether it is a pattern."""
    if is_remote(pattern):
        if "*" not in pattern:  # A question mark begins the query of a web address.
            return [pattern], False
        found = matches(pattern)
    else:
        pattern = os.path.normpath(os.path.join(folder, local_path(pattern)))
        if os.path.exists(pattern):
            return [pattern], False
        if not _WILDCARDS.search(pattern):
            close = like(Path(pattern))
            raise ConfigError(f"{pattern} does not exist{close}; expected a checkpoint")
        found = sorted(glob.glob(pattern, recursive=True))
    if not found:
        raise ConfigError(f"nothing matches {pattern}; expected at least one checkpoint")
    return found, True


def _combinations(entry: Entry, folder: Path) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*entry.matrix.values()):
        chosen = {**entry.options, **dict(zip(entry.matrix, values, strict=True))}
        chosen = {key: value for key, value in chosen.items() if value is not None}
        config = chosen.get("config")
        if config is not None and os.path.isfile(folder / config):
            chosen["config"] = os.path.normpath(folder / config)
        yield chosen


def _template(entry: Entry, folder: Path) -> str | None:
    if entry.output is None or is_remote(entry.output):
        return entry.output
    # The slash at the end marks a folder, and normpath removes it.
    end = "/" if entry.output.endswith(("/", os.sep)) else ""
    return os.path.normpath(os.path.join(folder, local_path(entry.output))) + end


def _without_own_outputs(
    found: list[tuple[Job, bool]], own: Iterable[Path]
) -> tuple[list[Job], list[str]]:
    """Leave out jobs whose source matches a pattern and is written by this batch.

    A job that would replace its own source stays, and is refused later.
    """
    made = dict.fromkeys(map(place_of, own))
    made.update((place_of(job.output), place_of(job.source)) for job, _ in found)
    kept = []
    for job, globbed in found:
        place = place_of(job.source)
        if not globbed or made.get(place, place) == place:
            kept.append(job)
    left = len(found) - len(kept)
    note = f"skipped {left} files that a pattern matches and that this batch writes"
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
                f"{same[0].output} would be the output of {len(same)} jobs: {makers}{more}; "
                "distinguish them with {stem}, {parent}, {time_mode} and the like"
            )
    return problems
