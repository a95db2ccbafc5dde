"""Torch's own files, read without running anything that is in them.

``torch.load(weights_only=True)`` builds tensors and plain containers only, and refuses a file that
names any other class. Training frameworks leave such names behind (callbacks keyed by their class),
so each name in a file gets an inert stand-in: a class that takes everything and does nothing. There
is no unsafe fallback.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from inflate.errors import CheckpointError, FamilyError

_OWN_MODULES = ("torch", "collections")
"""Roots of the modules whose names torch judges by itself."""


class _Inert:
    """What stands in for a class that a file names: it takes everything and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def load_pickled(path: Path) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The state dict of a torch file, its tensors mapped from the file where its format allows.

    Returns:
        The state dict, and the dotted names that inert stand-ins took the place of.

    Raises:
        CheckpointError: the file is damaged, or asks for something that torch refuses.
        FamilyError: the file is sound, and no state dict.
    """
    zipped = zipfile.is_zipfile(path)
    try:
        foreign = _foreign_names(path, zipped)
        stand_ins: list[Any] = [(_stand_in(name), name) for name in foreign]
        # torch goes by this name; a file object has none, and cannot be mapped.
        named = path.name.endswith(".safetensors")
        with torch.serialization.safe_globals(stand_ins), path.open("rb") as file:
            content = torch.load(
                file if named else path,
                map_location="cpu",
                weights_only=True,
                mmap=zipped and not named,
            )
    # Whatever an untrusted file makes the reader raise is a fact about the file.
    except Exception as error:
        raise _refusal(path, error) from error
    return _state_dict(content, path), tuple(foreign)


def _stand_in(name: str) -> type:
    module, _, own = name.rpartition(".")
    return type(own, (_Inert,), {"__module__": module})


def _foreign_names(path: Path, zipped: bool) -> list[str]:
    """The dotted names in the file's pickle that torch does not know."""
    if zipped:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    with path.open("rb") as file:
        names = set(_names_of_legacy(file))
    return sorted(name for name in names if name.split(".")[0] not in _OWN_MODULES)


def _names_of_legacy(file: IO[bytes]) -> Iterator[str]:
    # Before torch 1.6 a file was a row of pickles: magic number, version, system, content, keys.
    for _ in range(4):
        for opcode, argument, _position in pickletools.genops(file):
            if opcode.name in ("GLOBAL", "INST"):
                assert isinstance(argument, str)
                module, _, name = argument.partition(" ")
                yield f"{'builtins' if module == '__builtin__' else module}.{name}"


def _state_dict(content: Any, path: Path) -> Mapping[str, Any]:
    """The mapping of names to tensors in a loaded file, nested one level at most."""
    if isinstance(content, torch.Tensor):
        raise FamilyError(f"{path} holds a single tensor; expected a checkpoint of named tensors")
    if not isinstance(content, Mapping):
        raise FamilyError(
            f"{path} holds a {type(content).__name__!r} object, a whole pickled module perhaps; "
            "expected named tensors: save its state_dict() instead"
        )
    nested = content.get("state_dict")
    if isinstance(nested, Mapping):
        return nested
    if any(isinstance(value, torch.Tensor) for value in content.values()):
        return content
    inner = [v for v in content.values() if isinstance(v, Mapping)
             and any(isinstance(t, torch.Tensor) for t in v.values())]  # fmt: skip
    if len(inner) == 1:
        return inner[0]
    raise FamilyError(
        f"{path} holds no tensors at its top, under 'state_dict', or in one mapping alone; found "
        f"the keys {', '.join(map(repr, list(content)[:8])) or '(none)'}"
    )


def _refusal(path: Path, error: Exception) -> CheckpointError:
    # What torch says before this is advice to load the file unsafely.
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    if "torchscript" in text.lower():
        return FamilyError(
            f"{path} is a TorchScript archive; expected named tensors: save its state_dict()"
        )
    refused = re.search(r"(?:GLOBAL\s+|but got <class ')([\w.]+)", text)
    if isinstance(error, pickle.UnpicklingError) and refused:
        return CheckpointError(
            f"{path} asks for {refused[1]}, which could run code; refused. A checkpoint needs "
            "tensors and plain containers only"
        )
    first = text.splitlines()[0][:200] if text else type(error).__name__
    return CheckpointError(
        f"{path} is damaged or no torch checkpoint: {first}. Copy or download it again"
    )
