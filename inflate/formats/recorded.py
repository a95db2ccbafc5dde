"""What the header of a file of ours records: its configuration, and the source it is made of."""

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
"""How many tensors of each group were copied, and made by which rule, as JSON."""

SOURCE_NAME_KEY = "inflate.source.name"
SOURCE_HASH_KEY = "inflate.source.sha256"
"""The SHA-256 of the source's files, where it was requested."""

SOURCE_FINGERPRINT_KEY = "inflate.source.fingerprint"
FINGERPRINT_KEY = "inflate.fingerprint"
"""The weights of the source and those of the file itself; see ``fingerprint``."""

SOURCE_BLEND_KEY = "inflate.source.blend"
"""How the source of a copy blends, and how that is known."""

ORIGIN_NAME_KEY = "inflate.origin.name"
ORIGIN_FINGERPRINT_KEY = "inflate.origin.fingerprint"
"""The image checkpoint that a copy goes back to, whose source is a video checkpoint."""

TRAINED_KEY = "inflate.trained"
"""In a copy of a trained file, whose header has the verdict of the copy."""

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
    """Whether a header records that the file, or what it is a copy of, was saved after training."""
    return metadata.get(VERDICT_KEY) == TRAINED or TRAINED_KEY in metadata


def changed_since(metadata: Mapping[str, str], fingerprint: str) -> bool | None:
    """Whether tensors changed since the header was written; None where it does not show that."""
    recorded = metadata.get(FINGERPRINT_KEY)
    return None if recorded is None else recorded != fingerprint


def recorded_settings(metadata: Mapping[str, str], path: object) -> Settings:
    """The settings that a header records, not yet checked; nothing where it records none.

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
