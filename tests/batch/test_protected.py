"""No output, report or ledger of a batch is a file that the batch reads, or a foreign one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from inflate.batch.batch import open_batch
from inflate.batch.reports import files_of_job_report
from inflate.cli.app import main
from inflate.errors import OutputError

from ..conversions import snapshot
from .conftest import Sources, write_manifest
from .fakes import FakeExecutor

M0, M1 = "ckpts/m00.safetensors", "ckpts/m01.safetensors"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sources, ``ckpts`` under another name, and jobs that are copies."""
    sources(2)
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("ckpts")
    monkeypatch.setattr("inflate.batch.batch.LocalExecutor", lambda slots, _: FakeExecutor(slots))


def refused(manifest: Mapping[str, Any], *more: str) -> None:
    """The command ends with 2, and nothing is changed, with and without ``overwrite``."""
    for options in ((), ("--overwrite",), ("--dry-run",)):
        write_manifest(Path("m.yaml"), manifest)
        before = snapshot(Path())
        assert main(["batch", "m.yaml", *more, *options]) == 2
        assert snapshot(Path()) == before


def test_no_output_is_a_file_that_any_job_reads() -> None:
    one = {"source": M0, "output": "out/a.safetensors"}
    index = "ckpts/model.safetensors.index.json"  # Of which one shard is missing.
    Path(index).write_text('{"weight_map": {"a": "m01.safetensors", "b": "missing"}}')
    folder = Path("vae")
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    (folder / "diffusion_pytorch_model.safetensors").symlink_to(Path(M0).resolve())
    Path("c.yaml").write_text("temporal: {alpha: 0.25}")
    for source, output in (
        (M1, M1),
        (M1, "link/m00.safetensors"),
        (index, M1),
        (index, index),
        ("vae", "vae/config.json"),
        ("vae", "link/m00.safetensors"),
        (M1, "c.yaml"),
        (M1, "m.yaml"),
    ):
        job = {"source": source, "output": output, "config": "c.yaml"}
        refused({"jobs": [one, job]})
    export = {"source": M1, "layout": "diffusers", "output": "{prefix}vae"}
    refused({"jobs": [{"source": "vae/config.json", "output": "out/"}, export]})


def test_two_outputs_are_not_one_file() -> None:
    for one, other in (
        ("ckpts/new.safetensors", "link/new.safetensors"),
        ("out/../ckpts/new.safetensors", "link/new.safetensors"),
        ("real", "alias"),
        ("export", "export/config.json"),
    ):
        Path("real").touch()
        Path("alias").unlink(missing_ok=True)
        Path("alias").symlink_to("real")
        layout = {"layout": "diffusers"} if one == "export" else {}
        jobs = [{"source": M0, "output": one, **layout}, {"source": M1, "output": other}]
        refused({"jobs": jobs})


def test_the_ledger_is_not_a_file_of_the_batch() -> None:
    job = {"source": M0, "output": "out/a.safetensors"}
    for ledger in (M0, "link/m00.safetensors", "m.yaml", "out/a.safetensors", "ckpts"):
        refused({"jobs": [job], "ledger": ledger})
        refused({"jobs": [job]}, "--ledger", ledger)
    refused({"jobs": [{**job, "output": "l.db"}], "ledger": "l.db"})
    Path(M0).rename("ckpts/l.db-journal")  # SQLite would take it for its own, and remove it.
    refused({"jobs": [{**job, "source": "ckpts/l.db-journal"}], "ledger": "ckpts/l.db"})
    Path("ckpts/l.db-journal").rename("ckpts/.l.db.lock")
    job = {**job, "source": "ckpts/.l.db.lock"}
    refused({"jobs": [job], "ledger": "ckpts/l.db"})


def test_no_report_is_a_file_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"source": M0, "output": "out/a.safetensors"}
    Path("r/jobs").mkdir(parents=True)
    page, _ = files_of_job_report(Path("r"), job["output"])
    for path in (Path("r/batch.json"), page):
        path.symlink_to(Path(M0).resolve())
        refused({"jobs": [job]}, "--report-dir", "r")
        path.unlink()
    refused({"jobs": [{**job, "output": "r/index.html"}]}, "--report-dir", "r")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", M0)
    write_manifest(Path("m.yaml"), {"jobs": [job]})
    before = snapshot(Path())
    assert main(["batch", "m.yaml", "--github-summary"]) == 2
    assert snapshot(Path()) == before


def test_a_pattern_does_not_find_what_the_batch_writes_next_to_its_outputs() -> None:
    for _ in range(2):
        assert main(["batch", "ckpts/*", "-q", "--report-dir", "ckpts"]) == 0
    with pytest.raises(OutputError):  # Its own source is not a leftover of an earlier run.
        open_batch(["ckpts/*.safetensors"], "ckpts/{stem}.safetensors", {})


@pytest.mark.parametrize("first", ["PRAGMA user_version = 99", "PRAGMA journal_mode = WAL"])
def test_a_database_of_another_program_is_refused(first: str) -> None:
    with closing(sqlite3.connect("other.db")) as db:
        db.execute(first)
        db.execute("CREATE TABLE users (name TEXT)")
        db.commit()
    before = snapshot(Path())
    assert main(["batch", M0, "-o", "out/", "--ledger", "other.db"]) == 2
    assert snapshot(Path()) == before


def test_reports_that_cannot_be_written_leave_the_jobs_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Mock(side_effect=OutputError("r has gone"))
    with monkeypatch.context() as broken:
        broken.setattr("inflate.batch.reports.write_reports", gone)
        assert main(["batch", "ckpts/*", "-o", "out", "--report-dir", "r"]) == 2
    assert capsys.readouterr().err
    assert main(["batch", "ckpts/*", "-o", "out", "--report-dir", "r", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["reused"] == 2
    assert Path("r/index.html").exists()
