"""Find words that plain technical English avoids; run it as ``python scripts/prose.py``.

It reads docstrings, strings, comments and names of functions and classes in Python, comments in
shell scripts, and Markdown outside of code.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOUNS = r"(?:bars?|blocks?|cases?|channels?|files?|lines?|once|reports?|rows?|tasks?|twice)"
RULES = {
    r"told|tell(?:s|ing)?": "print, report, show",
    r"hang(?:s|ing)? on": "depend on",
    r"anew": "again",
    r"beside": "next to",
    r"all the same": "still; anyway",
    r"nobody|whoever": "no one; the user",
    r"(?<!there\x20)(?:is|are|was|were) no(?! (?:longer|more))": "is not a",
    r"(?:stand|stands|stood|is|are|was|in|get|gets) in the way": "prevent",
    r"(?:downloaded|known|made?|make|nothing|read|rest|said|seen|written) of it": "its; from it",
    r"go(?:es)? on(?! (?:the|a|its|disk)\b)": "continue",
    r"spoil(?:s|t|ed|ing)?": "corrupt",
    r"foretells?": "predict",
    r"(?:is|are) said(?! to)": "is reported",
    rf"{NOUNS} an? (?:class|command|file|group|job|level|line|mode|row|store|thread)": "per",
}
"""Patterns of words to avoid, and what to write instead."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The prose of a file, in pieces, each with the number of its first line."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        blank = re.compile(r"^```.*?^```|`[^`\n]*`|\]\([^)]*\)", re.MULTILINE | re.DOTALL)
        yield 1, blank.sub(lambda code: re.sub(r"[^\n]", "_", code[0]), source)
    elif path.suffix == ".sh":
        yield 1, "\n".join(line if line.startswith("#") else "" for line in source.splitlines())
    else:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.lineno, node.value
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield node.lineno, node.name.replace("_", " ")
        comments = [""] * len(source.splitlines())
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                comments[token.start[0] - 1] = token.string.lstrip("# ")
        yield 1, "\n".join(comments)


def findings(path: Path) -> Iterator[str]:
    """The words to avoid in a file, a line of output per finding."""
    for first, text in texts(path):
        for pattern, instead in RULES.items():
            spaced = pattern.replace(" ", r"[^\S\n]*\s[^\S\n]*")  # At most one end of a line.
            for match in re.finditer(rf"\b(?:{spaced})\b", text, re.IGNORECASE):
                line = first + text[: match.start()].count("\n")
                words = " ".join(match[0].split())
                yield f"{path.relative_to(ROOT)}:{line}: {words!r}; write: {instead}"


def main() -> int:
    """Print every finding; 1 where there is one."""
    argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0]).parse_args()
    command = ["git", "ls-files", "*.py", "*.md", "*.sh", ":!scripts/prose.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in listed.splitlines() if (ROOT / name).exists()]
    found = [one for path in files for one in findings(path)]
    print("\n".join(sorted(found)) or "no words to avoid")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
