"""``inflate presets``."""

from __future__ import annotations

import json

from inflate.config.presets import load_presets

from .conftest import Run

NAMES = [
    *("flux", "kl-f16", "kl-f32", "kl-f4", "kl-f8", "sd3", "sdxl", "svd"),
    *("vq-f16", "vq-f4", "vq-f4-noattn", "vq-f8", "vq-f8-n256"),
]
"""A preset for every row of the table of architectures."""


def test_a_line_for_every_preset(run: Run) -> None:
    ran = run("presets")
    assert (ran.code, ran.err) == (0, "")
    rows = [line.split(maxsplit=1) for line in ran.out.splitlines()]
    assert [name for name, _ in rows] == NAMES
    assert all(description.strip() for _, description in rows)


def test_a_document_of_all_presets(run: Run) -> None:
    ran = run("presets", "--json")
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    assert set(document) == {"schema", "presets"}
    assert document["schema"] == "inflate/presets/1"
    assert document["presets"] == {name: p.content for name, p in load_presets().items()}
    assert list(document["presets"]) == NAMES
    assert document["presets"]["kl-f8"]["architecture"]["ch_mult"] == [1, 2, 4, 4]
