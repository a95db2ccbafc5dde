"""Plan a conversion from names, shapes and a few values."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from inflate.config.loading import parse_set, read_config
from inflate.config.schema import Settings
from inflate.errors import ConfigError, InflateError
from inflate.formats.source import Source, describe, given_blend
from inflate.formats.spec import decoder_spec
from inflate.formats.targets import LAYOUTS
from inflate.formats.views import with_learned_blend
from inflate.inflation.initializers import IDENTITY_LAYERS
from inflate.inflation.plan import InflationPlan, make_plan
from inflate.inflation.targets import fit
from inflate.io.reader import Checkpoint
from inflate.options import SETTINGS, ConvertOptions
from inflate.progress import Progress
from inflate.vocabulary import Target
from inflate.workflow.sources import name_of
from inflate.workflow.views import folded, measured, noted, onto_base, without_first_stage

if TYPE_CHECKING:
    from inflate.parity.result import FoldResult


@dataclass(frozen=True)
class Job:
    """The source as stored, the source as converted (for example folded), and the plan.

    ``rest`` has the other tensors of a whole model whose first stage is replaced, if any.
    """

    original: Source
    source: Source
    target: Target
    plan: InflationPlan
    folded: bool
    fold: FoldResult | None
    rest: Checkpoint | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user."""
        notes = [*self.source.located.notes, *self.source.blend_notes, *self.plan.notes]
        if self.rest is not None:
            kept, name = len(self.rest.tensors), self.rest.path.name
            notes.append(f"{kept} other tensors of {name} are copied unchanged")
        return tuple(notes)


def settings_of(options: ConvertOptions) -> Settings:
    """The settings from options: single options override ``set``, which overrides ``config``."""
    chosen = {key: getattr(options, name) for name, key in SETTINGS.items()}
    return {
        **(read_config(options.config) if options.config is not None else {}),
        **parse_set(options.set or ()),
        **{key: value for key, value in chosen.items() if value is not None},
    }


def problems_of(error: InflateError) -> list[str]:
    """The problems that an error lists, or else its message."""
    return [*getattr(error, "problems", ())] or [str(error)]


def find_source(
    checkpoint: Checkpoint, options: ConvertOptions, settings: Settings | None = None
) -> Source:
    """The source autoencoder of a conversion; ``settings`` come from the options."""
    which: dict[str, Any] = {**_selection(options), "image": not _copies(options)}
    source = describe(checkpoint, settings_of(options) if settings is None else settings, **which)
    if source.inflated and _copies(options):
        blend = given_blend(source.config.temporal.merge_strategy)
        own = describe(checkpoint, blend, **which).config.temporal
        if source.config.temporal != own:
            raise ConfigError(
                f"{checkpoint.path} is inflated already, with {own}; its temporal layers cannot be "
                "changed by copying. Convert the image checkpoint instead"
            )
    return source


def find_joined(
    temporal: Checkpoint,
    image: Checkpoint,
    options: ConvertOptions,
    settings: Settings,
    progress: Progress,
) -> Source:
    """Join temporal layers with their base image autoencoder; each side keeps its types."""
    base = describe(image, image=True, **_selection(options))
    base.checkpoint.download(progress)
    joined, notes = onto_base(temporal, base, name_of(options.base or ""))
    own = replace(options, prefix=None, weights="plain", ignore=None)  # Options of the base.
    return noted(find_source(joined, own, {"dtype": None, **settings}), *notes)


def target_of(options: ConvertOptions) -> Target:
    """The layout to write; ``sgm`` for the first stage of a whole model."""
    if options.into is None:
        return options.layout or "autoencoder"
    if options.layout not in (None, "sgm"):
        raise ConfigError(
            f"--into writes the names of layout 'sgm', not {options.layout!r}; leave --layout out"
        )
    return "sgm"


def prepare(original: Source, options: ConvertOptions, whole: Checkpoint | None = None) -> Job:
    """Plan a conversion: an image autoencoder is inflated, a video autoencoder copied.

    Raises:
        FamilyError: the source is a video autoencoder, but no layout is given.
        PlanError: the source does not fit its architecture, or the layout cannot hold it.
    """
    target = target_of(options)
    layout, located, path = LAYOUTS[target], original.located, original.checkpoint.path
    copying = original.inflated and _copies(options)
    source, wanted = original, options.post_quant == "fold"
    has_quant = located.part("post_quant_conv.") or located.part("quant_conv.")
    if has_quant and (wanted or layout.folds):
        # A reader of a whole autoencoder in LDM's names has no place for quant_conv.
        encoder = "encoder." in layout.parts and layout.naming == "ldm"
        source = folded(original, target, encoder=encoder)
    is_folded = source.checkpoint is not original.checkpoint
    if wanted and not is_folded:
        source = noted(original, "nothing is folded: the source has no post_quant_conv")
    seen = _blended_for(source, target, copying=copying)
    plan = make_plan(seen.located, seen.config, path, copying=copying)
    identity = not copying or _temporal_attention_is_identity(seen)
    plan = fit(plan, target, attention_is_identity=identity, copying=copying)
    rest = None if whole is None else without_first_stage(whole, plan)
    # Measure last, since that loads torch; other problems are reported sooner.
    fold = measured(original, source, options) if is_folded else None
    return Job(original, seen, target, plan, is_folded, fold, rest)


def _selection(options: ConvertOptions) -> dict[str, Any]:
    """Options that select the autoencoder of a file, as arguments of ``describe``."""
    ema, ignore = options.weights == "ema", options.ignore or ()
    return {"prefix": options.prefix, "ema": ema, "ignore": ignore}


def _copies(options: ConvertOptions) -> bool:
    """Whether options accept a video checkpoint as the source, which is then copied."""
    return any(each is not None for each in (options.layout, options.into, options.base))


def _blended_for(seen: Source, target: Target, *, copying: bool) -> Source:
    """The source with its fixed blend converted to an equal learned one for its reader."""
    temporal = seen.config.temporal
    if not LAYOUTS[target].hardwired or temporal.merge_strategy == "learned":
        return seen
    if not 0.0 < temporal.alpha < 1.0:
        return seen  # A sigmoid cannot reach it: fit() reports that with the other problems.
    learned = replace(
        temporal, merge_strategy="learned", alpha=math.log(temporal.alpha / (1.0 - temporal.alpha))
    )
    config = replace(seen.config, temporal=learned)
    if copying:
        seen = seen.seen_as(with_learned_blend(seen.checkpoint))
    return replace(seen, config=config)


def _temporal_attention_is_identity(source: Source) -> bool:
    """Whether temporal attention is an identity: its last layers are all still zero."""
    config = source.config
    return not any(
        source.checkpoint.read(tensor.key).any()
        for tensor in decoder_spec(config.architecture, config.temporal)
        if tensor.part in ("time_mix_block", "video_time_embed")
        and tensor.layer in IDENTITY_LAYERS[tensor.part]
    )
