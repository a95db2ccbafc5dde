"""Any command at all, run on a stock of valid files, and what must hold whatever it was.

Exit code 0, or 2 with one message, or 1 where parity did not hold; what is read stays as it was;
what is left is whole; JSON is JSON; a terminal is never moved; torch is set as before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
import yaml

from inflate.errors import InflateError
from inflate.io.header import read_header
from inflate.io.stored import SourceFile

from ..checkpoints import autoencoder, write_lightning, write_safetensors
from ..media import picture
from .cases import CONFIGS, MANIFESTS, Case
from .fuzzing import diffusers_folder, sharded
from .mutating import SECRET
from .refusals import command, is_one_message

Main = Callable[[Sequence[str]], tuple[int, str, str]]
"""What runs a command: its exit code, what it said on stdout, and on stderr."""

_SECRET = "known-to-the-environment-alone"
_SPARE = ("spare/", "broken", "loop")
"""What may be overwritten: this folder, and links to nothing."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended, and everything about it that must not be."""

    code: int | None
    out: str
    err: str
    problems: tuple[str, ...]


class Ground:
    """A folder with a valid file of every kind, in which commands run one after another."""

    def __init__(self, root: Path) -> None:
        """Fill ``root``, which is made."""
        self.root, self.folder = root, root / "a" / "here"
        self._fill()
        self._before = scan(self.root)
        self.stock: Mapping[str, bytes] = {
            path.name: path.read_bytes() for path in self.folder.iterdir() if path.suffix
            in (".safetensors", ".json") and path.is_file() and not path.is_symlink()
        }  # fmt: skip

    def run(self, case: Case, main: Main = command) -> Outcome:
        """Run a case by ``main``, and put everything back."""
        for name, content in case.files.items():
            (self.folder / name).write_bytes(content)
        before = {**self._before, **scan(self.root, self._before)}
        state, code, out = process_state(), None, ""
        with _inside(self.folder):
            try:
                code, out, err = main(case.arguments)
                problems = list(said_wrong(case.arguments, code, out, err))
            except Exception as error:  # noqa: BLE001 - a bug of any kind is what is sought
                err = traceback.format_exc()
                problems = [f"raised {type(error).__name__}: {error}"[:500]]
        after = scan(self.root)
        problems += self._left_wrong(case, code, before, after)
        now = process_state()
        problems += [f"{key} is {now[key]}, was {state[key]}" for key in state
                     if state[key] != now[key]]  # fmt: skip
        self._restore(after)
        return Outcome(code, out, err, tuple(problems))

    def _left_wrong(
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
            path = self.root / name
            if path.name.startswith("."):
                yield f"{name!r} is left"
            elif path.is_file():
                try:
                    _check_whole(path)
                except (InflateError, ValueError, ElementTree.ParseError) as error:
                    yield f"{name!r} is not whole: {error}"[:500]

    def _restore(self, after: Mapping[str, str]) -> None:
        made = after.keys() - self._before.keys()
        for name in sorted(made, reverse=True):
            path = self.root / name
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
        if scan(self.root) != self._before:
            shutil.rmtree(self.root)
            self._fill()
            assert scan(self.root) == self._before

    def _fill(self) -> None:
        self.folder.mkdir(parents=True)
        here = self.folder
        weights = autoencoder(ch_mult=[1])
        image = write_safetensors(here / "img.safetensors", weights)
        write_lightning(here / "img.ckpt", weights)
        for name in ("parts", "folder", "empty", "spare"):
            (here / name).mkdir()
        sharded(here / "parts")
        diffusers_folder(here / "folder")
        for name in ("\x1b[2J", "\u202egpj", "\udcff"):
            shutil.copyfile(here / "folder/diffusion_pytorch_model.safetensors",
                            here / f"{name}.safetensors")  # fmt: skip
        (here / "link.safetensors").symlink_to("img.safetensors")
        (here / "hard.safetensors").hardlink_to(image)
        (here / "broken").symlink_to("gone")
        (here / "loop").symlink_to("loop")
        os.mkfifo(here / "fifo")
        # An ordinary user may not; no device of the machine's is ever given to a command.
        with suppress(PermissionError):
            os.mknod(here / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        for name in ("spare/old.safetensors", "spare/old.md"):
            (here / name).write_text("of before")
        write_safetensors(here / "latents.safetensors", {"latents": torch.ones(2, 4, 4, 4)})
        picture(here / "images" / "a.png", 16, 16)
        for name, document in (
            ("config.yaml", CONFIGS[0]), ("sgm.yaml", CONFIGS[-1]), ("manifest.yaml", MANIFESTS[0])
        ):  # fmt: skip
            (here / name).write_text(yaml.safe_dump(document), encoding="utf-8")
        self._convert_and_verify()

    def _convert_and_verify(self) -> None:
        lines = (
            ("convert", "img.safetensors", "-o", "video.safetensors", "--time-mode=all",
             "--alpha=0.3", "--device=cpu"),
            ("convert", "img.safetensors", "-o", "conv.safetensors", "--merge-strategy=fixed",
             "--alpha=0.3", "--device=cpu"),
            ("verify", "img.safetensors", "video.safetensors", "--report=pass.json"),
            ("verify", "img.ckpt", "conv.safetensors", "--report=full.json", "--bisect",
             "--self-test", "--trainability", "--images=images"),
            ("verify", "folder", "video.safetensors", "--report=fail.json", "--bisect"),
        )  # fmt: skip
        with _inside(self.folder):
            for arguments in lines:
                code, _, err = command(arguments)
                assert code in (0, 1), err


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in a folder, as in a pipe of a known width."""
    before, environment = os.getcwd(), dict(os.environ)
    for name in ("FORCE_COLOR", "GITHUB_STEP_SUMMARY", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        os.environ.pop(name, None)
    os.environ.update({"COLUMNS": "200", SECRET: _SECRET})
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)


def scan(root: Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """What lies below a folder: relative path to hash or kind; without what is known by name."""
    found = {}
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder, name)
            relative = str(path.relative_to(root))
            if known is None or relative not in known:
                found[relative] = _content(path)
    return found


def _content(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if stat.S_ISLNK(mode):
        return f"link to {os.readlink(path)}"
    return "folder" if stat.S_ISDIR(mode) else f"of kind {stat.S_IFMT(mode):o}"


def said_wrong(arguments: tuple[str, ...], code: int, out: str, err: str) -> Iterator[str]:
    """What a command must not have said, or ended with."""
    name = arguments[0]
    if code not in (0, 2) and not (code == 1 and name in ("verify", "batch")):
        yield f"exit code {code}"
    for stream, text in (("stdout", out), ("stderr", err)):
        raw = {c for c in text if not c.isprintable() and c != "\n"}
        if raw:
            yield f"{stream} holds {sorted(raw)!r}"
    if _SECRET in out + err:
        yield "a variable of the environment is quoted"
    if "Traceback" in err:
        yield "a traceback"
    # A batch or a plan in which something failed has a result to show, though it ends with 2.
    if code == 2 and not (out and name == "batch") and (out or not is_one_message(err)):
        yield "not one message"
    if out and "--json" in arguments and not out.startswith("Usage: "):
        try:
            document = json.loads(out, parse_constant=_no_constant)
        except ValueError as error:
            yield f"stdout is not JSON: {error}"
        else:
            if not isinstance(document, dict):
                yield "stdout is not a document"


def process_state() -> dict[str, Any]:
    """What a command must leave in its process as it was."""
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    switches = {"matmul": torch.backends.cuda.matmul, "cudnn.conv": cudnn.conv,
                "mkldnn.matmul": mkldnn.matmul, "mkldnn.conv": mkldnn.conv}  # fmt: skip
    return {
        **{f"{name} precision": switch.fp32_precision for name, switch in switches.items()},
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "random state": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "environment": hash(frozenset(os.environ.items())),
    }


def _check_whole(path: Path) -> None:
    """Refuse a file of which only a part was written, or that says too much."""
    if _SECRET.encode() in path.read_bytes():
        raise ValueError("it quotes a variable of the environment")
    if path.suffix == ".safetensors":
        with closing(SourceFile(path)) as file:
            read_header(file)
    elif path.suffix == ".json":
        json.loads(path.read_bytes())
    elif path.suffix == ".xml":
        ElementTree.parse(path)
    elif path.suffix == ".html" and not path.read_text("utf-8").rstrip().endswith("</html>"):
        raise ValueError("no end")


def _no_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")
