"""What a conversion does, decided from names, shapes and a few numbers: its source and its plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from inflate.config.loading import parse_set, read_config
from inflate.config.schema import Settings
from inflate.errors import ConfigError
from inflate.formats.source import Source, describe, given_blend
from inflate.formats.targets import LAYOUTS
from inflate.formats.views import with_learned_blend
from inflate.inflation.plan import InflationPlan, dead_weight, make_plan
from inflate.inflation.targets import Fitted, fit
from inflate.io.reader import Checkpoint
from inflate.options import SETTINGS, ConvertOptions
from inflate.parity.result import FoldResult
from inflate.vocabulary import Target
from inflate.workflow.folding import folded, folds_encoder, measured
from inflate.workflow.identity import temporal_attention_is_identity
from inflate.workflow.joining import WholeModel


@dataclass(frozen=True)
class Job:
    """What is to be made of what: the source as it is seen, and its plan in the target's layout.

    ``original`` is the source as its file holds it, ``source`` as it is converted: folded, say.
    """

    original: Source
    source: Source
    target: Target
    fitted: Fitted
    folded: bool
    fold: FoldResult | None
    whole: WholeModel | None = None
    """The model whose first stage is replaced, if the result is a copy of one."""

    @property
    def plan(self) -> InflationPlan:
        """The plan, in the target's layout."""
        return self.fitted.plan

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user of the result."""
        return (
            *self.source.located.notes,
            *self.source.blend_notes,
            *dead_weight(self.plan),
            *self.fitted.notes,
            *self._taken_over(),
        )

    def _taken_over(self) -> Iterator[str]:
        if self.whole is not None:
            kept, path = len(self.whole.kept), self.whole.checkpoint.path
            yield f"{kept} other tensors are taken over from {path.name} as they are"


def settings_of(options: ConvertOptions) -> Settings:
    """The settings that options choose: one option over ``set`` over ``config``.

    Raises:
        ConfigError: the configuration or an assignment cannot be read.
    """
    chosen = {key: getattr(options, name) for name, key in SETTINGS.items()}
    return {
        **(read_config(options.config) if options.config is not None else {}),
        **parse_set(options.set or ()),
        **{key: value for key, value in chosen.items() if value is not None},
    }


def find_source(
    checkpoint: Checkpoint, options: ConvertOptions, settings: Settings | None = None
) -> Source:
    """The autoencoder that a conversion starts from; ``settings`` are those of the options.

    Raises:
        InflateError: there is none, or the settings do not fit it.
    """
    which: dict[str, Any] = {
        "prefix": options.prefix,
        "ema": options.weights == "ema",
        "image": not _copies(options),
        "ignore": options.ignore or (),
    }
    source = describe(checkpoint, settings_of(options) if settings is None else settings, **which)
    if _is_copied(source, options):
        blend = given_blend(source.config.temporal.merge_strategy)
        _check_unchanged(source, describe(checkpoint, blend, **which))
    return source


def find_base(checkpoint: Checkpoint, options: ConvertOptions) -> Source:
    """The image autoencoder that temporal layers are put onto.

    Raises:
        InflateError: there is none.
    """
    ema, ignore = options.weights == "ema", options.ignore or ()
    return describe(checkpoint, prefix=options.prefix, ema=ema, image=True, ignore=ignore)


def find_joined(
    checkpoint: Checkpoint, options: ConvertOptions, settings: Settings, notes: tuple[str, ...]
) -> Source:
    """The video autoencoder of temporal layers on their base; each side keeps its types.

    Raises:
        InflateError: they do not fit each other, or the settings.
    """
    own = replace(options, prefix=None, weights="plain", ignore=None)  # They concern the base.
    source = find_source(checkpoint, own, {"dtype": None, **settings})
    return replace(source, located=replace(source.located, notes=(*source.located.notes, *notes)))


def target_of(options: ConvertOptions) -> Target:
    """The layout to write.

    Raises:
        ConfigError: a whole model has its first stage in another.
    """
    if options.into is None:
        return options.layout or "autoencoder"
    if options.layout not in (None, "sgm"):
        raise ConfigError(
            f"--into writes the names of layout 'sgm', not {options.layout!r}; leave --layout out"
        )
    return "sgm"


def prepare(
    original: Source, options: ConvertOptions, whole_model: WholeModel | None = None
) -> Job:
    """Plan what becomes of a source: an image autoencoder is inflated, a video one copied.

    Args:
        original: the autoencoder of the source.
        options: those of the conversion.
        whole_model: the model whose first stage is replaced.

    Raises:
        FamilyError: the source is a video autoencoder, and no layout is chosen.
        PlanError: the source does not fit its architecture, or the layout cannot hold it.
    """
    target = target_of(options)
    copying = _is_copied(original, options)
    asked = options.post_quant == "fold"
    quant = original.located.part("post_quant_conv.") or original.located.part("quant_conv.")
    whole = original
    if quant and (asked or LAYOUTS[target].folds):
        whole = folded(original, target, encoder=folds_encoder(target))
    if asked and whole.checkpoint is original.checkpoint:
        note = "nothing is folded: the source has no post_quant_conv"
        located = replace(original.located, notes=(*original.located.notes, note))
        whole = replace(original, located=located)
    seen = _blended_for(whole, target, copying=copying)
    path = original.checkpoint.path
    plan = make_plan(seen.located, seen.config, path, copying=copying)
    identity = not copying or temporal_attention_is_identity(seen)
    fitted = fit(plan, target, attention_is_identity=identity, copying=copying)
    if whole_model is not None:
        whole_model.check(fitted.plan)
    is_folded = whole.checkpoint is not original.checkpoint
    # Measured last, since that loads torch: misfits are reported at once.
    fold = measured(original, whole, options) if is_folded else None
    return Job(original, seen, target, fitted, is_folded, fold, whole_model)


def _is_copied(source: Source, options: ConvertOptions) -> bool:
    """Whether the source is a video checkpoint, to be copied as it is."""
    return source.inflated and _copies(options)


def _copies(options: ConvertOptions) -> bool:
    """Whether options accept a video checkpoint as the source."""
    return any(each is not None for each in (options.layout, options.into, options.base))


def _check_unchanged(asked: Source, own: Source) -> None:
    """See that a copy keeps the temporal layers of a video checkpoint."""
    if asked.config.temporal != own.config.temporal:
        raise ConfigError(
            f"{own.checkpoint.path} is inflated already, with {own.config.temporal}; its temporal "
            "layers cannot be changed by copying. Convert the image checkpoint instead"
        )


def _blended_for(seen: Source, target: Target, *, copying: bool) -> Source:
    """The source with its fixed blend as the learned one that its reader knows, to start from."""
    temporal = seen.config.temporal
    if not LAYOUTS[target].svd or temporal.merge_strategy == "learned":
        return seen
    if not 0.0 < temporal.alpha < 1.0:
        return seen  # No sigmoid reaches it: fit() reports that with the other problems.
    learned = replace(
        temporal, merge_strategy="learned", alpha=math.log(temporal.alpha / (1.0 - temporal.alpha))
    )
    config = replace(seen.config, temporal=learned)
    if copying:
        seen = seen.seen_as(with_learned_blend(seen.checkpoint))
    return replace(seen, config=config)
