"""The plan of a document as a tree of modules, with sums at every module."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Module:
    """A module: its tensors, the modules inside it, and the sums of all of them."""

    name: str
    modules: dict[str, Module] = field(default_factory=dict)
    tensors: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Names within the module, and rows of the plan."""
    counts: Counter[str] = field(default_factory=Counter)
    """Tensors by their origin."""
    nbytes: int = 0

    @property
    def count(self) -> int:
        """How many tensors it holds, all modules inside it included."""
        return self.counts.total()


def plan_tree(rows: list[dict[str, Any]]) -> Module:
    """The modules of a plan's rows, in the rows' order; chains of lone modules become one."""
    root = Module("")
    for row in rows:
        *path, leaf = row["name"].split(".")
        module = root
        _count(module, row)
        for step in path:
            module = module.modules.setdefault(step, Module(step))
            _count(module, row)
        module.tensors.append((leaf, row))
    return _joined(root)


def _count(module: Module, row: dict[str, Any]) -> None:
    module.counts[row["origin"]] += 1
    module.nbytes += row["nbytes"]


def _joined(module: Module) -> Module:
    # From the leaves up, and without recursion: a name may have more steps than a stack.
    order = [module]
    for inner in order:
        order.extend(inner.modules.values())
    for outer in reversed(order):
        for step, inner in outer.modules.items():
            if len(inner.modules) == 1 and not inner.tensors:
                (only,) = inner.modules.values()
                only.name = f"{inner.name}.{only.name}"
                outer.modules[step] = only
    return module
