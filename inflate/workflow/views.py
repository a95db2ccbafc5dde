"""Views of a source: folded, with recorded settings, on a base, or in a whole model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from inflate.display import error_text
from inflate.errors import ConfigError, FamilyError, PlanError
from inflate.formats import recorded
from inflate.formats.architecture import image_problems
from inflate.formats.fingerprint import fingerprint_of
from inflate.formats.layouts import DECODER, is_inflated
from inflate.formats.locate import Dropped
from inflate.formats.source import Source
from inflate.formats.targets import FIRST_STAGE
from inflate.formats.views import overlaid, with_post_quant_folded, with_quant_folded
from inflate.inflation.plan import InflationPlan
from inflate.io.header import STORED_NAMES
from inflate.io.reader import Checkpoint
from inflate.options import ConvertOptions
from inflate.vocabulary import Target

if TYPE_CHECKING:
    import torch

    from inflate.parity.result import FoldResult


def noted(source: Source, *notes: str) -> Source:
    """The source with additional notes for the user."""
    return replace(source, located=replace(source.located, notes=(*source.located.notes, *notes)))


def folded(source: Source, target: Target, *, encoder: bool) -> Source:
    """The source with ``post_quant_conv`` folded, and ``quant_conv`` into the encoder if wanted."""
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
        # The fold changes the latents of the decoder, so keep only the decoder.
        around = {k: i for k, i in checkpoint.tensors.items() if not k.startswith(DECODER)}
        left = [Dropped(info, "layout 'decoder' is the bare decoder") for info in around.values()]
        located = replace(source.located, dropped=(*source.located.dropped, *left))
        source = replace(source, located=located)
        checkpoint = overlaid(checkpoint, {}, frozenset(around))
    return source.seen_as(checkpoint)


def measured(original: Source, whole: Source, options: ConvertOptions) -> FoldResult | None:
    """Measure what a fold changes; None without ``post_quant_conv`` or parity check.

    Raises PlanError if the fold is not exact and ``--allow-inexact`` is off.
    """
    if not original.located.part("post_quant_conv."):
        return None  # Folding quant_conv changes only rounding, so it is always allowed.
    fold = None
    if not (options.skip_parity or options.dry_run):  # Otherwise torch is not needed.
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


def as_recorded(image: Source, video: Source, *, scaled: bool) -> Source:
    """The reference with the candidate's recorded settings that tensors do not show."""
    theirs = recorded.recorded_settings(video.checkpoint.metadata, video.checkpoint.path)
    ours = recorded.recorded_settings(image.checkpoint.metadata, image.checkpoint.path)
    architecture, taken, problems = image.config.architecture, {}, []
    for name in ("tanh_out", "attn_type", "scaling_factor", "shift_factor"):
        key = f"architecture.{name}"
        own, value = getattr(architecture, name), getattr(video.config.architecture, name)
        computed = name in ("tanh_out", "attn_type")
        # Tensors show only whether there is attention.
        if key not in theirs or value is None or "none" in (own, value):
            continue
        if key not in ours and (computed or own is None):
            taken[name] = value
        elif own != value and (computed or scaled):
            problems.append(f"{key}: the reference has {own!r}, the candidate {value!r}")
    if problems:
        raise ConfigError(
            f"{image.checkpoint.path} and the candidate record different architectures:", problems
        )
    config = replace(image.config, architecture=replace(architecture, **taken))
    return replace(image, config=config)


def folded_alike(
    image: Source, video: Source, device: torch.device, seed: int
) -> tuple[Source, FoldResult | None]:
    """The reference, folded if the candidate's header records a fold, and what that changes."""
    if video.checkpoint.metadata.get(recorded.POST_QUANT_KEY) != "fold":
        return image, None
    # Earlier versions folded quant_conv in some layouts only: the tensors show it.
    encoder = video.info("quant_conv.weight") is None
    target: Target = "autoencoder" if video.located.part("encoder.") else "decoder"
    whole = folded(image, target, encoder=encoder)
    if image.info("post_quant_conv.weight") is None:
        return whole, None
    from inflate.parity.floor import measure_fold

    return whole, measure_fold(image, whole, device, seed)


def onto_base(temporal: Checkpoint, base: Source, name: str) -> tuple[Checkpoint, tuple[str, ...]]:
    """Join temporal layers with their image autoencoder, which the header names; adds notes."""
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
    digest, origin = fingerprint_of(base.checkpoint), recorded.origin_of(temporal.metadata)
    notes: tuple[str, ...] = ()
    if origin.get(recorded.ORIGIN_FINGERPRINT_KEY, digest) != digest:
        notes = (
            f"the temporal layers were not made for the weights of {name}: their output "
            "may not match it",
        )
    # The source of the result is the image checkpoint itself, without a further origin.
    metadata = {
        key: text
        for key, text in temporal.metadata.items()
        if key != recorded.POST_QUANT_KEY and not key.startswith("inflate.origin.")
    }
    metadata |= {recorded.SOURCE_NAME_KEY: name, recorded.SOURCE_FINGERPRINT_KEY: digest}
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


def without_first_stage(whole: Checkpoint, plan: InflationPlan) -> Checkpoint:
    """The tensors of a whole model to keep when a plan of layout ``sgm`` replaces its first stage.

    Raises:
        FamilyError: it has no first stage.
        PlanError: the plan does not match the first stage, or safetensors cannot store the rest.
    """
    path, decoder = whole.path, f"{FIRST_STAGE}{DECODER}"
    parts = (f"{FIRST_STAGE}encoder.", decoder)
    own = {name: info.shape for name, info in whole.tensors.items() if name.startswith(parts)}
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
    replaced = frozenset(name for name in whole.tensors if name.startswith(FIRST_STAGE))
    rest = overlaid(whole, {}, replaced)
    if whole.files.format == "torch":
        problems += [
            f"{name} is stored as {info.dtype}, which safetensors does not support"
            for name, info in rest.tensors.items()
            if info.dtype not in STORED_NAMES.values()
        ]
    if problems:
        raise PlanError(f"the first stage does not fit into {path}:", problems)
    kept = {key: text for key, text in whole.metadata.items() if not key.startswith("inflate.")}
    return replace(rest, metadata={**kept, recorded.PREFIX_KEY: FIRST_STAGE})


def _is_temporal(key: str) -> bool:
    return key.startswith(DECODER) and is_inflated([key])
