"""Header entries of the files that we write: the configuration and the source."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from inflate.config.schema import Settings, flatten
from inflate.errors import CheckpointError
from inflate.vocabulary import TRAINED, VERDICT_KEY

CONFIG_KEY = "inflate.config"
"""The configuration, as JSON."""

SEED_KEY = "inflate.seed"
LAYOUT_KEY = "inflate.layout"
POST_QUANT_KEY = "inflate.post_quant"
PROVENANCE_KEY = "inflate.provenance"
"""The number of tensors copied, and made by each rule, per group, as JSON."""

SOURCE_NAME_KEY = "inflate.source.name"
SOURCE_HASH_KEY = "inflate.source.sha256"
"""The SHA-256 of the source's files, if requested."""

SOURCE_FINGERPRINT_KEY = "inflate.source.fingerprint"
FINGERPRINT_KEY = "inflate.fingerprint"
"""Fingerprints of the source's weights and of the file's own; see ``fingerprint``."""

SOURCE_BLEND_KEY = "inflate.source.blend"
"""How the source of a copy blends, and the evidence for it."""

ORIGIN_NAME_KEY = "inflate.origin.name"
ORIGIN_FINGERPRINT_KEY = "inflate.origin.fingerprint"
"""The image checkpoint from which the source of a copy, a video checkpoint, was made."""

TRAINED_KEY = "inflate.trained"
"""Present in a copy of a trained file; such a header has the verdict of the copy."""

PREFIX_KEY = "inflate.prefix"
"""The prefix of the autoencoder that the header describes, in a file that may hold several."""


def recorded_prefix(metadata: Mapping[str, str], names: Iterable[str]) -> str | None:
    """The prefix that a header records, if the file still has it."""
    prefix = metadata.get(PREFIX_KEY)
    return prefix if prefix and any(name.startswith(prefix) for name in names) else None


def origin_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """The entries for a copy of a file with this header: its origin, or else its source."""
    for name, key in (
        (ORIGIN_NAME_KEY, ORIGIN_FINGERPRINT_KEY),
        (SOURCE_NAME_KEY, SOURCE_FINGERPRINT_KEY),
    ):
        if key in metadata:
            return {ORIGIN_NAME_KEY: metadata.get(name, ""), ORIGIN_FINGERPRINT_KEY: metadata[key]}
    return {}


def is_trained(metadata: Mapping[str, str]) -> bool:
    """Whether a header records that the file, or the source of a copy, was saved after training."""
    return metadata.get(VERDICT_KEY) == TRAINED or TRAINED_KEY in metadata


def changed_since(metadata: Mapping[str, str], fingerprint: str) -> bool | None:
    """Whether tensors changed since the header was written; None if unknown."""
    recorded = metadata.get(FINGERPRINT_KEY)
    return None if recorded is None else recorded != fingerprint


def recorded_settings(metadata: Mapping[str, str], path: object) -> Settings:
    """The unchecked settings that a header records; empty if it records none.

    Raises:
        CheckpointError: they are not a JSON object.
    """
    try:
        content = json.loads(metadata.get(CONFIG_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: {CONFIG_KEY!r} in its header is not JSON: {error}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: {CONFIG_KEY!r} in its header is not a JSON object")
    return flatten(content)
