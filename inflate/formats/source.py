"""The autoencoder of an opened file: its tensors, its configuration, and how it blends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from inflate.config.loading import build_config
from inflate.config.schema import Config, Settings
from inflate.errors import ConfigError
from inflate.formats.architecture import infer_architecture, infer_temporal
from inflate.formats.blending import MERGE_STRATEGY, Blend, find_blend
from inflate.formats.class_config import class_settings
from inflate.formats.layouts import PASSED_THROUGH, STATISTICS
from inflate.formats.locate import Located, locate
from inflate.formats.recorded import recorded_prefix, recorded_settings
from inflate.formats.views import autoencoder_view, widened
from inflate.io.arrays import Array
from inflate.io.index import FLOATS, NARROW, TensorInfo
from inflate.io.reader import Checkpoint

_EPSILON = 1e-4
"""The epsilon that FLUX.2 adds to the variance of its latents."""


@dataclass(frozen=True, repr=False)
class Source:
    """The autoencoder of an opened file under LDM's keys, with its configuration.

    ``blend`` is how a video decoder blends, with the evidence; None for an image decoder.
    """

    checkpoint: Checkpoint
    located: Located
    config: Config
    blend: Blend | None = None

    @property
    def inflated(self) -> bool:
        """Whether its decoder is a video decoder."""
        return self.located.inflated

    @property
    def blend_notes(self) -> tuple[str, ...]:
        """Notes for the user about a blend that the file does not record."""
        blend = self.blend
        if blend is None or blend.recorded:
            return ()
        taken = f"{blend.strategy} was assumed ({blend.reason})"
        return (f"the file does not record how it blends: {taken}",)

    def info(self, key: str) -> TensorInfo | None:
        """The entry of a key in the file, such as ``decoder.conv_in.weight``."""
        return self.checkpoint.tensors.get(key)

    def read(self, key: str) -> Array:
        """Read the tensor of a key that must exist."""
        return self.checkpoint.read(key)

    def seen_as(self, checkpoint: Checkpoint, *notes: str) -> Source:
        """The same autoencoder with the tensors of a view of its checkpoint."""
        notes = (*self.located.notes, *notes)
        located = replace(self.located, tensors=checkpoint.tensors, notes=notes)
        architecture = self.config.architecture
        if "post_quant_conv.weight" not in checkpoint.tensors:
            z_channels = checkpoint.tensors["decoder.conv_in.weight"].shape[1]
            architecture = replace(architecture, z_channels=z_channels)
        config = replace(self.config, architecture=architecture)
        return replace(self, checkpoint=checkpoint, located=located, config=config)


def describe(
    checkpoint: Checkpoint,
    *layers: Mapping[str, object],
    prefix: str | None = None,
    ema: bool = False,
    image: bool = False,
    ignore: Sequence[str] = (),
) -> Source:
    """Find the autoencoder in a checkpoint, and its configuration.

    The architecture is inferred from the tensors. Everything else comes from a ``config.json`` of
    diffusers, from the header of a file that we wrote, then from the layers of settings.

    Later layers win. With ``image``, the caller refuses video decoders, so the blend may be
    unknown; for the other arguments see :func:`locate`.

    Raises:
        FamilyError: there is no autoencoder of this family.
        PlanError: its tensors do not fit any architecture.
        ConfigError: the header or the settings contradict the tensors, or it is unknown how a video
            decoder blends.
    """
    path, metadata = checkpoint.path, checkpoint.metadata
    own = recorded_prefix(metadata, checkpoint.tensors)
    prefix = own if prefix is None else prefix
    located = locate(checkpoint.tensors, path, prefix=prefix, ema=ema, ignore=ignore)
    shapes = {key: info.shape for key, info in located.tensors.items()}
    seen = infer_architecture(shapes, path)
    # A header describes one autoencoder, but the file may hold another.
    recorded = {} if own not in (None, located.prefix) else recorded_settings(metadata, path)
    known = class_settings(checkpoint.files, metadata, located, seen)
    known |= _statistics(checkpoint, located)
    chosen = {key: value for layer in layers for key, value in layer.items()}
    blend = None
    if located.inflated and not image:
        blend = find_blend(located, recorded, checkpoint.read, path, chosen.get(MERGE_STRATEGY))
        if blend.strategy is None:
            raise ConfigError(
                f"{path} does not say how it blends, and {blend.reason}; give --merge-strategy "
                "learned or --merge-strategy fixed"
            )
        shown = {**infer_temporal(shapes).module_arguments(), "merge_strategy": blend.strategy}
        if blend.alpha is not None:
            shown["alpha"] = blend.alpha
        known |= {f"temporal.{key}": value for key, value in shown.items()}
    decoder_only = not any(located.part(part) for part in PASSED_THROUGH)
    try:
        config = build_config(seen, known, recorded, chosen, decoder_only=decoder_only)
    except ConfigError as error:
        raise ConfigError(f"the configuration for {path} has errors:", error.problems) from error
    if blend is not None and config.temporal.merge_strategy != blend.strategy:
        raise ConfigError(
            f"the options set merge_strategy {config.temporal.merge_strategy!r}; {path} has "
            f"{blend.strategy!r}: {blend.reason}. Leave --merge-strategy out"
        )
    return _widened(Source(autoencoder_view(checkpoint, located), located, config, blend))


def given_blend(merge_strategy: str | None) -> Settings:
    """The settings of a merge strategy, or no settings for None."""
    return {} if merge_strategy is None else {MERGE_STRATEGY: merge_strategy}


def _widened(source: Source) -> Source:
    """The source with its float8 weights, if any, widened."""
    located, dtype = source.located, source.config.dtype or "bfloat16"
    narrow = Counter(i.dtype for i in located.tensors.values() if i.dtype in NARROW)
    if not narrow:
        return source
    counts = ", ".join(f"{count} tensors of {kind}" for kind, count in sorted(narrow.items()))
    scaled = f", {len(located.scales)} of them with scales" if located.scales else ""
    note = f"{counts}{scaled} are widened to {dtype}; --dtype chooses another type"
    return source.seen_as(widened(source.checkpoint, located.scales, dtype), note)


def _statistics(checkpoint: Checkpoint, located: Located) -> Settings:
    """Mean and standard deviation of the latents, which FLUX.2 stores for 2x2 patches."""
    infos = [located.tensors.get(f"{STATISTICS}running_{name}") for name in ("mean", "var")]
    found = [info.name for info in infos if info is not None and info.dtype in FLOATS]
    if len(found) < 2:
        return {}
    mean, var = (checkpoint.read(name).astype("float64") for name in found)
    return {
        "architecture.latents_mean": tuple(map(float, mean.flat)),
        "architecture.latents_std": tuple(map(float, ((var + _EPSILON) ** 0.5).flat)),
    }
