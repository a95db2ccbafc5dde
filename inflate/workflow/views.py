"""Views of a source before it is planned: folded, on a base, or for a place in a whole model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inflate.display import error_text
from inflate.errors import FamilyError, PlanError
from inflate.formats.architecture import image_problems
from inflate.formats.fingerprint import fingerprint_of
from inflate.formats.layouts import DECODER, is_inflated
from inflate.formats.locate import Dropped
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
from inflate.formats.views import overlaid, with_post_quant_folded, with_quant_folded
from inflate.inflation.plan import InflationPlan
from inflate.io.header import STORED_NAMES
from inflate.io.reader import Checkpoint
from inflate.options import ConvertOptions
from inflate.vocabulary import Target

if TYPE_CHECKING:
    from inflate.parity.result import FoldResult


def noted(source: Source, *notes: str) -> Source:
    """A source with more notes for the user."""
    return replace(source, located=replace(source.located, notes=(*source.located.notes, *notes)))


def folded(source: Source, target: Target, *, encoder: bool) -> Source:
    """A source with ``post_quant_conv`` folded, and ``quant_conv`` into the encoder if wanted."""
    checkpoint, path = source.checkpoint, source.checkpoint.path
    if problems := image_problems(source.located, source.config.architecture):
        raise PlanError(f"{path} does not fit its architecture:", problems)
    e, z = source.config.architecture.embed_dim, source.config.architecture.z_channels
    after = bool(source.located.part("post_quant_conv."))
    if after and e != z and target != "decoder":
        raise PlanError(
            f"{path} has {e} channels between its quant convs and {z} around them: folded, encoder "
            "and decoder would not fit one architecture. Fold it for --layout decoder only"
        )
    if after:
        checkpoint = with_post_quant_folded(checkpoint)
    if encoder and source.located.part("quant_conv.") and source.located.part("encoder."):
        checkpoint = with_quant_folded(checkpoint)
        source = noted(source, "quant_conv is folded into encoder.conv_out, exact up to rounding")
    if target == "decoder" and e != z:
        # The fold changes the latents that the decoder takes: it is alone from here on.
        around = {k: i for k, i in checkpoint.tensors.items() if not k.startswith(DECODER)}
        left = [Dropped(info, "layout 'decoder' is the bare decoder") for info in around.values()]
        located = replace(source.located, dropped=(*source.located.dropped, *left))
        source = replace(source, located=located)
        checkpoint = overlaid(checkpoint, {}, frozenset(around))
    return source.seen_as(checkpoint)


def measured(original: Source, whole: Source, options: ConvertOptions) -> FoldResult | None:
    """What a fold changes; None if there was no ``post_quant_conv``, or parity is not checked.

    Raises PlanError if the fold is not exact, and that is not allowed.
    """
    if not original.located.part("post_quant_conv."):
        return None  # What quant_conv changes is rounding: nothing to allow.
    fold = None
    if not (options.skip_parity or options.dry_run):  # Else torch is not needed.
        from inflate.parity.device import resolve_device
        from inflate.parity.floor import measure_fold

        fold = measure_fold(original, whole, resolve_device(options.device), original.config.seed)
    bias = float(abs(original.read("post_quant_conv.bias").astype("float64")).max())
    if bias and not options.allow_inexact:
        changes = "the images change, most near their border"
        if fold is not None:
            changes = (
                f"the output of conv_in changes by up to {error_text(fold.border)} on its border "
                f"and {error_text(fold.inside)} inside, the images by up to "
                f"{error_text(fold.output)}"
            )
        raise PlanError(
            f"folding post_quant_conv of {original.checkpoint.path} is not exact, since its bias "
            f"is not 0 (up to {bias:.3g}): {changes}. Pass --allow-inexact to fold it anyway"
        )
    return fold


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
