"""``inflate presets``."""

from __future__ import annotations

from pathlib import Path

import pytest

from inflate.config.loading import read_config
from inflate.config.presets import load_presets, preset_folder

from .conftest import Run


def test_a_line_for_every_preset(run: Run) -> None:
    ran = run("presets")
    assert (ran.code, ran.err) == (0, "")
    found = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in ran.out.splitlines()}
    files = {path.stem for path in preset_folder().glob("*.yaml")}
    assert files == set(found)
    assert {"kl-f8", "sdxl", "flux"} <= files
    assert found == {name: preset.description for name, preset in load_presets().items()}


def test_a_document_of_all_presets(run: Run) -> None:
    document = run("presets", "--json").document
    assert document["schema"] == "inflate/presets/1"
    assert document["presets"] == {name: p.content for name, p in load_presets().items()}


def test_show_prints_every_setting(run: Run) -> None:
    ran = run("presets", "show", "kl-f8")
    assert (ran.code, ran.err) == (0, "")
    found = dict(line.split(maxsplit=1) for line in ran.out.splitlines())
    assert found["architecture.ch_mult"] == "[1, 2, 4, 4]"
    inner = load_presets()["kl-f8"].content["architecture"]
    assert {f"architecture.{key}" for key in inner} <= set(found)


def test_an_exported_preset_is_a_configuration(run: Run, tmp_path: Path) -> None:
    ran = run("presets", "export", "sdxl")
    assert (ran.code, ran.err) == (0, "")
    path = tmp_path / "my.yaml"
    path.write_text(ran.out, encoding="utf-8")
    assert read_config(str(path)) == read_config("sdxl")


@pytest.mark.parametrize(("name", "like"), [("kl-f9", "kl-f8"), ("xyzzy", None)])
def test_an_unknown_preset_ends_with_2(run: Run, name: str, like: str | None) -> None:
    ran = run("presets", "show", name)
    assert (ran.code, ran.out) == (2, "")
    assert ("did you mean" in ran.err) == (like is not None)
    assert like is None or f"did you mean '{like}'" in ran.err
