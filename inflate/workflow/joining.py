"""Checkpoints joined: temporal layers onto an image, a first stage into a whole model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from inflate.errors import FamilyError, PlanError
from inflate.formats.fingerprint import fingerprint_of
from inflate.formats.layouts import DECODER, is_inflated
from inflate.formats.recorded import (
    ORIGIN_FINGERPRINT_KEY,
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
from inflate.workflow.header import POST_QUANT_KEY

_OWN = "inflate."
"""What the keys of our header begin with."""


def onto_base(temporal: Checkpoint, base: Source, name: str) -> tuple[Checkpoint, tuple[str, ...]]:
    """Temporal layers with the image autoencoder that they belong to, and notes.

    Args:
        temporal: a file of layout ``temporal``.
        base: the image checkpoint.
        name: its name, which the header records.

    Raises:
        FamilyError: the first holds other tensors, too, or the second is a video checkpoint.
    """
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
    spatial = base.checkpoint
    digest, recorded = fingerprint_of(spatial), origin_of(temporal.metadata)
    notes: tuple[str, ...] = ()
    if recorded.get(ORIGIN_FINGERPRINT_KEY, digest) != digest:
        notes = (
            f"the temporal layers were made for other weights than those of {name}: their output "
            "need not suit it",
        )
    own = {key: text for key, text in temporal.metadata.items() if key != POST_QUANT_KEY}
    metadata = {**own, SOURCE_NAME_KEY: name, SOURCE_FINGERPRINT_KEY: digest}
    return replace(with_base(temporal, base), metadata=without_origin(metadata)), notes


def with_base(temporal: Checkpoint, base: Source) -> Checkpoint:
    """The tensors of both under LDM's keys, with the header of the first."""
    spatial = base.checkpoint
    tensors = {
        key: replace(info, name=key)
        for key, info in spatial.tensors.items()
        if not _is_temporal(key)
    }
    places = {key: spatial.places[key] for key in tensors}
    files = replace(temporal.files, read=temporal.files.read.joined(spatial.files.read))
    return replace(
        temporal,
        files=files,
        tensors={**tensors, **temporal.tensors},
        places={**places, **temporal.places},
    )


@dataclass(frozen=True)
class WholeModel:
    """The file of a whole model, whose first stage is replaced."""

    checkpoint: Checkpoint

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of the tensors that are taken over as they are."""
        return tuple(n for n in self.checkpoint.tensors if not n.startswith(FIRST_STAGE))

    @property
    def metadata(self) -> dict[str, str]:
        """What the header keeps of the model's own."""
        recorded = self.checkpoint.metadata
        kept = {key: text for key, text in recorded.items() if not key.startswith(_OWN)}
        return {**kept, PREFIX_KEY: FIRST_STAGE}

    def check(self, plan: InflationPlan) -> None:
        """Check that a plan of layout ``sgm`` fits in the place of the model's own first stage.

        Raises:
            FamilyError: the model has no first stage.
            PlanError: names, shapes or types do not fit; every reason is reported.
        """
        path, tensors = self.checkpoint.path, self.checkpoint.tensors
        parts = (f"{FIRST_STAGE}encoder.", f"{FIRST_STAGE}{DECODER}")
        own = {name: info.shape for name, info in tensors.items() if name.startswith(parts)}
        if not any(name.startswith(parts[1]) for name in own):
            raise FamilyError(
                f"{path} has no decoder under {FIRST_STAGE}; --into expects the file of a whole "
                "model, such as SVD's"
            )
        new = {tensor.info.name: tensor.shape for tensor in plan.tensors}
        added = new.keys() - own.keys()
        if not is_inflated(own):
            added = {name for name in added if not is_inflated([name])}
        problems = [f"{name} is missing here" for name in sorted(own.keys() - new.keys())]
        problems += [f"{name} is not in the model's own" for name in sorted(added)]
        problems += [
            f"{name} has the shape {list(shape)}, and the model's own {list(own[name])}"
            for name, shape in new.items()
            if own.get(name, shape) != shape
        ]
        types = {name: tensors[name].dtype for name in self.kept}
        problems += [
            f"{name} is stored as {dtype}, which safetensors does not have"
            for name, dtype in types.items()
            if self.checkpoint.files.format == "torch" and dtype not in STORED_NAMES.values()
        ]
        if problems:
            raise PlanError(f"the first stage does not fit into {path}:", problems)


def without_origin(metadata: dict[str, str]) -> dict[str, str]:
    """A header whose source is the image itself."""
    return {k: text for k, text in metadata.items() if not k.startswith("inflate.origin.")}


def _is_temporal(key: str) -> bool:
    return key.startswith(DECODER) and is_inflated([key])
