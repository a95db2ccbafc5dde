"""Whether the temporal attention of a video checkpoint changes nothing, judged by its numbers."""

from __future__ import annotations

from inflate.inflation.initializers import ZEROS, start_rules
from inflate.inflation.plan import build_video_decoder
from inflate.loading import Source


def temporal_attention_is_identity(source: Source) -> bool:
    """Whether every tensor whose zeros make temporal attention an identity is still zero."""
    rules = start_rules(build_video_decoder(source.config))
    parts = ("time_mix_block", "video_time_embed")
    # The zeros that make an identity are those of linear layers; a norm's bias is free to move.
    keys = [
        f"decoder.{key}"
        for key, rule in rules.items()
        if rule == ZEROS
        and not set(parts).isdisjoint(key.split("."))
        and not any(part.startswith("norm") for part in key.split("."))
    ]
    return not any(source.checkpoint.read(key).any() for key in keys)
