"""Valid files of every format to be mutated, and what must hold whatever became of them.

A file is mutated as its skeleton: a mark stands in the place of the numbers, which are most of it
and say nothing of its structure.
"""

from __future__ import annotations

import io
import json
import pickletools
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from inflate.formats.dialects import to_diffusers
from inflate.io.reader import open_checkpoint

from ..checkpoints import (
    autoencoder,
    bare_decoder,
    prefixed,
    write_lightning,
    write_safetensors,
    write_torch,
)
from .refusals import check_refusal, command

MARK = b"\0THE NUMBERS\0\xff\xfe"


@dataclass(frozen=True)
class Subject:
    """A valid checkpoint: what to convert, and its files as skeletons with their numbers."""

    path: Path
    files: dict[Path, tuple[bytes, bytes]]

    def skeletons(self) -> list[bytes]:
        """The skeletons of its files."""
        return [skeleton for skeleton, _ in self.files.values()]

    def put(self, which: int, skeleton: bytes) -> None:
        """Put one of its files in place with another skeleton, and the others as they were."""
        for i, (path, (own, numbers)) in enumerate(self.files.items()):
            path.write_bytes((skeleton if i == which else own).replace(MARK, numbers, 1))


def _weights() -> dict[str, Tensor]:
    return bare_decoder(ch_mult=[1], dtype=torch.float16, attn_type="none")


def _zip(folder: Path) -> Path:
    return write_lightning(folder / "img.ckpt", prefixed(autoencoder(ch_mult=[1])))


def _legacy(folder: Path) -> Path:
    path = folder / "img.pth"
    return write_torch(path, _weights(), _use_new_zipfile_serialization=False)


def _safetensors(folder: Path) -> Path:
    return write_safetensors(folder / "img.safetensors", _weights(), {"format": "pt"})


def sharded(folder: Path) -> Path:
    """A checkpoint of two shards, and the path of its index."""
    weights = _weights()
    names = list(weights)
    placed = {}
    for shard, part in (("1", names[::2]), ("2", names[1::2])):
        file = f"model-0000{shard}-of-00002.safetensors"
        write_safetensors(folder / file, {name: weights[name] for name in part})
        placed.update(dict.fromkeys(part, file))
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": placed}))
    return path


def diffusers_folder(folder: Path) -> Path:
    """A folder as diffusers writes it."""
    config = {"_class_name": "AutoencoderKL", "scaling_factor": 0.18215, "norm_num_groups": 32}
    (folder / "config.json").write_text(json.dumps(config))
    weights = bare_decoder(ch_mult=[1], dtype=torch.float16)
    names = to_diffusers([f"decoder.{key}" for key in weights], 1, video=False)
    theirs = {name: weights[key.removeprefix("decoder.")] for key, name in names.items()}
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", theirs)
    return folder


FORMATS: dict[str, Callable[[Path], Path]] = {
    "zip": _zip,
    "legacy": _legacy,
    "safetensors": _safetensors,
    "sharded": sharded,
    "diffusers": diffusers_folder,
}


def make_subject(format: str, folder: Path) -> Subject:
    """A valid checkpoint of a format, in a folder of its own."""
    folder.mkdir()
    path = FORMATS[format](folder)
    files = {}
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        start, end = _numbers(file, content)
        files[file] = content[:start] + MARK + content[end:], content[start:end]
    return Subject(path, files)


def _numbers(file: Path, content: bytes) -> tuple[int, int]:
    """Where the numbers of a file lie."""
    if file.suffix == ".json":
        return len(content), len(content)
    if file.suffix == ".safetensors":
        return 8 + int.from_bytes(content[:8], "little"), len(content)
    if file.suffix == ".ckpt":
        with zipfile.ZipFile(file) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        # The second one's header and the last one's are parts of the structure.
        storages = [entry.header_offset for entry in entries if "/data/" in entry.filename]
        return storages[1] + 100, storages[-1]
    stream = io.BytesIO(content)
    for _ in range(5):
        for _instruction in pickletools.genops(stream):
            pass
    return stream.tell() + 8, len(content)


def check(subject: Subject, output: Path, *, full: bool) -> bool:
    """Convert what a checkpoint became: a valid result, or one message. Whether it was valid.

    Raises:
        AssertionError: neither.
    """
    more = ("--skip-parity", "-o", output, "--overwrite") if full else ("--dry-run", "--json")
    code, out, err = command(["convert", subject.path, "--device", "cpu", *more])
    if code == 0:
        if full:
            with open_checkpoint(output) as checkpoint:
                assert checkpoint.metadata["inflate.parity.verdict"] == "unverified"
        else:
            assert isinstance(json.loads(out), dict)
        return True
    check_refusal(code, out, err)
    assert not output.exists() or not full, "a conversion that failed left a file"
    return False


def clear(output: Path) -> None:
    """Take away what a conversion made, and see that it made nothing else."""
    output.unlink(missing_ok=True)
    left = [path.name for path in output.parent.iterdir()]
    if left:
        shutil.rmtree(output.parent)
        output.parent.mkdir()
    assert not left, left
