"""Random commands with hostile arguments, configurations, manifests, reports and checkpoints.

A case depends on its seed, its kind, its number and the valid files alone.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import re
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import typer
import yaml

from inflate.cli.app import app_for
from inflate.io.reader import open_checkpoint

COMMANDS: Mapping[str, Any] = typer.main.get_command(app_for()).commands  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Case:
    """The arguments of a command, and the files that it needs next to the valid ones."""

    arguments: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)


Stock = Mapping[str, bytes]
"""The valid files by their paths in the folder in which commands run."""

# Hostile values

RAW = "@@"
"""A text that begins with this is dumped as what follows, without quotes."""
LONG = "n" * 300
SECRET = "SECRET_OF_FUZZ"
"""A variable of the environment that no output may quote."""
NUMBERS = (0, -1, 1, 3, 255, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e-320, 1e39,
           1.5e308, math.nan, math.inf, -math.inf)  # fmt: skip
TEXTS = (
    "", " ", "x", LONG, "-", "--", ".", "..", "../x", "x/../y", "gone/x", "gone", "empty",
    "img.safetensors/x", "\x1b[2J\x1b]0;x\x07", "\u202egpj.\u2066x", "a\nerror: b\r", "\u2028\x85",
    "\udcff", "é中\U0001f600", f"${{oc.env:{SECRET}}}", f"${{oc.decode:'${{oc.env:{SECRET}}}'}}",
    "${temporal.alpha}", "${.x}", "${", "???", "{stem}", "{x!r:>9}", "{", "}", "*", "**/*", "[a",
    "2024-02-30", "0x10", "1_000", "007", "-5", "0.25", "true", "null", "NaN", "-inf", "1e999",
    "1" + "0" * 400, "9" * 5000, "=", "a=b", "alpha=.nan", "ch_mult=[1,[2]]", "x=*a", "'", '"', "|",
    "<b>&amp;]]>", "`|*_", "http://", "https://[x", "hf://", "s3://", "file:///gone", "://",
)  # fmt: skip
"""Possible arguments of a process."""
INSIDE = ("a\0b", "\ud800")
"""Texts that only a file can hold."""
VALUES = (
    *NUMBERS, *TEXTS, *INSIDE, None, True, False, [], {}, [[]], [0, "x"], {"x": 1}, {"": None},
    [1, [2, [3]]], RAW + "1e999", RAW + "-" + "9" * 5000, RAW + "[" * 3000, RAW + "NaN",
    RAW + "{a:", RAW + "2024-02-29", RAW + "1:2:3", RAW + ".inf",
)  # fmt: skip
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 10)
)
ADDED = (
    BOMB, f"x: {'[' * 3000}\n", f"x: {'[' * 3000}{']' * 3000}\n", "x: &a [*a]\n", "x: *x\n",
    "<<: {time_mode: all}\n", "? {a: b}\n: c\n", "1: 2\n", "null: 3\n", "2024-02-29: x\n",
    "---\nx: 1\n", "x: !!python/object/apply:os.system ['touch ran']\n", "x: !!binary '*'\n",
    f"description: ${{oc.env:{SECRET}}}\n", "x: ${.y}\ny: ${.x}\n", "\0", "\x85", "\t",
    "jobs: [img.safetensors]\n", "temporal: {alpha: 1}\n",
)  # fmt: skip
"""Last lines of a YAML document: bombs, loops, tags, keys of other types, interpolations."""
BYTE_WORDS = (
    b"", b"\xff\xfe", b"\xff" * 8, b"\0" * 4, b"{", b"}", b"[" * 3000, b'"', b",", b":", b"null",
    b"NaN", b"1e999", b"-1", b"9" * 30, b"\t", b": ", b"*x", b"&x ", b"#", b"\n\n  - ", b"${",
    b"\xef\xbb\xbf", b"!!python/name:os.system ", b"\x80\x02", b"PK\x03\x04", b"PK\x05\x06",
    b"\\ud800", b"\x1b[2J", b"cposix\nsystem\n", b"cbuiltins\nbytearray\n", b"ctorch\nSize\n", b"R",
    b"\x81", b"b", b"Q", b"t", b"(", b".", b"q\0", b"h\0", b"decoder.", b".weight", b"F64", b"../",
    *((2**bits - 1).to_bytes(8, "little") for bits in (15, 16, 31, 32, 63)),
)  # fmt: skip

# Edits of bytes and documents


def edited(content: bytes, random: Random, most: int = 2) -> bytes:
    """Bytes after one or more random edits."""
    for _ in range(random.randint(1, most)):
        at, other = (random.randint(0, len(content)) for _ in range(2))
        part, word = content[other : other + random.randrange(40)], random.choice(BYTE_WORDS)
        content = content[:at] + random.choice((
            bytes(byte ^ 1 << random.randrange(8) for byte in content[at : at + 1])
            + content[at + 1 :],
            word + content[at + len(word) :],
            word + content[at:],
            content[at + len(part) :],
            b"",
            part + content[at:],
            part + content[at + len(part) :],
        ))  # fmt: skip
    return content


def mutated(document: Any, random: Random, *, like: float = 0.5) -> Any:
    """A copy of a document after up to three edits, of which ``like`` keep the type."""
    root = [copy.deepcopy(document)]
    for _ in range(random.choice((0, 1, 1, 1, 1, 2, 3))):
        holder: Any = root
        key: Any = 0
        # Places near the root are as likely as all of a long list.
        while isinstance(holder[key], (dict, list)) and holder[key] and random.random() < 0.85:
            holder = holder[key]
            key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        kind = random.choice(("value", "value", "remove", "rename", "wrap"))
        if random.random() < like:
            same = [value for value in VALUES if type(value) is type(holder[key])]
            holder[key] = copy.deepcopy(random.choice(same or [None]))
        elif kind == "remove" and holder is not root:
            del holder[key]
        elif kind == "rename" and isinstance(holder, dict):
            holder[random.choice((*TEXTS, f"{key}s", key.upper()))] = holder.pop(key)
        elif kind == "wrap":
            holder[key] = random.choice(([holder[key]], {"x": holder[key]}, [holder[key]] * 2))
        else:
            holder[key] = copy.deepcopy(random.choice(VALUES))
    return root[0]


def as_json(document: Any, random: Random) -> bytes:
    """A document as JSON, with the numbers that JSON does not have."""
    return _encoded(json.dumps(document, ensure_ascii=random.random() < 0.5))


def as_yaml(document: Any, random: Random) -> bytes:
    """A document as YAML, in blocks or in braces; some with edits of the text."""
    text = yaml.safe_dump(document, default_flow_style=random.random() < 0.2, sort_keys=False)
    content = _encoded(text)
    lines = content.splitlines(keepends=True)
    at = random.randrange(len(lines))
    kind = random.choice(("",) * 6 + ("twice", "moved", "added", "edited"))
    if kind == "edited":
        return edited(content, random)
    if kind == "twice":
        lines.insert(at, random.choice(lines))
    elif kind == "moved":
        lines[at] = random.choice((b"  ", b"\t", b"- ")) + lines[at]
    elif kind == "added":
        lines.append(random.choice(ADDED).encode())
    return b"".join(lines)


def _encoded(text: str) -> bytes:
    unquoted = re.sub(rf"""(['"]){RAW}([^'"]*)\1""", r"\2", text)
    return unquoted.encode("utf-8", "surrogatepass")


# Command lines

SOURCES = (
    "img.safetensors", "img.safetensors", "img.ckpt", "img.pth", "folder", "link.safetensors",
    "parts/model.safetensors.index.json", "\x1b[2J.safetensors", "\u202egpj.safetensors",
    "\udcff.safetensors", "video.safetensors", "conv.safetensors",
)  # fmt: skip
VIDEOS = SOURCES[-2:]
REPORTS = ("pass.json", "fail.json", "full.json")
NEW = ("new.safetensors", "new.safetensors", "new.html", "new.json", "new.xml", "new.sqlite", "new",
       "spare/old.md", "spare/old.safetensors", "gone/new.safetensors", "empty", "fifo", "null",
       "broken", "loop", "{stem}.new.safetensors", "\u202enew\x1b[2J.safetensors", LONG,
       "img.safetensors", "./img.safetensors", "link.safetensors", "hard.safetensors", "folder",
       "folder/config.json", "parts/model-00001-of-00002.safetensors")  # fmt: skip
"""Destinations, under some of which a run could destroy its source."""
WORDS = ("0.25", "1", "7", "0", "cpu", "3,1,1", "img.ckpt", "config.yaml", "kl-f8", "alpha=0.25",
         "images", "images/a.png", "latents.safetensors", "vae.", "gone/x.safetensors", "empty",
         "fifo", "broken", "loop", "manifest.yaml", "pass.json", LONG)  # fmt: skip
_QUICK = {
    "convert": ("--dry-run", "--dry-run", "--skip-parity", "--skip-parity", "--device=cpu"),
    "batch": ("--dry-run",),
    "verify": ("--device=cpu",),
}
_WRITES = ("output", "report_to", "ledger", "report_dir", "save_outputs")
_FORMS: tuple[tuple[str, ...], ...] = ((), ("--json",), ("-q",))


def command_line(random: Random, _: Stock) -> Case:
    """A command line of valid words, hostile ones, and both in the wrong places."""
    name = random.choice(("convert",) * 5 + ("verify",) * 3 + ("batch",) * 3 + tuple(COMMANDS))
    if name == "demo":  # Only where it must fail: it takes seconds.
        return Case((name, "-q", random.choice(("img.safetensors", "fifo", "broken", LONG))))
    arguments = {
        "convert": [random.choice(SOURCES)],
        "inspect": [random.choice(SOURCES)],
        "verify": [random.choice(SOURCES), random.choice(VIDEOS)],
        "batch": [random.choice(("manifest.yaml", "*.ckpt", *SOURCES))],
        "report": [random.choice(REPORTS)],
    }.get(name, [])
    if arguments and random.random() < 0.2:
        arguments[random.randrange(len(arguments))] = random.choice((*WORDS, *TEXTS))
    known = [option for option in COMMANDS[name].params if option.opts[0].startswith("-")]
    weights = [6 if option.name in _WRITES else 1 for option in known]
    for option in random.choices(known, weights, k=random.choice((0, 1, 1, 2, 3, 4))):
        arguments.append(random.choice(option.opts))
        if option.is_flag:
            continue
        choices = option.metavar.split("|") if "|" in (option.metavar or "") else WORDS
        usual = NEW if option.name in _WRITES else choices
        value = random.choice(usual if random.random() < 0.7 else TEXTS)
        # Never Ray: the command would start a cluster.
        arguments.append("local" if option.name == "executor" else value)
        if option.name in _WRITES and name in ("convert", "batch"):
            arguments += random.choice(([], ["--overwrite"]))
    if arguments and random.random() < 0.2:
        at = random.randrange(len(arguments))
        word = random.choice((None, arguments[at], random.choice(TEXTS), "--no-such"))
        arguments[at : at + random.randrange(2)] = [] if word is None else [word]
    if name in _QUICK:
        arguments.insert(0, random.choice(_QUICK[name]))
    form = ("--help",) if random.random() < 0.05 else random.choice(_FORMS)
    return Case((name, *form, *filter(None, arguments)))


# Documents

_TEMPORAL = {"time_mode": "all", "merge_strategy": "fixed", "alpha": 0.25,
             "video_kernel_size": [3, 1, 1]}  # fmt: skip
_DDCONFIG = {"double_z": True, "z_channels": 4, "resolution": 32, "in_channels": 3, "out_ch": 3,
             "ch": 32, "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [],
             "dropout": 0.0}  # fmt: skip
CONFIGS: tuple[Any, ...] = (
    {"description": "x", "temporal": _TEMPORAL, "seed": 3, "dtype": "float16",
     "float32_norms": True},
    {"temporal": {**_TEMPORAL, "alpha": "${seed}"}, "seed": 1,
     "architecture": {**_DDCONFIG, "embed_dim": 4, "scaling_factor": 0.18, "shift_factor": 0.0}},
    {"model": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": {
        "embed_dim": 4, "ddconfig": _DDCONFIG, "lossconfig": {"target": "torch.nn.Identity"}}}},
    {"model": {"params": {"first_stage_config": {"params": {
        "embed_dim": 4, "ddconfig": {**_DDCONFIG, "ch": "${..x}"}, "x": 32}}}}},
    {"decoder_config": {"target": "sgm.modules.VideoDecoder",
                        "params": {**_DDCONFIG, **_TEMPORAL}}},
)  # fmt: skip
MANIFESTS: tuple[Any, ...] = (
    {"defaults": {"time_mode": "all", "alpha": 0.25, "skip_parity": True, "overwrite": True,
                  "output": "new/{stem}.{alpha}.{time_mode}.safetensors", "set": ["seed=3"]},
     "ledger": "new.sqlite",
     "jobs": ["img.safetensors", {"source": "parts/*.json", "seed": 3},
              {"source": "folder", "matrix": {"time_mode": ["all", "conv-only"],
                                              "alpha": [0.25, 0.5]}}]},
    {"jobs": [{"source": "img.ckpt", "output": "new.safetensors", "config": "config.yaml",
               "dtype": "float16", "device": "cpu", "prefix": None, "layout": "decoder",
               "video_kernel_size": [3, 1, 1], "post_quant": "keep", "weights": "plain"}]},
)  # fmt: skip


def configuration(random: Random, _: Stock) -> Case:
    """A YAML configuration with edits."""
    content = as_yaml(mutated(random.choice(CONFIGS), random), random)
    command, ends = random.choice(("convert",) * 4 + ("batch",)), ["--dry-run"]
    if command == "convert" and random.random() < 0.15:
        ends = ["--skip-parity", "-o", "new.safetensors"]
    words = (command, *random.choice(_FORMS), random.choice(SOURCES), "--config", "case.yaml")
    return Case((*words, *ends), {"case.yaml": content})


def manifest(random: Random, _: Stock) -> Case:
    """A batch manifest with edits; few of them are run without ``--dry-run``, which is slow."""
    content = as_yaml(mutated(random.choice(MANIFESTS), random), random)
    run = ("--device", "cpu", "-j", "2") if random.random() < 0.03 else ("--dry-run",)
    more = random.choice(((), (), ("--fail-fast",), ("--alpha", "0.1"), ("--ledger", "case.yaml")))
    words = ("batch", *random.choice(_FORMS), "case.yaml", *run, *more)
    return Case(words, {"case.yaml": content})


def report(random: Random, stock: Stock) -> Case:
    """A stored report with edits; most of them still match its schema."""
    document = json.loads(stock[random.choice(REPORTS)])
    content = as_json(mutated(document, random, like=0.8), random)
    if random.random() < 0.1:
        content = edited(content, random)
    kind = random.choice(("html", "md", "xml"))
    ends = random.choice(((), ("--to", kind, "-o", "-"), ("-o", f"new.{kind}"), ("--to", kind)))
    return Case(("report", "case.json", *ends), {"case.json": content})


# Checkpoints

MARK = b"\0THE NUMBERS\0\xff\xfe"
FORMATS = ("img.safetensors", "img.ckpt", "img.pth", "folder", "parts/model.safetensors.index.json",
           "video.safetensors")  # fmt: skip


def skeletons(source: str, stock: Stock) -> dict[str, bytes]:
    """The files of a checkpoint with ``MARK`` in the place of their numbers."""
    folder = source.partition("/")[0]
    names = [name for name in stock if name == source or name.startswith(f"{folder}/")]
    return {name: MARK.join(_parts(name, stock[name])[::2]) for name in names}


def checkpoint_case(
    source: str, changed: Mapping[str, bytes], stock: Stock, command: Sequence[str]
) -> Case:
    """A command on a copy of a checkpoint in which some skeletons are others.

    The words ``CASE`` of the command are its path.
    """
    files = {
        f"case.{name}": {**own, **changed}[name].replace(MARK, _parts(name, stock[name])[1], 1)
        for own in [skeletons(source, stock)]
        for name in own
    }
    return Case(tuple(f"case.{source}" if word == "CASE" else word for word in command), files)


READS = tuple(
    tuple(line.split())
    for line in ("inspect CASE", "convert CASE --dry-run --json",
                 "convert CASE --skip-parity -o new.safetensors")
)  # fmt: skip
VERIFIES = tuple(
    ("verify", *pair, "--device=cpu", *more)
    for pair in (("img.safetensors", "CASE"), ("CASE",))
    for more in ((), (), ("--bisect",), ("--self-test",), ("--trainability", "--report=new.html"))
)


def checkpoint(random: Random, stock: Stock) -> Case:
    """A checkpoint of any format with edits of its structure, its header or its numbers."""
    source = random.choice((*FORMATS, *VIDEOS[:1] * 4))
    name, content = random.choice(list(skeletons(source, stock).items()))
    head, numbers, tail = _parts(name, stock[name])
    kind = random.random()
    if kind < 0.4 and name.endswith((".safetensors", ".json")):
        start = 8 if name.endswith(".safetensors") else 0
        document = json.loads(head[start:])
        metadata = document.get("__metadata__", {})
        if "inflate.config" in metadata and random.random() < 0.7:
            key = random.choice(
                ["inflate.config", *(k for k in metadata if metadata[k][0] in "{[")]
            )
            text = as_json(mutated(json.loads(metadata[key]), random), random)
            metadata[key] = text.decode("utf-8", "replace")
        else:
            document = mutated(document, random)
        text = as_json(document, random)
        content = (struct.pack("<Q", len(text)) if start else b"") + text + MARK + tail
    elif kind < 0.7 and numbers:  # NaN, infinity, large, tiny, 0 or noise in some numbers
        at = 4 * random.randrange(len(numbers) // 4)
        count = random.choice((1, 16, len(numbers) // 4 - at // 4))
        word = random.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\1\0\0\0",
                              b"\0\0\0\0", b"\xff" * 4, random.randbytes(4)))  # fmt: skip
        content = head + numbers[:at] + (word * count)[: len(numbers) - at]
        content += numbers[at + 4 * count :] + tail
    else:
        content = edited(content, random, random.randint(1, 3))
    words = random.choice(VERIFIES if source in VIDEOS and random.random() < 0.7 else READS)
    return checkpoint_case(source, {name: content}, stock, words)


@functools.cache
def _parts(name: str, content: bytes) -> tuple[bytes, bytes, bytes]:
    """What comes before the numbers of a file, the numbers, and what comes after them."""
    if name.endswith(".json"):
        return content, b"", b""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        with open_checkpoint(Path(file.name)) as checkpoint:
            found = [checkpoint.extent(key) for key in checkpoint.tensors]
    start = min(extent.offset for extent in found if extent)
    end = max(extent.offset + extent.nbytes for extent in found if extent)
    return content[:start], content[start:end], content[end:]


KINDS: Mapping[str, Callable[[Random, Stock], Case]] = {
    "lines": command_line, "configurations": configuration, "manifests": manifest,
    "reports": report, "checkpoints": checkpoint,
}  # fmt: skip


def draw(kind: str, seed: int, number: int, stock: Stock) -> Case:
    """Return the case of this number, whichever others are drawn."""
    return KINDS[kind](Random(f"{seed}/{kind}/{number}"), stock)
