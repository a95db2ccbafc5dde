"""Checkpoints joined: temporal layers onto an image, a first stage into a whole model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from inflate.errors import FamilyError, PlanError
from inflate.formats.fingerprint import fingerprint_of
from inflate.formats.layouts import DECODER, is_inflated
from inflate.formats.recorded import (
    ORIGIN_FINGERPRINT_KEY,
    POST_QUANT_KEY,
    PREFIX_KEY,
    SOURCE_FINGERPRINT_KEY,
    SOURCE_NAME_KEY,
    origin_of,
)
from inflate.formats.source import Source
from inflate.formats.targets import FIRST_STAGE
from inflate.inflation.plan import InflationPlan
from inflate.io.header import STORED_NAMES
from inflate.io.reader import Checkpoint


def onto_base(temporal: Checkpoint, base: Source, name: str) -> tuple[Checkpoint, tuple[str, ...]]:
    """Temporal layers with their image autoencoder, whose name the header records, and notes."""
    others = [key for key in temporal.tensors if not _is_temporal(key)]
    if others or not temporal.tensors:
        raise FamilyError(
            f"{temporal.path} holds {others[0] if others else 'no tensors'}; with --base, expected "
            "a file of --layout temporal: temporal layers alone"
        )
    if base.inflated:
        raise FamilyError(
            f"{base.checkpoint.path} is a video checkpoint; expected an image checkpoint as --base"
        )
    digest, recorded = fingerprint_of(base.checkpoint), origin_of(temporal.metadata)
    notes: tuple[str, ...] = ()
    if recorded.get(ORIGIN_FINGERPRINT_KEY, digest) != digest:
        notes = (
            f"the temporal layers were made for other weights than those of {name}: their output "
            "need not suit it",
        )
    # The source of the result is the image itself, without an origin behind it.
    metadata = {
        key: text
        for key, text in temporal.metadata.items()
        if key != POST_QUANT_KEY and not key.startswith("inflate.origin.")
    }
    metadata |= {SOURCE_NAME_KEY: name, SOURCE_FINGERPRINT_KEY: digest}
    return replace(with_base(temporal, base), metadata=metadata), notes


def with_base(temporal: Checkpoint, base: Source) -> Checkpoint:
    """The tensors of both under LDM's keys, with the header of the first."""
    spatial = base.checkpoint
    kept = {key: info for key, info in spatial.tensors.items() if not _is_temporal(key)}
    files = replace(temporal.files, read=temporal.files.read.joined(spatial.files.read))
    return replace(
        temporal,
        files=files,
        tensors={**{k: replace(info, name=k) for k, info in kept.items()}, **temporal.tensors},
        places={**{k: spatial.places[k] for k in kept}, **temporal.places},
    )


@dataclass(frozen=True)
class WholeModel:
    """The file of a whole model, whose first stage is replaced."""

    checkpoint: Checkpoint

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of the tensors that are copied unchanged."""
        return tuple(n for n in self.checkpoint.tensors if not n.startswith(FIRST_STAGE))

    @property
    def metadata(self) -> dict[str, str]:
        """The entries of the model's own header that the result keeps."""
        recorded = self.checkpoint.metadata
        kept = {key: text for key, text in recorded.items() if not key.startswith("inflate.")}
        return {**kept, PREFIX_KEY: FIRST_STAGE}

    def check(self, plan: InflationPlan) -> None:
        """Check that a plan of layout ``sgm`` can replace the model's own first stage."""
        path, tensors = self.checkpoint.path, self.checkpoint.tensors
        decoder = f"{FIRST_STAGE}{DECODER}"
        parts = (f"{FIRST_STAGE}encoder.", decoder)
        own = {name: info.shape for name, info in tensors.items() if name.startswith(parts)}
        if not any(name.startswith(decoder) for name in own):
            raise FamilyError(
                f"{path} has no decoder under {FIRST_STAGE}; --into expects the file of a whole "
                "model, such as SVD's"
            )
        new = {tensor.info.name: tensor.shape for tensor in plan.tensors}
        added = new.keys() - own.keys()
        if not is_inflated(own):
            added = {name for name in added if not is_inflated([name])}
        differ = {name for name in own if own[name] != new.get(name)} | added
        problems = [
            f"{name}: its shape here is {new.get(name)}, in the model's own {own.get(name)}"
            for name in sorted(differ)
        ]
        if self.checkpoint.files.format == "torch":
            problems += [
                f"{name} is stored as {tensors[name].dtype}, which safetensors does not have"
                for name in self.kept
                if tensors[name].dtype not in STORED_NAMES.values()
            ]
        if problems:
            raise PlanError(f"the first stage does not fit into {path}:", problems)


def _is_temporal(key: str) -> bool:
    return key.startswith(DECODER) and is_inflated([key])
