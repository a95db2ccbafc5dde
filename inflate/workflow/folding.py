"""``--post-quant fold``: fold the 1x1 convolutions around the latents into their neighbours."""

from __future__ import annotations

from dataclasses import replace

from inflate.errors import PlanError
from inflate.formats.layouts import DECODER, is_inflated
from inflate.formats.locate import LeftBehind
from inflate.formats.shapes import image_problems
from inflate.formats.source import Source
from inflate.formats.targets import LAYOUTS
from inflate.formats.views import overlaid, with_post_quant_folded, with_quant_folded
from inflate.io.reader import Checkpoint
from inflate.options import ConvertOptions
from inflate.parity.result import FoldResult
from inflate.vocabulary import Target


def folded(source: Source, target: Target, *, encoder: bool) -> Source:
    """A source with ``post_quant_conv`` folded, and ``quant_conv`` into the encoder if wanted.

    Raises:
        PlanError: the source does not fit its architecture, or the numbers of channels do not allow
            it.
    """
    checkpoint, path = source.checkpoint, source.checkpoint.path
    temporal = [key for key in source.located.part(DECODER) if is_inflated([key])]
    if problems := image_problems(source.located, source.config.architecture, temporal):
        raise PlanError(f"{path} does not fit its architecture:", problems)
    e, z = source.config.architecture.embed_dim, source.config.architecture.z_channels
    after = bool(source.located.part("post_quant_conv."))
    if after and e != z and target != "decoder":
        raise PlanError(
            f"{path} has {e} channels between its quant convs and {z} around them: folded, encoder "
            "and decoder would not fit one architecture. Fold it for --layout decoder only"
        )
    notes = source.located.notes
    if after:
        checkpoint = with_post_quant_folded(checkpoint)
    if encoder and source.located.part("quant_conv.") and source.located.part("encoder."):
        checkpoint = with_quant_folded(checkpoint)
        notes = (*notes, "quant_conv is folded into encoder.conv_out, exact up to rounding")
    if target == "decoder" and e != z:
        return _decoder_alone(source, checkpoint)
    return replace(source, located=replace(source.located, notes=notes)).seen_as(checkpoint)


def folds_encoder(target: Target) -> bool:
    """Whether a fold for a layout covers ``quant_conv``: its reader has no place for that."""
    layout = LAYOUTS[target]
    return "encoder." in layout.parts and layout.naming == "ldm"


def _decoder_alone(source: Source, checkpoint: Checkpoint) -> Source:
    """The decoder of a source alone, since a fold changes the latents that it takes."""
    around = {k: info for k, info in checkpoint.tensors.items() if not k.startswith(DECODER)}
    left = [LeftBehind(info, "layout 'decoder' is the bare decoder") for info in around.values()]
    located = replace(source.located, dropped=(*source.located.dropped, *left))
    return replace(source, located=located).seen_as(overlaid(checkpoint, {}, frozenset(around)))


def measured(original: Source, whole: Source, options: ConvertOptions) -> FoldResult | None:
    """What a fold changes; None if there was no ``post_quant_conv``, or parity is not checked.

    Args:
        original: the source with ``post_quant_conv``.
        whole: the same with it folded.
        options: whether the fold may be inexact, and the device to measure on.

    Raises:
        PlanError: the fold is not exact, which was not allowed.
    """
    if not original.located.part("post_quant_conv."):
        return None  # What quant_conv changes is rounding: nothing to allow.
    path = original.checkpoint.path
    fold = None
    if not (options.skip_parity or options.dry_run):  # Else torch is not needed.
        from inflate.parity.device import resolve_device
        from inflate.parity.floor import measure_fold

        fold = measure_fold(original, whole, resolve_device(options.device), original.config.seed)
    bias = float(abs(original.read("post_quant_conv.bias").astype("float64")).max())
    if bias and not options.allow_inexact:
        raise PlanError(
            f"folding post_quant_conv of {path} is not exact, since its bias is not 0 (up to "
            f"{bias:.3g}): {_changes(fold)}. Pass --allow-inexact to fold it anyway"
        )
    return fold


def _changes(fold: FoldResult | None) -> str:
    if fold is None:
        return "the images change, most near their border"
    return (
        f"the output of conv_in changes by up to {_text(fold.border)} on the border of one latent "
        f"pixel and {_text(fold.inside)} inside, the images by up to {_text(fold.output)}"
    )


def _text(error: float | None) -> str:
    return "not finite" if error is None else f"{error:.3g}"
