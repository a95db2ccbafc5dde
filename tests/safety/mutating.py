"""Hostile values, and edits of documents and bytes that are valid before them."""

from __future__ import annotations

import copy
import json
import math
import re
from random import Random
from typing import Any

import yaml

RAW = "@@"
"""A text that begins with this is dumped as what follows, without quotes."""

LONG = "n" * 300
SECRET = "SECRET_OF_FUZZ"
"""A variable of the environment, which nothing may quote."""

NUMBERS = (
    0, -1, 1, 3, 255, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e-320, 1e39, 1.5e308,
    math.nan, math.inf, -math.inf,
)  # fmt: skip

TEXTS = (
    "", " ", "x", LONG, "-", "--", ".", "..", "../x", "x/../y", "gone/x", "gone", "empty",
    "img.safetensors/x", "\x1b[2J\x1b]0;x\x07", "\u202egpj.\u2066x", "a\nerror: b\r", "\u2028\x85",
    "\udcff", "é中\U0001f600", f"${{oc.env:{SECRET}}}", "${oc.env:NOT_THERE,x}",
    f"${{oc.decode:'${{oc.env:{SECRET}}}'}}", "${temporal.alpha}", "${.x}", "${", "???",
    "{stem}", "{x!r:>9}", "{", "}", "*", "**/*", "[a", "[1", "2024-02-30", "0x10", "1_000", "007",
    "-5", "0.25", "true", "null", "NaN", "nan", "-inf", "1e999", "1" + "0" * 400, "9" * 5000,
    "=", "a=b", "alpha=.nan", "alpha=1" + "0" * 400, "seed=9223372036854775808", "ch_mult=[1,[2]]",
    "x=*a", "'", '"', "|",
    "<b>&amp;]]>", "`|*_", "http://", "https://[x", "hf://", "s3://", "file:///gone", "://",
)  # fmt: skip
"""Texts as the arguments of a process may be."""

INSIDE = ("a\0b", "\ud800")
"""Texts that a file can hold, and no argument."""

VALUES = (
    *NUMBERS, *TEXTS, *INSIDE, None, True, False, [], {}, [[]], [0, "x"], {"x": 1}, {"": None},
    [1, [2, [3]]], RAW + "1e999", RAW + "-" + "9" * 5000, RAW + "[" * 3000, RAW + "NaN",
    RAW + "{a:", RAW + "2024-02-29", RAW + "1:2:3", RAW + ".inf",
)  # fmt: skip

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 10)
)

ADDED = tuple(
    line.encode()
    for line in (
        BOMB, f"x: {'[' * 3000}\n", f"x: {'[' * 3000}{']' * 3000}\n", f"x: {'{a: ' * 900}\n",
        "x: &a [*a]\n", "x: &a {b: *a}\n", "x: *x\n", "<<: {time_mode: all}\n", "? {a: b}\n: c\n",
        "1: 2\n", "null: 3\n", "true: x\n", "2024-02-29: x\n", "x: 2024-02-30\n", "---\nx: 1\n",
        "x: !!python/object/apply:os.system ['touch ran']\n", "x: !!binary '*'\n", "x: !!set {a}\n",
        f"description: ${{oc.env:{SECRET}}}\n", "x: ${x}\n", "x: ${.y}\ny: ${.x}\n", "x: ???\n",
        "\0", "\x85", "\t",
        f"x: {'9' * 5000}\n", "x: 1:2:3\n", "jobs: [img.safetensors]\n", "temporal: {alpha: 1}\n",
    )
)  # fmt: skip
"""Ends of a YAML document: bombs, loops, tags, keys of other types, interpolations."""

BYTE_WORDS = (
    b"\xff\xfe", b"\xff", b"\0\0", b"{", b"}", b"[" * 3000, b'"', b",", b"NaN", b"1e999", b"\t",
    b": ", b"*x", b"&x ", b"? ", b"#", b"\n\n  - ", b"${", b"\xef\xbb\xbf",
    b"!!python/name:os.system ",
)  # fmt: skip

Edit = tuple[str, float, float, bytes]
EDITS = ("flip", "write", "insert", "remove", "truncate", "copy", "swap")


def edited(content: bytes, edits: list[Edit]) -> bytes:
    """Bytes after edits; places are shares of their length."""
    for kind, first, second, inserted in edits:
        at, other = int(first * len(content)), int(second * len(content))
        length = min(40, abs(other - at))
        if kind == "flip" and content:
            flipped = content[at] ^ (1 << int(second * 8))
            content = content[:at] + bytes([flipped]) + content[at + 1 :]
        elif kind == "write":
            content = content[:at] + inserted + content[at + len(inserted) :]
        elif kind == "insert":
            content = content[:at] + inserted + content[at:]
        elif kind == "remove":
            content = content[:at] + content[at + length :]
        elif kind == "truncate":
            content = content[:at]
        elif kind == "copy":
            content = content[:at] + content[other : other + length] + content[at:]
        elif kind == "swap":
            at, other = sorted((at, other))
            middle = content[at + length : other]
            content = (
                content[:at] + content[other : other + length] + middle
                + content[at : at + length] + content[other + length :]
            )  # fmt: skip
    return content


def garbled(content: bytes, words: tuple[bytes, ...], random: Random) -> bytes:
    """Bytes after one or two drawn edits."""
    return edited(
        content,
        [
            (random.choice(EDITS), random.random(), random.random(), random.choice(words))
            for _ in range(random.randint(1, 2))
        ],
    )


def mutated(document: Any, random: Random, *, like: float = 0.5) -> Any:
    """A copy of a document of mappings, lists and values after up to three edits.

    Args:
        document: stays as it is.
        random: what draws the edits.
        like: the share of edits that keep the type of what they change.
    """
    root = [copy.deepcopy(document)]
    for _ in range(random.choice((0, 1, 1, 1, 1, 2, 3))):
        holder, key = _spot(root, random)
        if random.random() < like:
            holder[key] = _alike(holder[key], random)
            continue
        kind = random.choice(("value", "value", "remove", "rename", "wrap"))
        if kind == "remove" and holder is not root:
            del holder[key]
        elif kind == "rename" and isinstance(holder, dict):
            holder[random.choice((*TEXTS, f"{key}s", key.upper()))] = holder.pop(key)
        elif kind == "wrap":
            holder[key] = random.choice(([holder[key]], {"x": holder[key]}, [holder[key]] * 2))
        else:
            holder[key] = copy.deepcopy(random.choice(VALUES))
    return root[0]


def _spot(root: list[Any], random: Random) -> tuple[Any, Any]:
    """A place in a document: those near its root are as likely as all of a long list."""
    holder, key = root, 0
    while isinstance(holder[key], (dict, list)) and holder[key] and random.random() < 0.85:
        holder = holder[key]
        key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    return holder, key


def _alike(value: Any, random: Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return random.choice([n for n in NUMBERS if isinstance(n, int)])
    if isinstance(value, float):
        return random.choice([n for n in NUMBERS if isinstance(n, float) and math.isfinite(n)])
    if isinstance(value, str):
        return random.choice((*TEXTS, *INSIDE, value + value, value[:-1]))
    if isinstance(value, list):
        return random.choice((value * 2, value[1:], value[::-1], []))
    return None if isinstance(value, dict) else random.choice(VALUES)


def as_json(document: Any, random: Random) -> bytes:
    """A document as JSON, with numbers that JSON has not where it holds them."""
    text = json.dumps(document, ensure_ascii=random.random() < 0.5)
    return _unquoted(text).encode("utf-8", "surrogatepass")


def as_yaml(document: Any, random: Random) -> bytes:
    """A document as YAML, in blocks or in braces; some are spoiled as text, too."""
    text = yaml.safe_dump(document, default_flow_style=random.random() < 0.2, sort_keys=False)
    content = _unquoted(text).encode("utf-8", "surrogatepass")
    lines = content.splitlines(keepends=True)
    kind = random.choice(("",) * 6 + ("twice", "moved", "added", "garbled"))
    if kind == "twice":
        lines.insert(random.randrange(len(lines) + 1), random.choice(lines))
    elif kind == "moved":
        at = random.randrange(len(lines))
        lines[at] = random.choice((b"  ", b"\t", b"- ")) + lines[at]
    elif kind == "added":
        lines.append(random.choice(ADDED))
    content = b"".join(lines)
    return garbled(content, BYTE_WORDS, random) if kind == "garbled" else content


def _unquoted(text: str) -> str:
    return re.sub(rf"""(['"]){RAW}([^'"]*)\1""", r"\2", text)
