"""Write one output: stage, check, publish."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from inflate._version import __version__
from inflate.config.schema import Config
from inflate.display import Displayed, bytes_text
from inflate.errors import printable
from inflate.formats import recorded
from inflate.formats.fingerprint import fingerprint, fingerprint_of
from inflate.formats.targets import container_of
from inflate.inflation.apply import Digests, carry_out, copy_as_is
from inflate.inflation.plan import InflationPlan, PlannedTensor
from inflate.io.files import hash_files
from inflate.io.ranges import partial_of
from inflate.io.staging import saying_why, stage
from inflate.io.torch_writer import open_writer
from inflate.options import ConvertOptions
from inflate.progress import Progress
from inflate.vocabulary import COMPARED_WITH_KEY, DEVICE_KEY, VERDICT_KEY, Target
from inflate.workflow.planning import Job

if TYPE_CHECKING:
    from inflate.parity.result import ParityReport


@dataclass(frozen=True, repr=False)
class ConversionResult(Displayed):
    """The result of a conversion.

    ``output`` is None if nothing was published: after a dry run, or if parity failed;
    ``destination`` is the intended output. ``parity`` is None if it was not checked. The
    fingerprints are None after a dry run, and ``source_sha256`` unless it was requested.
    ``source_config`` is the configuration of the source before planning.
    """

    plan: InflationPlan
    layout: Target
    parity: ParityReport | None
    output: Path | str | None
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    destination: str = ""
    fingerprint: str | None = None
    source_fingerprint: str | None = None
    source_sha256: str | None = None
    source_config: Config | None = None

    def _facts(self) -> dict[str, object]:
        location = self.destination if self.output is None else self.output
        return {
            "parity": "unverified" if self.parity is None else self.parity.verdict,
            "output": Path(location).name + ("" if self.output else " (not written)"),
            "size": bytes_text(self.plan.nbytes),
            "layout": self.layout,
            "tensors": len(self.plan.tensors),
            "initialised": len(self.plan.initialised),
            **{f"note {number}": note for number, note in enumerate(self.notes, 1)},
        }

    @property
    def passed(self) -> bool:
        """Whether parity held, or was not checked."""
        return self.parity is None or self.parity.passed


BeforePublish = Callable[[ConversionResult, Path], None]
"""Called before publishing, with the result and the hidden path of the finished file."""


def produce(
    job: Job,
    planned: ConversionResult,
    output: Path | str,
    local: Path,
    options: ConvertOptions,
    *,
    source_name: str,
    progress: Progress,
    before_publish: BeforePublish | None,
) -> ConversionResult:
    """Write ``local`` under a hidden name, check it, and publish it if parity holds.

    ``planned`` is the result of a dry run; ``output`` is the final destination of ``local``.

    Raises:
        InflateError: the source cannot be read, has changed meanwhile, or the destination cannot be
            written.
    """
    began = time.perf_counter()
    source, original, rest = job.source.checkpoint, job.original.checkpoint, job.rest
    original.download(progress)
    header = header_of(job, source_name)
    container = container_of(job.target, local)
    infos, read = [tensor.info for tensor in job.plan.tensors], source.files.read
    if rest is not None:
        rest.download(progress)
        header = {**rest.metadata, **header}
        infos += rest.tensors.values()
        read = read.joined(rest.files.read)
    folder_config = job.plan.folder_config
    with (
        stage(local, read, overwrite=options.overwrite, folder_config=folder_config) as staged,
        ThreadPoolExecutor(3) as pool,
    ):
        # The hash is free if the Hub or another store provides it.
        hashed = options.source_sha256 or all(partial_of(p) is not None for p in source.files.all)
        file_hash = pool.submit(hash_files, source.files) if hashed else None
        # Load torch while the file is written.
        loading = None if options.skip_parity else pool.submit(_load_check)
        with saying_why(local, sum(info.nbytes for info in infos)):
            writer = open_writer(container, staged.file, infos, header)
            digests = carry_out(job.plan, source, writer, progress)
            if rest is not None:
                copy_as_is(rest, writer)
        synced = pool.submit(writer.sync)
        source_print, own_print = _fingerprints(job, digests)
        written = time.perf_counter()
        parity = None
        if loading is not None:
            if not loading.done():
                progress("loading torch…", 0, 0)
            parity = loading.result()(
                job,
                staged,
                options.device,
                fingerprints=(source_print, own_print),
                destination=planned.destination,
                progress=progress,
            )
        seconds = {"write": written - began, "parity": time.perf_counter() - written}
        result = replace(
            planned,
            parity=parity,
            seconds={**planned.seconds, **seconds},
            fingerprint=own_print,
            source_fingerprint=source_print,
            source_sha256=None if file_hash is None else file_hash.result() or None,
            source_config=job.original.config,
        )
        if not result.passed:
            return result
        result = replace(result, output=output)
        with saying_why(local):
            writer.set_metadata({**header, **_known(result)})
            synced.result()
        if container == "safetensors":
            # Check that the library can at least read the header of the published file.
            with safe_open(staged.file.name, framework="numpy"):
                pass
        if before_publish is not None:
            before_publish(result, staged.path)
        staged.publish()
    return result


def _load_check() -> Callable[..., ParityReport]:
    from inflate.workflow.verification import check

    return check


def _fingerprints(job: Job, digests: Digests) -> tuple[str, str]:
    """The fingerprints of source and output; most tensors were hashed during writing."""
    seen, stored = job.source.checkpoint, job.original.checkpoint
    known = {
        key: digest
        for key, digest in digests.source.items()
        if seen.tensors[key] == stored.tensors.get(key)  # Otherwise it was computed.
    }
    output = {tensor.key: tensor.info for tensor in job.plan.tensors}
    return fingerprint_of(stored, known), fingerprint(output, digests.written)


def _known(result: ConversionResult) -> dict[str, str]:
    """The header entries that are known only after writing and after the check, if any."""
    known = {
        recorded.FINGERPRINT_KEY: result.fingerprint,
        recorded.SOURCE_FINGERPRINT_KEY: result.source_fingerprint,
        recorded.SOURCE_HASH_KEY: result.source_sha256,
    }
    if result.parity is not None:
        known[VERDICT_KEY] = result.parity.verdict
        known[COMPARED_WITH_KEY] = result.parity.compared_with
        known[DEVICE_KEY] = result.parity.environment.device
    return {key: text for key, text in known.items() if text is not None}


def header_of(job: Job, source_name: str) -> dict[str, str]:
    """The header of an unverified file; without dates or paths, so equal work gives equal files."""
    config, blend = job.plan.config, job.source.blend
    copied = job.original.checkpoint.metadata if blend is not None else {}
    folded = job.folded or copied.get(recorded.POST_QUANT_KEY) == "fold"
    header = {
        "format": "pt",
        "inflate.version": __version__,
        recorded.SOURCE_NAME_KEY: printable(source_name),
        recorded.CONFIG_KEY: json.dumps(asdict(config), sort_keys=True),
        recorded.SEED_KEY: str(config.seed),
        recorded.LAYOUT_KEY: job.target,
        recorded.POST_QUANT_KEY: "fold" if folded else "keep",
        recorded.PROVENANCE_KEY: json.dumps(_provenance(job.plan)),
        VERDICT_KEY: "unverified",
        DEVICE_KEY: "none",
    }
    if blend is not None:
        header[recorded.SOURCE_BLEND_KEY] = f"{blend.strategy}: {blend.reason}"
    if recorded.is_trained(copied):
        header[recorded.TRAINED_KEY] = "true"
    return header | recorded.origin_of(copied)


def _provenance(plan: InflationPlan) -> list[dict[str, object]]:
    """The number of tensors copied, or made by each rule, per group and part."""
    groups = Counter((_group(t.info.name), t.part, _origin(t)) for t in plan.tensors)
    return [
        {"tensors": group, "part": part, "origin": origin, "count": count}
        for (group, part, origin), count in groups.items()
    ]


def _group(name: str) -> str:
    """The first two parts of a name, which identify one stage of a decoder."""
    parts = name.split(".")
    return ".".join(parts[:2]) + ".*" if len(parts) > 2 else name


def _origin(tensor: PlannedTensor) -> str:
    if isinstance(tensor.origin, str):
        return f"copied from {_group(tensor.origin)}"
    return f"made: {tensor.origin.name}"
