"""Commands that nobody meant: drawn lines, configurations, manifests, candidates and reports.

A case is drawn whole, its files too, from a generator and the stock of valid files alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import typer

from inflate import vocabulary
from inflate.cli.app import app
from inflate.config.loading import known_keys

from .mutating import BYTE_WORDS, LONG, TEXTS, as_json, as_yaml, garbled, mutated
from .spoiling import spoiled_video

COMMANDS: Mapping[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Case:
    """The arguments of a command, and the files that it needs beside the stock."""

    arguments: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)


Stock = Mapping[str, bytes]
"""The valid files, by their names in the folder in which commands run."""

SOURCES = (
    "img.safetensors", "img.safetensors", "img.ckpt", "parts/model.safetensors.index.json",
    "folder", "link.safetensors", "hard.safetensors", "\x1b[2J.safetensors",
    "\u202egpj.safetensors", "\udcff.safetensors",
)  # fmt: skip
VIDEOS = ("video.safetensors", "video.safetensors", "conv.safetensors")
REPORTS = ("pass.json", "fail.json", "full.json")
PLACES = (
    "gone", "gone/x.safetensors", "empty", "fifo", "null", "broken", "loop", "latents.safetensors",
    "images", "config.yaml", "manifest.yaml", "pass.json", LONG + ".safetensors", "old.safetensors",
)  # fmt: skip
"""What is there but not meant, and what is not there."""

NEW = ("new.safetensors", "new.safetensors", "spare/old.safetensors", "gone/new.safetensors",
       "empty", "empty/new", "fifo", "null", "broken", "loop", "{stem}.new.safetensors",
       "\u202enew\x1b[2J.safetensors", LONG)  # fmt: skip
OWN = {
    "img.safetensors": ("img.safetensors", "./img.safetensors", "link.safetensors",
                        "hard.safetensors"),
    "parts/model.safetensors.index.json": ("parts/model.safetensors.index.json",
                                           "parts/model-00001-of-00002.safetensors"),
    "folder": ("folder", "folder/config.json", "folder/diffusion_pytorch_model.safetensors"),
    "manifest.yaml": ("manifest.yaml", "parts/../manifest.yaml"),
}  # fmt: skip
"""The names under which a run could destroy what it reads."""

VALID: Mapping[str, Sequence[str]] = {
    "output": NEW,
    "report_to": ("new.html", "new.json", "new.md", "new.xml", "spare/old.md", "fifo", "new.pdf"),
    "report_dir": ("new", "empty", "spare"),
    "save_outputs": ("new", "empty", "spare"),
    "ledger": ("new.sqlite", "spare/old.md", "empty"),
    "config": ("config.yaml", "kl-f8", "sgm.yaml"),
    "set_": ("alpha=0.25", "temporal.time_mode=all", "ch_mult=[1]", "description=x", "seed=7"),
    "video_kernel_size": ("1", "3", "3,1,1", "[3,1,1]", "999", "1001", "2", "0", "-3"),
    "prefix": ("vae.", "first_stage_model."),
    "device": ("cpu", "auto", "tpu", "cuda:999"),
    "images": ("images",),
    "latents": ("latents.safetensors", "video.safetensors"),
    "video": ("images/a.png",),
    "to": ("html", "md", "xml"),
    "executor": ("local",),  # Never Ray: it would be started.
    "time_mode": vocabulary.TIME_MODES,
    "merge_strategy": vocabulary.MERGE_STRATEGIES,
    "attn_type": vocabulary.ATTN_TYPES,
    "dtype": (*vocabulary.STORED_TYPES, "float64"),
    "weights": vocabulary.WEIGHTS,
    "layout": vocabulary.TARGETS,
    "post_quant": vocabulary.POST_QUANTS,
}
_NUMBERS = ("0.25", "1", "2", "7", "0")
_QUICK = {
    "convert": ("--dry-run", "--dry-run", "--skip-parity", "--skip-parity", "--device=cpu"),
    "batch": ("--dry-run",),
    "verify": ("--device=cpu",),
}
_WRITES = ("output", "report_to", "ledger", "report_dir", "save_outputs")


def line(random: Random, stock: Stock) -> Case:
    """A command line: valid words, hostile ones, and both in the wrong places."""
    name = random.choice(("convert",) * 5 + ("verify",) * 3 + ("batch",) * 3 + tuple(COMMANDS))
    if name == "demo":  # Only where it cannot begin: it takes seconds.
        folder = random.choice(("img.safetensors", "fifo", "null", "broken", "loop", LONG))
        return _case([name, random.choice(("-q", "--help", "--device=tpu", "--json")), folder])
    read = _positional(name, random)
    own = [place for one in read for place in OWN.get(one, (one,))]
    arguments, harm = list(read), False
    known = [option for option in COMMANDS[name].params if option.opts[0].startswith("-")]
    weights = [6 if option.name in _WRITES else 1 for option in known]
    for option in random.choices(known, weights, k=random.choice((0, 1, 1, 2, 3, 4))):
        flag = random.choice(option.opts)
        if option.is_flag:
            arguments.append(flag)
            continue
        writes = option.name in _WRITES
        if writes and name in ("convert", "batch"):
            arguments += random.choice(([], ["--overwrite"]))
        if writes and own and random.random() < 0.3:
            value, harm = random.choice(own), True
        elif random.random() < 0.7:
            value = random.choice(VALID.get(option.name, _NUMBERS))
        else:
            value = random.choice(random.choice((TEXTS, NEW if writes else PLACES)))
            if option.name == "set_" and random.random() < 0.8:
                value = f"{random.choice(known_keys())}={value}"
        arguments += random.choice(([flag, value], [f"{flag}={value}"]))
    # What is read must stay what is written, or another file would be lost, and rightly so.
    if not harm:
        _disturb(arguments, random)
    if random.random() < 0.97:
        arguments.insert(0, random.choice(_QUICK.get(name, ("",))))
    return _case([name, *_form(random, help=0.05), *filter(None, arguments)])


def _positional(name: str, random: Random) -> list[str]:
    good = {
        "convert": [random.choice((*SOURCES, *VIDEOS))],
        "inspect": [random.choice((*SOURCES, *VIDEOS))],
        "verify": [random.choice((*SOURCES, *VIDEOS)), random.choice(VIDEOS)],
        "batch": [random.choice(("manifest.yaml", "*.ckpt", *SOURCES))],
        "report": [random.choice(REPORTS)],
    }.get(name, [])
    if good and random.random() < 0.2:
        good[random.randrange(len(good))] = random.choice((*PLACES, *TEXTS))
    return good


def _disturb(arguments: list[str], random: Random) -> None:
    kind = random.choice(("", "", "drop", "twice", "insert", "misspell"))
    if kind == "insert":
        arguments.insert(random.randint(0, len(arguments)), random.choice((*TEXTS, "--no-such")))
    elif arguments and kind:
        at = random.randrange(len(arguments))
        if kind == "drop":
            del arguments[at]
        elif kind == "twice":
            arguments.insert(at, arguments[at])
        elif arguments[at].startswith("-"):
            arguments[at] = arguments[at][:-1]


def _form(random: Random, *, help: float = 0.0) -> list[str]:
    """How a command answers; what asks for JSON comes first, where nothing can swallow it."""
    if random.random() < help:
        return ["--help"]
    return random.choice(([], ["--json"], ["-q"]))


def _case(arguments: Sequence[str], name: str = "", content: bytes = b"") -> Case:
    return Case(tuple(arguments), {name: content} if name else {})


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


def configuration(random: Random, stock: Stock) -> Case:
    """A YAML configuration that was valid."""
    content = as_yaml(mutated(random.choice(CONFIGS), random), random)
    source, command = random.choice(SOURCES), random.choice(("convert",) * 4 + ("batch",))
    ends = ["--dry-run"]
    if command == "convert" and random.random() < 0.15:
        ends = ["--skip-parity", "-o", "new.safetensors"]
    return _case(
        [command, *_form(random), source, "--config", "case.yaml", *ends], "case.yaml", content
    )


MANIFESTS: tuple[Any, ...] = (
    {"defaults": {"time_mode": "all", "alpha": 0.25, "skip_parity": True, "overwrite": True,
                  "output": "new/{stem}.{alpha}.{time_mode}.safetensors", "set": ["seed=3"]},
     "ledger": "new.sqlite",
     "jobs": ["img.safetensors", {"source": "parts/*.json", "seed": 3},
              {"source": "folder", "matrix": {"time_mode": ["all", "conv-only"],
                                              "alpha": [0.25, 0.5]}}]},
    {"jobs": [{"source": "img.ckpt", "output": "new.safetensors", "config": "config.yaml",
               "dtype": "float16", "device": "cpu", "prefix": None, "layout": "sgm",
               "video_kernel_size": [3, 1, 1], "post_quant": "keep", "weights": "plain"}]},
    {"defaults": {"matrix": {"layout": ["autoencoder", "decoder"], "seed": [1, 2]}, "alpha": 0.5},
     "jobs": [{"source": "img.ckpt", "merge_strategy": "fixed", "alpha": "${defaults.alpha}"},
              "\u202egpj.safetensors"]},
)  # fmt: skip
_REAL = 0.03


def manifest(random: Random, stock: Stock) -> Case:
    """A manifest of a batch that was valid; few are run in earnest, which takes seconds."""
    content = as_yaml(mutated(random.choice(MANIFESTS), random), random)
    run = ["--device", "cpu", "-j", "2"] if random.random() < _REAL else ["--dry-run"]
    more = random.choice(([], [], ["--fail-fast"], ["--alpha", "0.1"], ["--ledger", "case.yaml"]))
    return _case(["batch", *_form(random), "case.yaml", *run, *more], "case.yaml", content)


def candidate(random: Random, stock: Stock) -> Case:
    """A video checkpoint that was valid, in one of the places where one is read."""
    content = spoiled_video(stock[random.choice(VIDEOS)], random)
    arguments = random.choice((
        *[["verify", *_form(random), "img.safetensors", "case.safetensors", "--device=cpu"]] * 4,
        ["verify", *_form(random), "case.safetensors", "--device=cpu"],
        ["inspect", *_form(random), "case.safetensors"],
        ["convert", *_form(random), "case.safetensors", "--layout", "diffusers", "-o", "new"],
        ["convert", *_form(random), "case.safetensors", "--layout", "sgm", "-o", "new.safetensors"],
    ))  # fmt: skip
    if arguments[0] == "verify":
        arguments += random.choice(([], [], [], ["--bisect"], ["--self-test"], ["--trainability"],
                                    ["--merge-strategy", "fixed"], ["--report", "new.html"],
                                    ["--report", "new.xml"], ["--dtype", "float16"]))  # fmt: skip
    return _case(arguments, "case.safetensors", content)


def report(random: Random, stock: Stock) -> Case:
    """A stored report that was valid, most often one that still keeps to its schema."""
    document = json.loads(stock[random.choice(REPORTS)])
    content = as_json(mutated(document, random, like=0.8), random)
    if random.random() < 0.1:
        content = garbled(content, BYTE_WORDS, random)
    kind = random.choice(("html", "md", "xml"))
    ends = random.choice(([], ["--to", kind, "-o", "-"], ["-o", f"new.{kind}"], ["--to", kind]))
    return _case(["report", "case.json", *ends], "case.json", content)


KINDS: Mapping[str, Callable[[Random, Stock], Case]] = {
    "lines": line,
    "configurations": configuration,
    "manifests": manifest,
    "candidates": candidate,
    "reports": report,
}
"""What is drawn, by name."""


def draw(kind: str, seed: int, number: int, stock: Stock) -> Case:
    """A case, the same for the same seed and number whichever others are drawn."""
    return KINDS[kind](Random(f"{seed}/{kind}/{number}"), stock)
