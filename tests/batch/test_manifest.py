"""From a manifest to jobs: what it may say, and every mistake in it, told at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from inflate.batch.batch import open_manifest, open_sources
from inflate.batch.jobs import Job
from inflate.errors import ConfigError

from .conftest import Sources, write_manifest


def jobs_of(folder: Path, content: Mapping[str, Any], **options: Any) -> list[Job]:
    """The jobs of a manifest in a folder."""
    return list(open_manifest(write_manifest(folder / "m.yaml", content), options).jobs)


def problems_of(folder: Path, content: Mapping[str, Any]) -> str:
    """Everything that is wrong with a manifest, as it is told."""
    with pytest.raises(ConfigError) as raised:
        jobs_of(folder, content)
    return str(raised.value)


def names(jobs: list[Job]) -> list[str]:
    """The last parts of the outputs."""
    return [Path(job.output).name for job in jobs]


def test_defaults_and_options(tmp_path: Path, sources: Sources) -> None:
    sources(2)
    content = {
        "defaults": {"time_mode": "all", "output": "out/{stem}.{time_mode}.safetensors"},
        "jobs": [
            "ckpts/m00.safetensors",
            {"source": "ckpts/m01.safetensors", "time_mode": "conv-only", "alpha": 1},
        ],
    }
    first, second = jobs_of(tmp_path, content)
    assert first.source == str(tmp_path / "ckpts/m00.safetensors")
    assert first.output == str(tmp_path / "out/m00.all.safetensors")
    assert first.options == {"time_mode": "all"}
    assert second.output.endswith("out/m01.conv-only.safetensors")
    assert second.options == {"time_mode": "conv-only", "alpha": 1.0}


@pytest.mark.parametrize("place", ["output", "ledger", "set", "source"])
def test_resolvers_are_refused(
    place: str, tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFLATE_SECRET", "s3cret")
    sources(1)
    secret = "${oc.env:INFLATE_SECRET}"
    content: dict[str, Any] = {
        "source": {"jobs": [f"http://x/{secret}"]},
        "output": {"jobs": [{"source": "ckpts/*", "output": f"http://x/{secret}"}]},
        "set": {"jobs": [{"source": "ckpts/*", "set": [f"description={secret}"]}]},
        "ledger": {"jobs": ["ckpts/*"], "ledger": secret},
    }[place]
    problems = problems_of(tmp_path, content)
    assert "INFLATE_SECRET" in problems
    assert "s3cret" not in problems


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1e999"])
def test_numbers_that_are_not_finite_are_refused(
    value: Any, tmp_path: Path, sources: Sources
) -> None:
    sources(1)
    for job in ({"alpha": value}, {"matrix": {"alpha": [0, value]}}):
        assert "alpha" in problems_of(tmp_path, {"jobs": [{"source": "ckpts/*", **job}]})


def test_the_command_wins(tmp_path: Path, sources: Sources) -> None:
    sources(1)
    job = {"source": "ckpts/*", "matrix": {"time_mode": ["all", "conv-only"]}, "seed": 1}
    found = jobs_of(tmp_path, {"jobs": [job]}, time_mode="attn-only", seed=2)
    assert [job.options for job in found] == [{"time_mode": "attn-only", "seed": 2}]


def test_a_matrix_is_multiplied(tmp_path: Path, sources: Sources) -> None:
    sources(2)
    matrix = {
        "time_mode": ["all", "conv-only"],
        "video_kernel_size": [3, [3, 1, 1]],
        "dtype": [None, "float16"],
    }
    output = "out/{stem}-{time_mode}-{kernel}-{dtype}.safetensors"
    job = {"source": "ckpts/*.safetensors", "output": output, "matrix": matrix}
    found = names(jobs_of(tmp_path, {"jobs": [job]}))
    assert len(found) == len(set(found)) == 2 * 2 * 2 * 2
    assert found[0] == "m00-all-3-source.safetensors"
    assert found[-1] == "m01-conv-only-3-1-1-float16.safetensors"


def test_a_matrix_names_its_outputs_apart(tmp_path: Path, sources: Sources) -> None:
    sources(1)
    job = {"source": "ckpts/*", "output": "out/", "matrix": {"time_mode": ["all", "conv-only"]}}
    expected = ["m00.all.video.safetensors", "m00.conv-only.video.safetensors"]
    assert names(jobs_of(tmp_path, {"jobs": [job]})) == expected
    del job["output"]
    assert names(jobs_of(tmp_path, {"jobs": [job]})) == expected


def test_an_axis_and_a_value_override_one_another(tmp_path: Path, sources: Sources) -> None:
    sources(1)
    content = {
        "defaults": {"seed": 3, "matrix": {"time_mode": ["all", "conv-only"]}},
        "jobs": [
            {"source": "ckpts/m00.safetensors", "time_mode": "all", "output": "a.safetensors"},
            {"source": "ckpts/m00.safetensors", "matrix": {"seed": [1, 2]}},
        ],
    }
    seeds = [(job.options["time_mode"], job.options["seed"]) for job in jobs_of(tmp_path, content)]
    assert seeds[0] == ("all", 3)
    assert sorted(seeds[1:]) == [(mode, s) for mode in ("all", "conv-only") for s in (1, 2)]


@pytest.mark.parametrize(
    ("template", "options", "expected"),
    [
        ("{stem}.x", {}, "m00.x"),
        ("{name}", {}, "m00.safetensors"),
        ("{parent}-{stem}", {}, "ckpts-m00"),
        ("{time_mode}_{merge_strategy}_{alpha}", {"alpha": 0.25}, "conv-only_learned_0.25"),
        ("{kernel}", {"set": ["video_kernel_size=[5,3,3]"]}, "5-3-3"),
        ("{time_mode}", {"set": ["temporal.time_mode=all"], "time_mode": "conv-only"}, "conv-only"),
        ("{dtype}{seed}{layout}", {"seed": 4, "layout": "sgm"}, "source4sgm"),
        ("{config}", {"config": "sdxl"}, "sdxl"),
        ("{device}", {"device": "cuda:1"}, "cuda1"),
        ("{{{stem}}}", {}, "{m00}"),
        ("{weights}{post_quant}{attn_type}{prefix}{float32_norms}", {}, "plainkeepsourcefalse"),
    ],
)
def test_templates(
    template: str, options: dict[str, Any], expected: str, tmp_path: Path, sources: Sources
) -> None:
    sources(1)
    job = {"source": "ckpts/m00.safetensors", "output": f"out/{template}", **options}
    assert names(jobs_of(tmp_path, {"jobs": [job]})) == [expected]


@pytest.mark.parametrize(("name", "why"), [("n" * 300, "neither a preset"), ("a\0b", "NUL")])
def test_a_configuration_with_a_name_that_no_file_has(
    name: str, why: str, tmp_path: Path, sources: Sources
) -> None:
    sources(1)
    job = {"source": "ckpts/m00.safetensors", "config": name}
    assert why in problems_of(tmp_path, {"jobs": [job]})


def test_every_mistake_is_told_at_once(tmp_path: Path, sources: Sources) -> None:
    sources(3)
    content = {
        "default": {},
        "defaults": {"time_mod": "all", "source": "x", "matrix": {"output": ["a"]}},
        "ledger": 3,
        "jobs": [
            {"source": "ckpts/none.safetensors"},
            {"source": "nowhere/*.ckpt"},
            {"source": "ckpts/m00.safetensors", "time_mode": "both", "alpha": "much"},
            {"source": "ckpts/m00.safetensors", "video_kernel_size": 2},
            {"source": "ckpts/m00.safetensors", "output": "out/{stm}.safetensors"},
            {"source": "ckpts/m00.safetensors", "output": "out/{stem:>9}"},
            {"source": "ckpts/m00.safetensors", "output": "out/{stem"},
            {"source": "ckpts/*", "output": "out/same.safetensors"},
            {"output": "x"},
            7,
            {"source": "ckpts/m00.safetensors", "output": "ckpts/m02.safetensors"},
            {"source": "ckpts/m01.safetensors", "set": ["alhpa=1", "seed"]},
            {"source": "ckpts/m01.safetensors", "set": ["temporal.alhpa=1"]},
            {"source": "ckpts/m01.safetensors", "config": "sdxll"},
            {"source": "ckpts/m01.safetensors", "device": "gpu"},
            {"source": "ckpts/m02.safetensors", "seed": 1, "matrix": {"seed": [1, 2]}},
            {"source": "ckpts/m01.safetensors", "matrix": {"dtype": ["int8"], "time_mode": []}},
            {"source": "ckpts/m01.safetensors", "merge_strategy": "fixed", "alpha": 2.0},
        ],
    }
    told = problems_of(tmp_path, content)
    for part in (
        "default: unknown key (did you mean 'defaults'?)",
        "defaults.time_mod: unknown key (did you mean 'time_mode'?)",
        "defaults.source: each job names its own source",
        "defaults.matrix.output: unknown key",
        "ledger is 3; expected a path",
        "ckpts/none.safetensors does not exist",
        "nothing matches",
        "jobs[2].time_mode is 'both': Invalid value",
        "jobs[2].alpha is 'much'",
        "jobs[3]: temporal.video_kernel_size is 2; expected one positive odd number",
        "{stm} in ",
        "(did you mean 'stem'?)",
        "cannot be formatted",
        "write {{ for a brace itself",
        "same.safetensors would be the output of 2 jobs",
        "jobs[8] has no source",
        "jobs[9] is 7; expected keys",
        "m02.safetensors cannot be written: this run reads",
        "expected key=value",
        "temporal.alhpa: unknown key (did you mean 'temporal.alpha'?)",
        "neither a preset (did you mean 'sdxl'?) nor a file",
        "device is 'gpu'; expected auto, cpu",
        "jobs[15].seed is set and in its matrix too",
        "jobs[16].matrix.dtype[0] is 'int8'",
        "jobs[16].matrix.time_mode is []",
        "temporal.alpha is 2.0; expected 0 to 1",
    ):
        assert part in told, part


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("jobs: [", "not readable as YAML"),
        ("- a", "no manifest"),
        ("jobs:", "jobs is None; expected a list"),
        ("jobs: {a: b}", "expected a list"),
        ("jobs: [{source: 7}]", "expected a path or URL"),
        ("jobs: [{source: ckpts, seed: '${now}'}]", "now"),
    ],
)
def test_what_is_no_manifest(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        open_manifest(tmp_path / "m.yaml", {})
    assert said in str(raised.value)


def test_a_pattern_leaves_out_what_the_batch_makes(
    tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpts/m00.video.safetensors").write_bytes(b"made by an earlier run")
    batch = open_sources(["ckpts/*.safetensors"], None, {})
    assert names(list(batch.jobs)) == ["m00.video.safetensors", "m01.video.safetensors"]
    assert batch.notes == ("1 jobs left out: a pattern matches what this batch makes as well",)
    assert batch.ledger == Path("ckpts/inflate-ledger.sqlite")


@pytest.mark.parametrize(
    ("output", "expected", "ledger"),
    [
        ("out", "out/m00.video.safetensors", "out"),
        ("out/", "out/m00.video.safetensors", "out"),
        ("out/{stem}/{time_mode}.safetensors", "out/m00/all.safetensors", "out"),
        ("o-{stem}.safetensors", "o-m00.safetensors", "."),
    ],
)
def test_sources_without_a_manifest(
    output: str,
    expected: str,
    ledger: str,
    tmp_path: Path,
    sources: Sources,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources(2)
    monkeypatch.chdir(tmp_path)
    batch = open_sources(["ckpts/*.safetensors"], output, {"time_mode": "all"})
    assert batch.jobs[0].output == expected
    assert batch.ledger == Path(ledger) / "inflate-ledger.sqlite"
    assert len(batch.jobs) == 2


def test_the_ledger_stays_where_it_is_when_sources_come(tmp_path: Path, sources: Sources) -> None:
    path = write_manifest(
        tmp_path / "m.yaml", {"jobs": [{"source": "ckpts/*", "output": "out/{stem}/v.safetensors"}]}
    )
    sources(1)
    one = open_manifest(path, {}).ledger
    sources(3)
    assert open_manifest(path, {}).ledger == one
    assert one.resolve() == (tmp_path / "out/inflate-ledger.sqlite").resolve()
    write_manifest(path, {"ledger": "l.sqlite", "jobs": ["ckpts/*"]})
    assert open_manifest(path, {}).ledger == tmp_path / "l.sqlite"


def test_settings_tell_jobs_apart_and_spellings_do_not(tmp_path: Path) -> None:
    def settings(**options: Any) -> str:
        return Job("", "a", "b", options).settings

    assert settings() != settings(time_mode="all") != settings(seed=1)
    assert settings(overwrite=True) == settings()
    config = tmp_path / "c.yaml"
    config.write_text("temporal: {alpha: 0.5}", encoding="utf-8")
    assert settings(config=str(config)) == settings(set=("alpha=0.5",)) == settings(alpha=0.5)
