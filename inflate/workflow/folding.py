"""``--post-quant fold``: fold the 1x1 convolutions around the latents into their neighbours."""

from __future__ import annotations

from dataclasses import replace

from inflate.display import error_text
from inflate.errors import PlanError
from inflate.formats.layouts import DECODER
from inflate.formats.locate import LeftBehind
from inflate.formats.source import Source
from inflate.formats.views import overlaid, with_post_quant_folded, with_quant_folded
from inflate.options import ConvertOptions
from inflate.parity.result import FoldResult
from inflate.vocabulary import Target


def noted(source: Source, *notes: str) -> Source:
    """A source with more notes for the user."""
    return replace(source, located=replace(source.located, notes=(*source.located.notes, *notes)))


def folded(source: Source, target: Target, *, encoder: bool) -> Source:
    """A source with ``post_quant_conv`` folded, and ``quant_conv`` into the encoder if wanted."""
    checkpoint, path = source.checkpoint, source.checkpoint.path
    e, z = source.config.architecture.embed_dim, source.config.architecture.z_channels
    after = bool(source.located.part("post_quant_conv."))
    if after and e != z and target != "decoder":
        raise PlanError(
            f"{path} has {e} channels between its quant convs and {z} around them: folded, encoder "
            "and decoder would not fit one architecture. Fold it for --layout decoder only"
        )
    if after:
        _require(source, "post_quant_conv", "decoder.conv_in")
        checkpoint = with_post_quant_folded(checkpoint)
    if encoder and source.located.part("quant_conv.") and source.located.part("encoder."):
        _require(source, "quant_conv", "encoder.conv_out")
        checkpoint = with_quant_folded(checkpoint)
        source = noted(source, "quant_conv is folded into encoder.conv_out, exact up to rounding")
    if target == "decoder" and e != z:
        # The fold changes the latents that the decoder takes: it is alone from here on.
        around = {k: i for k, i in checkpoint.tensors.items() if not k.startswith(DECODER)}
        left = [
            LeftBehind(info, "layout 'decoder' is the bare decoder") for info in around.values()
        ]
        located = replace(source.located, dropped=(*source.located.dropped, *left))
        source = replace(source, located=located)
        checkpoint = overlaid(checkpoint, {}, frozenset(around))
    return source.seen_as(checkpoint)


def _require(source: Source, *convolutions: str) -> None:
    keys = [f"{name}.{leaf}" for name in convolutions for leaf in ("weight", "bias")]
    missing = [f"{key} is missing" for key in keys if source.info(key) is None]
    if missing:
        raise PlanError(f"{source.checkpoint.path} cannot be folded:", missing)


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
