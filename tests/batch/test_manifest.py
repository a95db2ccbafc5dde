"""From a manifest to jobs: options, names, every mistake at once; the estimate of each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from inflate import convert
from inflate.batch.batch import open_batch
from inflate.batch.jobs import RUNTIME, Job, estimate
from inflate.errors import ConfigError

from ..checkpoints import autoencoder, write_safetensors
from .conftest import Sources, environment, write_manifest


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def jobs_of(folder: Path, content: Mapping[str, Any], **options: Any) -> list[Job]:
    """The jobs of a manifest in a folder."""
    return list(open_batch([str(write_manifest(folder / "m.yaml", content))], None, options).jobs)


def problems_of(folder: Path, content: Mapping[str, Any]) -> list[str]:
    """Every problem of a manifest."""
    with pytest.raises(ConfigError) as raised:
        jobs_of(folder, content)
    return list(raised.value.problems) or [str(raised.value)]


def names(jobs: list[Job]) -> list[str]:
    """The last parts of the outputs."""
    return [Path(job.output).name for job in jobs]


def test_defaults_and_options(tmp_path: Path, sources: Sources) -> None:
    sources(2)
    defaults = {"time_mode": "all", "output": "out/{stem}.{time_mode}.safetensors"}
    other = {"source": "ckpts/m01.safetensors", "time_mode": "conv-only", "alpha": 1}
    content = {"defaults": defaults, "jobs": ["ckpts/m00.safetensors", other]}
    first, second = jobs_of(tmp_path, content)
    assert first.source == str(tmp_path / "ckpts/m00.safetensors")
    assert first.output == str(tmp_path / "out/m00.all.safetensors")
    assert first.options == {"time_mode": "all"}
    assert second.output.endswith("out/m01.conv-only.safetensors")
    assert second.options == {"time_mode": "conv-only", "alpha": 1.0}
    assert isinstance(second.options["alpha"], float)  # As 1.0 in the ledger.


def test_the_command_wins(tmp_path: Path, sources: Sources) -> None:
    sources(1)
    job = {"source": "ckpts/*", "matrix": {"time_mode": ["all", "conv-only"]}, "seed": 1}
    found = jobs_of(tmp_path, {"jobs": [job]}, time_mode="attn-only", seed=2)
    assert [job.options for job in found] == [{"time_mode": "attn-only", "seed": 2}]


@pytest.mark.parametrize(
    ("template", "options", "expected"),
    [
        ("{stem}.x", {}, "m00.x"),
        ("{parent}-{name}", {}, "ckpts-m00.safetensors"),
        ("{time_mode}_{merge_strategy}_{alpha}", {"alpha": 0.25}, "conv-only_learned_0.25"),
        ("{kernel}", {"set": ["video_kernel_size=[5,3,3]"]}, "5-3-3"),
        ("{time_mode}", {"set": ["temporal.time_mode=all"], "time_mode": "conv-only"}, "conv-only"),
        ("{dtype}{seed}{layout}", {"seed": 4, "layout": "sgm"}, "source4sgm"),
        ("{{{stem}}}", {}, "{m00}"),
        ("{parent}x", {"source": "http://"}, "x"),
        ("{weights}{post_quant}{attn_type}{prefix}{float32_norms}", {}, "plainkeepsourcefalse"),
    ],
)
def test_templates(
    template: str, options: dict[str, Any], expected: str, tmp_path: Path, sources: Sources
) -> None:
    sources(1)
    job = {"source": "ckpts/m00.safetensors", "output": f"out/{template}", **options}
    assert names(jobs_of(tmp_path, {"jobs": [job]})) == [expected]


def test_files_that_a_reader_knows_by_one_name_are_shown_apart(
    tmp_path: Path, sources: Sources
) -> None:
    sources(2)
    content = {"jobs": ["ckpts/*.safetensors"], "defaults": {"layout": "cogvideo"}}
    found = names(jobs_of(tmp_path, content))
    assert found == ["m00.video_model.ckpt", "m01.video_model.ckpt"]


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("default", {"default": {}}),
        ("defaults.source", {"defaults": {"source": "x"}}),
        ("defaults.matrix.output", {"defaults": {"matrix": {"output": ["a"]}}}),
        ("ledger", {"ledger": 3}),
        ("ledger", {"ledger": "s3://bucket/ledger"}),
        ("jobs[0].ignore", {"ignore": {"a": 1}}),
        ("jobs[0].source", {"source": "ckpts/none.safetensors"}),
        ("jobs[0].source", {"source": 7}),
        ("jobs[0]", {"jobs": [7]}),
        ("jobs", {"jobs": {"a": "b"}}),
        ("jobs[0].time_mode", {"time_mode": "both"}),
        ("jobs[0]: temporal.video_kernel_size", {"video_kernel_size": 2}),
        ("jobs[0].output: {stm}", {"output": "out/{stm}.safetensors"}),
        ("jobs[0].output: '", {"output": "out/{"}),
        ("jobs[0]: alhpa", {"set": ["alhpa=1"]}),
        ("jobs[0]: --config", {"config": "sdxll"}),
        ("jobs[0]: --device", {"device": "gpu"}),
        ("jobs[0].seed", {"seed": 1, "matrix": {"seed": [1, 2]}}),
        ("jobs[0].matrix.dtype[0]", {"matrix": {"dtype": ["int8"]}}),
        ("jobs[0].matrix.time_mode", {"matrix": {"time_mode": []}}),
    ],
)
def test_mistakes(place: str, content: dict[str, Any], tmp_path: Path, sources: Sources) -> None:
    sources(1)
    if not content.keys() & {"default", "defaults", "ledger", "jobs"}:
        content = {"jobs": [{"source": "ckpts/m00.safetensors", **content}]}
    (problem,) = problems_of(tmp_path, {"jobs": ["ckpts/*"], **content})
    assert problem.startswith(place)


def test_every_mistake_is_reported_at_once(tmp_path: Path, sources: Sources) -> None:
    sources(2)
    content = {
        "ledger": 3,
        "jobs": [
            {"source": "ckpts/none.safetensors"},
            {"source": "ckpts/m00.safetensors", "time_mode": "both", "alpha": "much"},
            {"source": "ckpts/m00.safetensors", "output": "out/same.safetensors"},
            {"source": "ckpts/m01.safetensors", "output": "out/same.safetensors"},
            {"source": "ckpts/m00.safetensors", "output": "ckpts/m01.safetensors"},
        ],
    }
    assert len(problems_of(tmp_path, content)) == 6


@pytest.mark.parametrize("content", ["jobs: [", "- a", "jobs: [{source: ckpts, seed: '${now}'}]"])
def test_a_file_that_is_not_a_manifest(content: str, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(content, encoding="utf-8")
    for name, message in (("m.yaml", "m.yaml"), ("m.yml", r"m\.yml .*'m\.yaml'")):
        with pytest.raises(ConfigError, match=message):  # The second is missing.
            open_batch([str(tmp_path / name)], None, {})


def test_a_pattern_leaves_out_what_the_batch_makes(sources: Sources) -> None:
    sources(2)
    Path("ckpts/m00.video.safetensors").write_bytes(b"made by an earlier run")
    batch = open_batch(["ckpts/*.safetensors"], None, {})
    assert names(list(batch.jobs)) == ["m00.video.safetensors", "m01.video.safetensors"]
    assert len(batch.notes) == 1
    assert batch.ledger == Path("ckpts/inflate-ledger.sqlite")


@pytest.mark.parametrize(
    ("output", "expected", "ledger"),
    [
        ("out", "out/m00.video.safetensors", "out"),
        ("out/{stem}/{time_mode}.safetensors", "out/m00/all.safetensors", "out"),
        ("o-{stem}.safetensors", "o-m00.safetensors", "."),
    ],
)
def test_sources_without_a_manifest(
    output: str, expected: str, ledger: str, sources: Sources
) -> None:
    sources(2)
    batch = open_batch(["ckpts/*.safetensors"], output, {"time_mode": "all"})
    assert batch.jobs[0].output == expected
    assert batch.ledger == Path(ledger) / "inflate-ledger.sqlite"
    assert len(batch.jobs) == 2


def test_the_ledger_stays_where_it_is_when_sources_come(tmp_path: Path, sources: Sources) -> None:
    job = {"source": "ckpts/*", "output": "out/{stem}/v.safetensors"}
    path = write_manifest(tmp_path / "m.yaml", {"jobs": [job]})
    sources(1)
    one = open_batch([str(path)], None, {}).ledger
    sources(3)
    assert open_batch([str(path)], None, {}).ledger == one
    assert one.resolve() == (tmp_path / "out/inflate-ledger.sqlite").resolve()
    write_manifest(path, {"ledger": "l.sqlite", "jobs": ["ckpts/*"]})
    assert open_batch([str(path)], None, {}).ledger == tmp_path / "l.sqlite"


def test_settings_do_not_differ_by_spelling(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("temporal: {alpha: 0.5}", encoding="utf-8")
    spellings = ({"config": str(config)}, {"set": ("alpha=0.5",)}, {"alpha": 0.5})
    assert len({Job("a", "b", options).settings for options in spellings}) == 1


def test_the_output_is_as_large_as_estimated(tiny: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"time_mode": "all", "layout": "decoder", "skip_parity": True}
    found = estimate(Job(str(tiny), "out", options))
    convert(tiny, tmp_path / "v.safetensors", **options)
    assert found.source_bytes == tiny.stat().st_size
    header = 32_000
    assert 0 < (tmp_path / "v.safetensors").stat().st_size - (found.output_bytes or 0) < header


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_memory_stays_below_the_estimate(tmp_path: Path) -> None:
    weights = autoencoder(ch=64, ch_mult=[1, 2, 4], num_res_blocks=2)
    source = write_safetensors(tmp_path / "img.safetensors", weights)
    found = estimate(Job(str(source), "out", {"time_mode": "all", "device": "cpu"}))
    code = (
        "import sys, inflate\n"
        "from pathlib import Path\n"
        "inflate.convert(Path(sys.argv[1]), sys.argv[2], time_mode='all', device='cpu')\n"
        "words = Path('/proc/self/status').read_text().split()\n"
        "print(int(words[words.index('VmHWM:') + 1]) * 1024)\n"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "v.safetensors")]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) <= (found.memory_bytes or 0) + RUNTIME
