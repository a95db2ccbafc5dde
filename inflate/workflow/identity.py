"""Whether the temporal attention of a video checkpoint changes nothing, judged by its numbers."""

from __future__ import annotations

from inflate.formats.source import Source
from inflate.formats.spec import decoder_spec
from inflate.inflation.initializers import IDENTITY_LAYERS


def temporal_attention_is_identity(source: Source) -> bool:
    """Whether every tensor whose zeros make temporal attention an identity is still zero."""
    config = source.config
    return not any(
        source.checkpoint.read(tensor.key).any()
        for tensor in decoder_spec(config.architecture, config.temporal)
        if tensor.part in ("time_mix_block", "video_time_embed")
        and tensor.layer in IDENTITY_LAYERS[tensor.part]
    )
