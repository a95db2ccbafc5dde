"""What a conversion does, decided from names, shapes and a few numbers: its source and its plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from inflate.config.loading import parse_set, read_config
from inflate.config.schema import Settings
from inflate.errors import ConfigError
from inflate.formats.source import Source, describe, given_blend
from inflate.inflation.dead_weight import dead_weight
from inflate.inflation.plan import InflationPlan, make_copy_plan, make_plan
from inflate.inflation.targets import Fitted, fit, learned_alpha
from inflate.io.reader import Checkpoint
from inflate.options import SETTINGS, ConvertOptions
from inflate.parity.result import FoldResult
from inflate.vocabulary import Target
from inflate.workflow.identity import temporal_attention_is_identity


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
        )


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
        "image": options.layout is None,
        "ignore": options.ignore or (),
    }
    source = describe(checkpoint, settings_of(options) if settings is None else settings, **which)
    if _is_copied(source, options):
        blend = given_blend(source.config.temporal.merge_strategy)
        _check_unchanged(source, describe(checkpoint, blend, **which))
    return source


def prepare(original: Source, options: ConvertOptions) -> Job:
    """Plan what becomes of a source: an image autoencoder is inflated, a video one copied.

    Raises:
        FamilyError: the source is a video autoencoder, and no layout is chosen.
        PlanError: the source does not fit its architecture, or the layout cannot hold it.
    """
    target: Target = options.layout or "autoencoder"
    copying = _is_copied(original, options)
    seen, fold = original, None
    folded = options.post_quant == "fold"
    if folded:
        from inflate.workflow.folding import fold_as_asked

        seen, fold = fold_as_asked(original, target, options)
        folded = seen.checkpoint is not original.checkpoint
    seen = _blended_for(seen, target, copying=copying)
    path = original.checkpoint.path
    plan = (make_copy_plan if copying else make_plan)(seen.located, seen.config, path)
    identity = not copying or temporal_attention_is_identity(seen)
    fitted = fit(plan, target, attention_is_identity=identity)
    return Job(original, seen, target, fitted, folded, fold)


def _is_copied(source: Source, options: ConvertOptions) -> bool:
    """Whether the source is a video checkpoint, to be copied as it is."""
    return source.inflated and options.layout is not None


def _check_unchanged(asked: Source, own: Source) -> None:
    """See that a copy keeps the temporal layers of a video checkpoint."""
    if asked.config.temporal != own.config.temporal:
        raise ConfigError(
            f"{own.checkpoint.path} is inflated already, with {own.config.temporal}; its temporal "
            "layers cannot be changed by copying. Convert the image checkpoint instead"
        )


def _blended_for(seen: Source, target: Target, *, copying: bool) -> Source:
    """The source with its fixed blend as the learned one that diffusers reads, to start from."""
    temporal = seen.config.temporal
    if target != "diffusers" or temporal.merge_strategy == "learned":
        return seen
    if not 0.0 < temporal.alpha < 1.0:
        return seen  # No sigmoid reaches it: fit() reports that with the other problems.
    learned = replace(temporal, merge_strategy="learned", alpha=learned_alpha(temporal.alpha))
    config = replace(seen.config, temporal=learned)
    if copying:
        return seen.with_learned_blend(config)
    return replace(seen, config=config)
