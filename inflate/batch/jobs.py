"""From a manifest to jobs: find sources, expand matrices, name outputs, estimate sizes."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from inflate.batch.naming import name_output
from inflate.config.loading import build_config, known_keys
from inflate.config.manifest import Entry, Manifest
from inflate.config.schema import Architecture, Settings
from inflate.errors import ConfigError, InflateError, printable
from inflate.io.files import like, read_files
from inflate.io.location import is_remote, shown
from inflate.io.protected import place_of
from inflate.io.remote import matches
from inflate.options import SETTINGS, ConvertOptions
from inflate.workflow.planning import problems_of, settings_of

RUNTIME = 250_000_000
"""Memory of a process that has loaded torch, before its first job, in bytes."""

_ACTIVATIONS = 200_000_000
"""Memory of probe activations on a CPU and of everything else independent of weights, in bytes."""

_NOT_IN_RESULT = ("overwrite", "config", "set", *SETTINGS)
"""Options that do not affect the result, or only through the effective settings."""

_ARCHITECTURE = [key for key in known_keys() if key.startswith(("architecture.", "decoder."))]

_settings = lru_cache(maxsize=256)(settings_of)


@dataclass(frozen=True)
class Job:
    """One conversion: a source, an output, and options of ``convert``."""

    source: str
    output: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def settings(self) -> str:
        """Everything that determines the result except the source, as canonical JSON."""
        others = {k: v for k, v in self.options.items() if k not in _NOT_IN_RESULT}
        return json.dumps(effective_settings(self.options) | others, sort_keys=True, default=list)

    def document(self) -> dict[str, Any]:
        """The job for documents, without passwords."""
        places = {"source": shown(self.source), "output": shown(self.output)}
        return {**places, "options": dict(self.options)}


@dataclass(frozen=True)
class Estimate:
    """The sizes of a job's source and output, and its peak memory; None if unknown.

    ``obstacles`` are the reasons why it cannot run.
    """

    source_bytes: int | None = None
    output_bytes: int | None = None
    memory_bytes: int | None = None
    obstacles: tuple[str, ...] = ()


def estimate(job: Job) -> Estimate:
    """Estimate a job from a dry run of its conversion; for a remote source all is unknown.

    A job needs memory for both decoders in float32, and twice for the image decoder if parity
    compares rounded weights. Files pass through the page cache, which counts as free memory.
    """
    if is_remote(job.source):
        return Estimate()
    from inflate.workflow.conversion import convert

    options = ConvertOptions(**job.options)
    # Folding computes with weights, and changes the size by only one small tensor.
    dry = replace(options, dry_run=True, post_quant="keep", allow_inexact=False)
    files = filter(os.path.isfile, set(read_files(Path(job.source))))
    size = sum(path.stat().st_size for path in files)
    try:
        plan = convert(job.source, job.output, **dry.arguments()).plan
    except InflateError as error:
        return Estimate(size, None, _ACTIVATIONS, tuple(problems_of(error)))
    spatial, temporal = (
        sum(tensor.info.parameters for tensor in plan.of(part)) for part in ("spatial", "temporal")
    )
    images = 1 if plan.config.dtype in (None, "float32") else 2
    modules = 0 if options.skip_parity else 4 * ((1 + images) * spatial + temporal)
    return Estimate(size, plan.nbytes, modules + _ACTIVATIONS)


def expand(manifest: Manifest, own: Iterable[Path]) -> tuple[list[Job], list[str], list[str]]:
    """The jobs of a manifest in order, every problem, and notes.

    Patterns do not match ``own``, other files that the batch writes.
    """
    problems = list(manifest.problems)
    found: list[tuple[Job, bool]] = []
    for entry in manifest.entries:
        try:
            sources, globbed = _sources(entry.source, manifest.folder)
        except InflateError as error:
            problems.append(_at(entry, ".source", error))
            continue
        combinations = list(_combinations(entry, manifest.folder))
        wrong = [problem for options in combinations for problem in option_problems(options)]
        if wrong:
            problems += [_at(entry, "", problem) for problem in wrong]
            continue
        axes = [key for key, values in entry.matrix.items() if len(values) > 1]
        template = _template(entry, manifest.folder)
        for source, options in itertools.product(sources, combinations):
            try:
                output = name_output(template, source, options, effective_settings(options), axes)
                for name in (source, output):
                    name.encode()  # Ledgers and reports cannot hold a name that is not UTF-8.
            except ConfigError as error:
                problems.append(_at(entry, ".output", error))
            except UnicodeEncodeError as error:
                problems.append(f"{printable(error.object)} is not valid UTF-8; rename it")
            else:
                found.append((Job(source, output, options), globbed))
    jobs, notes = _without_own_outputs(found, own)
    return jobs, problems + _collisions(jobs), notes


def effective_settings(options: Mapping[str, Any]) -> Settings:
    """The effective settings of options: later layers win, as in ``convert``.

    Raises:
        ConfigError: the configuration or an assignment cannot be read.
    """
    return _settings(ConvertOptions(**options))


def option_problems(options: Mapping[str, Any]) -> list[str]:
    """Every problem of options that can be found without the source."""
    try:
        settings = _settings(ConvertOptions(**options))
        # Only the source shows which architecture fits.
        free = {k: v for k, v in settings.items() if k not in _ARCHITECTURE}
        build_config(Architecture(ch=128, ch_mult=(1,), num_res_blocks=1, z_channels=4), free)
    except InflateError as error:
        return problems_of(error)
    return []


def output_folder(manifest: Manifest) -> Path:
    """The common folder of all local outputs, independent of the sources that a pattern matches."""
    folders = set()
    for entry in manifest.entries:
        place = _template(entry, manifest.folder)
        if place is None:
            source = "" if is_remote(entry.source) else Path(entry.source)
            place = os.path.join(manifest.folder, source)
        if not is_remote(place):
            folders.add(os.path.abspath(os.path.dirname(re.split(r"[{*?[]", place)[0])))
    return Path(os.path.relpath(os.path.commonpath(folders))) if folders else Path()


def _at(entry: Entry, part: str, problem: object) -> str:
    """A problem, with its place in the manifest if there is one."""
    return f"{entry.place}{part}: {problem}" if entry.place else str(problem)


def _sources(pattern: str, folder: Path) -> tuple[list[str], bool]:
    """The locations that a source expands to, and whether it is a pattern."""
    if is_remote(pattern):
        if "*" not in pattern:  # A question mark begins the query of a web address.
            return [pattern], False
        found = matches(pattern)
    else:
        pattern = os.path.normpath(os.path.join(folder, pattern))
        if os.path.exists(pattern):
            return [pattern], False
        if not glob.has_magic(pattern):
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
    path = os.path.normpath(os.path.join(folder, entry.output))
    return path + "/" * (entry.output.endswith("/") or os.path.isdir(path))


def _without_own_outputs(
    found: list[tuple[Job, bool]], own: Iterable[Path]
) -> tuple[list[Job], list[str]]:
    """Leave out jobs if a pattern matched their source and this batch writes it.

    A job that would replace its own source is kept, and refused later.
    """
    made = dict.fromkeys(map(place_of, own))
    made.update((place_of(job.output), place_of(job.source)) for job, _ in found)
    kept = []
    for job, globbed in found:
        place = place_of(job.source)
        if not globbed or made.get(place, place) == place:
            kept.append(job)
    left = len(found) - len(kept)
    note = f"skipped {left} files that match a pattern but are outputs of this batch"
    return kept, [note] if left else []


def _collisions(jobs: list[Job]) -> list[str]:
    by_output = defaultdict(list)
    for job in jobs:
        by_output[place_of(job.output)].append(job)
    return [
        f"{same[0].output} would be the output of {len(same)} jobs, such as those of "
        f"{same[0].source} and {same[1].source}; distinguish them with {{stem}}, {{parent}}, "
        "{time_mode} and the like"
        for same in by_output.values()
        if len(same) > 1
    ]
