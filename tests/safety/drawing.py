"""Strategies for commands with hostile arguments, documents and checkpoints."""

from __future__ import annotations

import copy
import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import typer
import yaml
from hypothesis import strategies as st

from inflate.cli.app import app_for

from ..checkpoints import DDCONFIG as TWO_LEVELS

COMMANDS: Mapping[str, Any] = typer.main.get_command(app_for()).commands  # type: ignore[attr-defined]
Draw = Callable[[st.SearchStrategy[Any]], Any]
Stock = Mapping[str, bytes]
"""The valid files by their paths in the folder in which commands run."""


@dataclass(frozen=True)
class Case:
    """The arguments of a command, and the files that it needs next to the valid ones."""

    arguments: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The arguments, and the first bytes of each file."""
        return f"{self.arguments!a} { ({name: body[:3000] for name, body in self.files.items()})!a}"


# Hostile values

LONG = "n" * 300
SECRET = "SECRET_OF_FUZZ"
"""A variable of the environment that no output may quote."""
TEXTS = (
    "", " ", LONG, "-", "--", ".", "..", "x/../y", "gone/x", "empty", "img.safetensors/x",
    "\x1b[2J\x1b]0;x\x07", "\u202egpj.\u2066x", "a\nerror: b\r", "\u2028\x85", "\udcff", "中",
    f"${{oc.env:{SECRET}}}", f"${{oc.decode:'${{oc.env:{SECRET}}}'}}", "${temporal.alpha}", "${.x}",
    "${", "???", "{stem}", "{x!r:>9}", "{", "*", "**/*", "[a", "2024-02-30", "1_000", "-5", "0.25",
    "null", "NaN", "1e999", "9" * 5000, "=", "alpha=.nan", "ch_mult=[1,[2]]", "x=*a", '"', "|",
    "<b>&amp;]]>", "`|*_", "http://", "https://[x", "hf://", "s3://", "file:///gone", "://",
)  # fmt: skip
"""Possible arguments of a process."""
TEXT = st.sampled_from((*TEXTS, "a\0b", "\ud800"))
VALUES = st.recursive(
    TEXT | TEXT | st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=3,
)
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 10)
)
LINES = (
    BOMB, f"x: {'[' * 3000}\n", f"x: {'[' * 3000}{']' * 3000}\n", "x: &a [*a]\n", "x: *x\n",
    "<<: {time_mode: all}\n", "? {a: b}\n: c\n", "1: 2\n", "null: 3\n", "2024-02-29: x\n",
    "---\nx: 1\n", "x: !!python/object/apply:os.system ['touch ran']\n", "x: !!binary '*'\n",
    f"description: ${{oc.env:{SECRET}}}\n", "x: ${.y}\ny: ${.x}\n", "\0", "\x85", "\t",
)  # fmt: skip
"""Last lines of a YAML document: bombs, loops, tags, keys of other types, interpolations."""
WORDS = st.binary(max_size=8) | st.sampled_from((
    b"", b"[" * 3000, b"{", b'"', b",", b": ", b"\n\n  - ", b"\t", b"#", b"*x", b"&x ", b"${",
    b"null", b"NaN", b"1e999", b"-1", b"9" * 5000, b"2024-02-29", b"\xef\xbb\xbf", b"\\ud800",
    b"!!python/name:os.system ", b"\x80\x02", b"PK\x03\x04", b"PK\x05\x06", b"\x1b[2J",
    b"cposix\nsystem\n", b"cbuiltins\nbytearray\n", b"ctorch\nSize\n", b"R", b"\x81", b"b", b"Q",
    b"t", b"(", b".", b"q\0", b"h\0", b"decoder.", b".weight", b"F64", b"../",
    *((2**bits - 1).to_bytes(8, "little") for bits in (15, 16, 31, 32, 63)),
))  # fmt: skip


@st.composite
def edited(draw: Draw, content: bytes) -> bytes:
    """Bytes of which up to three words or other parts are replaced, removed or repeated."""
    for _ in range(draw(st.integers(1, 3))):
        starts = [0, *(found.start() for found in re.finditer(rb"\b|\n", content)), len(content)]
        first, other = (draw(st.sampled_from(starts)) for _ in range(2))
        word = draw(WORDS | st.just(content[other : other + 40]))
        after = min((start for start in starts if start > first), default=first)
        last = draw(st.sampled_from((first, first + 1, first + len(word), after, len(content))))
        content = content[:first] + word + content[last:]
    return content


@st.composite
def mutated(draw: Draw, document: Any) -> Any:
    """A copy of a document after up to two edits; half of the new values keep the type."""
    root = [copy.deepcopy(document)]
    for _ in range(draw(st.integers(0, 2))):
        holder: Any = root
        key: Any = 0
        # Places near the root are as likely as all of a long list.
        while isinstance(holder[key], (dict, list)) and holder[key] and draw(st.integers(0, 6)):
            holder = holder[key]
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            key = draw(st.sampled_from(keys))
        old = holder.pop(key)
        same = TEXT if isinstance(old, str) else st.from_type(type(old))
        values = same | VALUES | st.sampled_from(([old], {"x": old}, [old, old]))
        if isinstance(holder, dict):
            kept = draw(st.sampled_from(("value", "value", "name", "nothing")))
            if kept == "name":
                holder[draw(TEXT | st.just(f"{key}s"))] = old
            elif kept == "value":
                holder[key] = draw(values)
        else:
            holder.insert(key, draw(values))
    return root[0]


@st.composite
def as_json(draw: Draw, document: Any) -> bytes:
    """A mutated document as JSON, with the numbers that JSON does not have."""
    text = json.dumps(draw(mutated(document)), ensure_ascii=draw(st.booleans()))
    return text.encode("utf-8", "surrogatepass")


@st.composite
def as_yaml(draw: Draw, document: Any) -> bytes:
    """A mutated document as YAML, in blocks or in braces; some with edits of the text."""
    flow = draw(st.booleans())
    text = yaml.safe_dump(draw(mutated(document)), default_flow_style=flow, sort_keys=False)
    content = text.encode("utf-8", "surrogatepass")
    more = st.sampled_from(LINES).map(lambda line: content + line.encode())
    result: bytes = draw(st.just(content) | st.just(content) | more | edited(content))
    return result


# Command lines

SOURCES = (
    "img.safetensors", "img.safetensors", "img.ckpt", "img.pth", "folder", "link.safetensors",
    "parts/model.safetensors.index.json", "\x1b[2J.safetensors", "\u202egpj.safetensors",
    "\udcff.safetensors", "video.safetensors", "conv.safetensors",
)  # fmt: skip
VIDEOS = SOURCES[-2:]
FORMATS = (*SOURCES[1:5], SOURCES[6], VIDEOS[0])
REPORTS = ("pass.json", "fail.json", "full.json")
NEW = ("new.safetensors", "new.safetensors", "new.html", "new.json", "new.xml", "new.sqlite", "new",
       "spare/old.md", "spare/old.safetensors", "gone/new.safetensors", "empty", "fifo", "null",
       "broken", "loop", "{stem}.new.safetensors", "\u202enew\x1b[2J.safetensors", LONG,
       "img.safetensors", "./img.safetensors", "link.safetensors", "hard.safetensors", "folder",
       "folder/config.json", "parts/model-00001-of-00002.safetensors")  # fmt: skip
"""Destinations, under some of which a run could destroy its source."""
ANY = ("0.25", "1", "7", "0", "cpu", "3,1,1", "img.ckpt", "config.yaml", "kl-f8", "alpha=0.25",
       "images", "images/a.png", "latents.safetensors", "vae.", "gone/x.safetensors", "empty",
       "fifo", "broken", "loop", "manifest.yaml", "pass.json", LONG)  # fmt: skip
POSITIONAL: Mapping[str, Sequence[Sequence[str]]] = {
    "convert": [SOURCES], "inspect": [SOURCES], "verify": [SOURCES, VIDEOS],
    "batch": [("manifest.yaml", "*.ckpt", *SOURCES)], "report": [REPORTS],
}  # fmt: skip
QUICK = {
    "convert": ("--dry-run", "--skip-parity", "--device=cpu"),
    "batch": ("--dry-run",),
    "verify": ("--device=cpu",),
}
WRITES = ("output", "report_to", "ledger", "report_dir", "save_outputs")
FORMS = st.sampled_from(((), ("--json",), ("-q",)))


@st.composite
def command_lines(draw: Draw, _: Stock) -> Case:
    """A command line of valid words, hostile ones, and both in the wrong places."""

    def pick(values: Sequence[Any], hostile: Sequence[Any] = ()) -> Any:
        usual = st.sampled_from(values)
        return draw(usual | usual | usual | st.sampled_from(hostile) if hostile else usual)

    name = pick((*("convert", "verify", "batch") * 3, *COMMANDS))
    arguments = [pick(words, (*ANY, *TEXTS)) for words in POSITIONAL.get(name, ())]
    if name == "demo":  # Only where it must fail: it takes seconds.
        return Case((name, "-q", pick(("img.safetensors", "fifo", "broken", LONG))))
    known = [option for option in COMMANDS[name].params if option.opts[0].startswith("-")]
    known += [option for option in known if option.name in WRITES] * 5
    for option in draw(st.lists(st.sampled_from(known), max_size=4)):
        arguments.append(pick(option.opts))
        if option.is_flag:
            continue
        choices = option.metavar.split("|") if "|" in (option.metavar or "") else ANY
        value = pick(NEW if option.name in WRITES else choices, TEXTS)
        # Never Ray: the command would start a cluster.
        arguments.append("local" if option.name == "executor" else value)
        if option.name in WRITES and name in ("convert", "batch"):
            arguments += pick(([], ["--overwrite"]))
    if arguments and not draw(st.integers(0, 3)):
        at = pick(range(len(arguments)))
        words = pick(([], [arguments[at]], [pick(TEXTS)], ["--no-such"]))
        arguments[at : at + pick((0, 1))] = words
    quick = pick(QUICK[name]) if name in QUICK else ""
    form = pick((*((), ("--json",), ("-q",)) * 6, ("--help",)))
    return Case((name, *form, *filter(None, (quick, *arguments))))


# Documents

DDCONFIG = {**TWO_LEVELS, "ch_mult": [1]}
_TEMPORAL = {"time_mode": "all", "merge_strategy": "fixed", "alpha": 0.25,
             "video_kernel_size": [3, 1, 1]}  # fmt: skip
CONFIGS: tuple[Any, ...] = (
    {"description": "x", "temporal": _TEMPORAL, "seed": 3, "dtype": "float16",
     "float32_norms": True},
    {"temporal": {**_TEMPORAL, "alpha": "${seed}"}, "seed": 1,
     "architecture": {**DDCONFIG, "embed_dim": 4, "scaling_factor": 0.18, "shift_factor": 0.0}},
    {"model": {"params": {"first_stage_config": {"params": {
        "embed_dim": 4, "ddconfig": {**DDCONFIG, "ch": "${..x}"}, "x": 32}}}}},
    {"decoder_config": {"target": "sgm.modules.VideoDecoder",
                        "params": {**DDCONFIG, **_TEMPORAL}}},
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


@st.composite
def configurations(draw: Draw, _: Stock) -> Case:
    """A YAML configuration with edits."""
    content = draw(as_yaml(draw(st.sampled_from(CONFIGS))))
    command, *ends = draw(st.sampled_from((
        *[("convert", "--dry-run")] * 4, ("convert", "--skip-parity", "-o", "new.safetensors"),
        ("batch", "--dry-run"),
    )))  # fmt: skip
    source = draw(st.sampled_from(SOURCES))
    words = (command, *draw(FORMS), source, "--config", "case.yaml", *ends)
    return Case(words, {"case.yaml": content})


@st.composite
def manifests(draw: Draw, _: Stock) -> Case:
    """A batch manifest with edits; few are run without ``--dry-run``, which is slow."""
    content = draw(as_yaml(draw(st.sampled_from(MANIFESTS))))
    run = draw(st.sampled_from((*[("--dry-run",)] * 29, ("--device", "cpu", "-j", "2"))))
    more = draw(st.sampled_from(
        ((), ("--fail-fast",), ("--alpha", "0.1"), ("--ledger", "case.yaml"))
    ))  # fmt: skip
    return Case(("batch", *draw(FORMS), "case.yaml", *run, *more), {"case.yaml": content})


@st.composite
def reports(draw: Draw, stock: Stock) -> Case:
    """A stored report with edits."""
    content = draw(as_json(json.loads(stock[draw(st.sampled_from(REPORTS))])))
    if not draw(st.integers(0, 9)):
        content = draw(edited(content))
    kind = draw(st.sampled_from(("html", "md", "xml")))
    ends = ((), ("--to", kind, "-o", "-"), ("-o", f"new.{kind}"), ("--to", kind))
    return Case(("report", "case.json", *draw(st.sampled_from(ends))), {"case.json": content})


# Checkpoints

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
NUMBERS = tuple(struct.pack("<f", x) for x in (float("nan"), float("inf"), 3e38, 1e-45, 0.0))
ENDS = 6000
"""How many bytes at the start and the end of a file are edited as its structure."""


def checkpoint_case(
    source: str, changed: Mapping[str, bytes], stock: Stock, command: Sequence[str]
) -> Case:
    """A command on a copy of a checkpoint with changed files; its words ``CASE`` are the path."""
    folder = source.partition("/")[0]
    own = {name: body for name, body in stock.items() if name.startswith((source, f"{folder}/"))}
    words = (f"case.{source}" if word == "CASE" else word for word in command)
    return Case(tuple(words), {f"case.{name}": body for name, body in {**own, **changed}.items()})


@st.composite
def checkpoints(draw: Draw, stock: Stock) -> Case:
    """A checkpoint of any format with edits of its header, its structure or its numbers."""
    source = draw(st.sampled_from((*FORMATS, *VIDEOS[:1] * 4)))
    words = draw(st.sampled_from(VERIFIES + READS if source in VIDEOS else READS))
    name = draw(st.sampled_from(list(checkpoint_case(source, {}, stock, ()).files)))
    name = name.removeprefix("case.")
    content = stock[name]
    start = 8 if name.endswith(".safetensors") else 0
    has_json = name.endswith((".safetensors", ".json"))
    kind = draw(st.sampled_from(("bytes", "numbers", "document") if has_json else ("bytes",)))
    if kind == "document":
        end = 8 + int.from_bytes(content[:8], "little") if start else len(content)
        document = json.loads(content[start:end])
        metadata = document.get("__metadata__", {})
        documents = [key for key in metadata if metadata[key][0] in "{["]
        if documents and draw(st.booleans()):
            key = draw(st.sampled_from(("inflate.config", *documents)))
            text = draw(as_json(json.loads(metadata[key])))
            metadata[key] = text.decode("utf-8", "replace")
            text = json.dumps(document).encode()
        else:
            text = draw(as_json(document))
        content = (struct.pack("<Q", len(text)) if start else b"") + text + content[end:]
    elif kind == "numbers":
        at = 4 * draw(st.integers(0, len(content) // 4))
        numbers = draw(st.sampled_from(NUMBERS)) * draw(st.sampled_from((1, 16, len(content))))
        content = (content[:at] + numbers)[: len(content)] + content[at + len(numbers) :]
    elif draw(st.booleans()):
        content = draw(edited(content[:ENDS])) + content[ENDS:]
    else:
        content = content[:-ENDS] + draw(edited(content[-ENDS:]))
    return checkpoint_case(source, {name: content}, stock, words)


KINDS: Mapping[str, Callable[[Stock], st.SearchStrategy[Case]]] = {
    "lines": command_lines, "configurations": configurations, "manifests": manifests,
    "reports": reports, "checkpoints": checkpoints,
}  # fmt: skip
