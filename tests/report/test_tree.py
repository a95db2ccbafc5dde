"""The plan as a tree: every tensor once, and sums that add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from inflate.report.tree import Module, plan_tree

from .building import document_of


def row(name: str, origin: str = "copied", nbytes: int = 4) -> dict[str, Any]:
    return {"name": name, "origin": origin, "nbytes": nbytes}


def walk(module: Module, path: str = "") -> Iterator[tuple[str, Module]]:
    """A module and all inside it, by their whole names."""
    yield path, module
    for inner in module.modules.values():
        yield from walk(inner, f"{path}{inner.name}.")


def test_every_tensor_is_there_once_under_its_name() -> None:
    rows = document_of("failed")["plan"]
    root = plan_tree(rows)
    found = {path + leaf: r for path, m in walk(root) for leaf, r in m.tensors}
    assert found == {r["name"]: r for r in rows}
    for path, module in walk(root):
        inside = [r for r in rows if r["name"].startswith(path)]
        assert module.count == len(inside)
        assert module.nbytes == sum(r["nbytes"] for r in inside)
        assert module.counts == Counter(r["origin"] for r in inside)


def test_chains_become_one_and_the_order_stays() -> None:
    root = plan_tree([row("b.x.y.weight"), row("b.x.y.bias"), row("a.weight"), row("alone")])
    assert [module.name for module in root.modules.values()] == ["b.x.y", "a"]
    assert [leaf for leaf, _ in root.tensors] == ["alone"]
    assert root.count == 4


def test_a_module_with_tensors_of_its_own_stays() -> None:
    root = plan_tree([row("a.b.weight"), row("a.scale")])
    (outer,) = root.modules.values()
    assert (outer.name, [inner.name for inner in outer.modules.values()]) == ("a", ["b"])


def test_names_of_any_depth() -> None:
    (module,) = plan_tree([row("a." * 5000 + "weight")]).modules.values()
    assert module.name == ".".join("a" * 5000)


def test_nothing() -> None:
    assert plan_tree([]).count == 0
