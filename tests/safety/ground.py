"""Any command, run in a folder of valid files, and what must hold after it.

Exit code 0, or 2 with one message, or 1 where parity did not hold; every file is as before; every
new file is whole; JSON is JSON; no output moves a terminal's cursor.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tarfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import hypothesis
import torch
import yaml
from safetensors import SafetensorError, deserialize

from inflate.formats.dialects import to_diffusers

from ..checkpoints import autoencoder, bare_decoder, write_lightning, write_safetensors, write_torch
from ..conversions import snapshot
from ..media import picture
from .drawing import CONFIGS, KINDS, MANIFESTS, SECRET, Case
from .refusals import command, is_refusal

Main = Callable[[Sequence[str]], tuple[int, str, str]]
"""Runs a command, and returns its exit code, stdout and stderr."""

VALUE_OF_SECRET = "known-to-the-environment-alone"
_SPARE = ("spare/", "broken", "loop")
"""The places that a case may overwrite: a folder, and links to nothing."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended, and what must not be."""

    code: int | None
    out: str
    err: str
    problems: tuple[str, ...]


class Ground:
    """A folder with a valid file of every kind, in which commands run one after another."""

    def __init__(self, root: Path) -> None:
        """Make ``root`` and its files."""
        self.root, self.folder = root, root / "a" / "here"
        self._fill()
        self.codes: Counter[int | None] = Counter()
        # An archive keeps links, pipes and devices.
        self._archive = root.with_suffix(".tar")
        with tarfile.open(self._archive, "w") as archive:
            archive.add(root, "")
        self.stock: Mapping[str, bytes] = {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.suffix in (".safetensors", ".json", ".ckpt", ".pth")
            and path.is_file() and not path.is_symlink()
        }  # fmt: skip

    def property(
        self, kind: str, count: int, seed: int | None = None, main: Main = command
    ) -> Callable[[], None]:
        """A test by hypothesis of so many cases of a kind; ``codes`` counts how they end."""

        def holds(case: Case) -> None:
            found = self.run(case, main)
            self.codes[found.code] += 1
            assert not found.problems, found

        self.codes.clear()
        limits = hypothesis.settings(
            max_examples=count, deadline=None, derandomize=seed is None, database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        drawn = limits(hypothesis.given(KINDS[kind](self.stock))(holds))
        return drawn if seed is None else hypothesis.seed(seed)(drawn)

    def run(self, case: Case, main: Main = command) -> Outcome:
        """Run a case, and restore the folder."""
        for name, content in case.files.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_bytes(content)
        before = snapshot(self.root)
        code, out = None, ""
        with _inside(self.folder):
            try:
                code, out, err = main(case.arguments)
                problems = list(wrong_outputs(case.arguments, code, out, err))
            except Exception as error:  # noqa: BLE001 - any bug is a finding
                err = traceback.format_exc()
                problems = [f"raised {type(error).__name__}: {error}"[:500]]
        problems += self._wrong_files(case, code, before, snapshot(self.root))
        shutil.rmtree(self.root)
        with tarfile.open(self._archive) as archive:
            archive.extractall(self.root, filter="fully_trusted")
        return Outcome(code, out, err, tuple(problems))

    def _wrong_files(
        self, case: Case, code: int | None, before: Mapping[str, str], after: Mapping[str, str]
    ) -> Iterator[str]:
        spare = tuple(str(self.folder.relative_to(self.root) / name) for name in _SPARE)
        for name, content in before.items():
            if after.get(name) != content and not name.startswith(spare):
                yield f"{name!r} is {'changed' if name in after else 'gone'}"
        made = sorted(after.keys() - before.keys())
        if made and code == 2 and case.arguments[0] != "batch":
            yield f"it failed and left {made}"
        for name in made:
            if Path(name).name.startswith("."):
                yield f"{name!r} is left"
            elif (self.root / name).is_file():
                try:
                    _check_whole(self.root / name)
                except (SafetensorError, ValueError, ElementTree.ParseError) as error:
                    yield f"{name!r} is not whole: {error}"[:500]

    def _fill(self) -> None:
        here = self.folder
        for name in ("parts", "folder", "empty", "spare"):
            (here / name).mkdir(parents=True)
        weights, bare = autoencoder(ch_mult=[1]), bare_decoder(ch_mult=[1], dtype=torch.float16)
        write_safetensors(here / "img.safetensors", weights)
        write_lightning(here / "img.ckpt", weights)
        write_torch(here / "img.pth", bare, _use_new_zipfile_serialization=False)
        shards = {
            name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(bare)
        }
        for shard in set(shards.values()):
            part = {name: bare[name] for name in bare if shards[name] == shard}
            write_safetensors(here / "parts" / shard, part)
        theirs = {to_diffusers(f"decoder.{k}", 1, video=False): v for k, v in bare.items()}
        for file in ("folder/diffusion_pytorch_model.safetensors", "\x1b[2J.safetensors",
                     "\u202egpj.safetensors", "\udcff.safetensors"):  # fmt: skip
            # The library takes no names that are not text.
            write_safetensors(here / "x", theirs).rename(here / file)
        config = {"_class_name": "AutoencoderKL", "scaling_factor": 0.18215, "norm_num_groups": 32}
        index = {"metadata": {"total_size": 1}, "weight_map": shards}
        for name, document in (
            ("folder/config.json", config), ("parts/model.safetensors.index.json", index),
            ("config.yaml", CONFIGS[0]), ("manifest.yaml", MANIFESTS[0]),
        ):  # fmt: skip
            dump = json.dumps if name.endswith(".json") else yaml.safe_dump
            (here / name).write_text(dump(document), encoding="utf-8")
        for name, target in (("link.safetensors", "img.safetensors"), ("broken", "gone"),
                             ("loop", "loop")):  # fmt: skip
            (here / name).symlink_to(target)
        (here / "hard.safetensors").hardlink_to(here / "img.safetensors")
        os.mkfifo(here / "fifo")
        # An ordinary user may not make one; commands never get a device of the machine.
        with suppress(PermissionError):
            os.mknod(here / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        for name in ("spare/old.safetensors", "spare/old.md"):
            (here / name).write_text("of before")
        write_safetensors(here / "latents.safetensors", {"latents": torch.ones(2, 4, 4, 4)})
        picture(here / "images" / "a.png", 16, 16)
        with _inside(here):
            for line in (
                "convert img.safetensors -o video.safetensors --alpha=0.3 --time-mode=all",
                "convert img.safetensors -o conv.safetensors --alpha=0.3 --merge-strategy=fixed",
                "verify img.safetensors video.safetensors --report=pass.json",
                "verify img.ckpt conv.safetensors --report=full.json --bisect --self-test "
                "--trainability --images=images",
                "verify folder video.safetensors --report=fail.json --bisect",
            ):
                code, _, err = command([*line.split(), "--device=cpu"])
                assert code in (0, 1), err


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in a folder, as in a pipe of a known width."""
    before, environment = os.getcwd(), dict(os.environ)
    for name in ("FORCE_COLOR", "GITHUB_STEP_SUMMARY", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        os.environ.pop(name, None)
    os.environ.update({"COLUMNS": "200", SECRET: VALUE_OF_SECRET})
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)


def wrong_outputs(arguments: Sequence[str], code: int, out: str, err: str) -> Iterator[str]:
    """What is wrong with the exit code and the outputs of a command."""
    name = arguments[0]
    judges = name in ("verify", "batch") or "--check" in arguments
    if code not in ((0, 1, 2) if judges else (0, 2)):
        yield f"exit code {code}"
    raw = {c for c in out + err if not c.isprintable() and c != "\n"}
    if raw:
        yield f"the output holds {sorted(raw)!r}"
    if VALUE_OF_SECRET in out + err:
        yield "a variable of the environment is quoted"
    if "Traceback" in err:
        yield "a traceback"
    # A batch in which some jobs failed has a result to print, though it ends with 2.
    if code == 2 and not (out and name == "batch") and not is_refusal(arguments, out, err):
        yield "not one message"
    if out and "--json" in arguments and not out.startswith("Usage: "):
        try:
            if not isinstance(json.loads(out, parse_constant=_no_constant), dict):
                yield "stdout is not a document"
        except ValueError as error:
            yield f"stdout is not JSON: {error}"


def _check_whole(path: Path) -> None:
    """Refuse a file of which only a part was written, or that quotes the environment."""
    if VALUE_OF_SECRET.encode() in path.read_bytes():
        raise ValueError("it quotes a variable of the environment")
    if path.suffix == ".safetensors":
        deserialize(path.read_bytes())  # Not by name, which may not be text
    elif path.suffix == ".json":
        json.loads(path.read_bytes())
    elif path.suffix == ".xml":
        ElementTree.parse(path)
    elif path.suffix == ".html" and not path.read_text("utf-8").rstrip().endswith("</html>"):
        raise ValueError("no end")


def _no_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")
