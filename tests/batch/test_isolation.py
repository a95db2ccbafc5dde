"""Whatever ends one job of a batch ends that job alone: the others are done, and stay done."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from inflate.batch.batch import open_sources
from inflate.batch.executor import Event, Task
from inflate.batch.jobs import Job
from inflate.batch.ledger import Ledger
from inflate.batch.run import Outcome, run_batch
from inflate.batch.survey import survey
from inflate.batch.task import run_task
from inflate.errors import OutputError

from ..checkpoints import autoencoder, write_safetensors
from .conftest import Sources, inflate_batch, write_manifest
from .fakes import FakeExecutor, Watcher


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ran(
    executor: FakeExecutor | None = None, watch: Watcher | None = None, memory: int | None = None
) -> list[Outcome]:
    """Run a batch of all sources to its end."""
    batch = open_sources(["ckpts/*"], "out", {})
    with Ledger(batch.ledger) as ledger:
        seen = survey(batch.jobs, ledger, retry_failed=False)
        executor = executor or FakeExecutor()
        return run_batch(seen, ledger, executor, watch or Watcher(), memory=memory)


def statuses(outcomes: list[Outcome]) -> list[str]:
    """What became of each job; ``*`` where it was known."""
    return [outcome.status + ("*" if outcome.reused else "") for outcome in outcomes]


class _Spoiling(FakeExecutor):
    """Its first job sends one event with a content that cannot be written down."""

    def __init__(self, kind: str, content: Mapping[str, Any]) -> None:
        super().__init__()
        self._kind, self._content = kind, content
        self.refused: list[str] = []

    def wait(self, seconds: float) -> list[Event]:
        """What happened."""
        return [
            Event(event.kind, event.number, event.worker, {**event.content, **self._content})
            if (event.kind, event.number) == (self._kind, 0)
            else event
            for event in super().wait(seconds)
        ]

    def answer(self, event: Event, answer: Mapping[str, Any]) -> None:
        """Remember what may not go on."""
        if not answer["go"]:
            self.refused.append(event.kind)
        super().answer(event, answer)


BAD_DOCUMENTS: dict[str, Any] = {
    "not a number": {"conversion": {"architecture": {"scaling_factor": float("nan")}}},
    "infinite": {"seconds": float("inf")},
    "no JSON": {"conversion": {"notes": {1, 2}}},
}


@pytest.mark.parametrize("document", BAD_DOCUMENTS.values(), ids=BAD_DOCUMENTS)
@pytest.mark.parametrize("kind", ["publish", "end"])
def test_a_result_that_cannot_be_written_down(
    kind: str, document: dict[str, Any], sources: Sources
) -> None:
    sources(3)
    executor = _Spoiling(kind, {"document": document})
    outcomes = ran(executor)
    assert statuses(outcomes) == ["failed", "held", "held"]
    assert outcomes[0].document["error"]
    assert executor.refused == (["publish"] if kind == "publish" else [])
    assert Path("out/m00.video.safetensors").exists() is (kind == "end")
    # What was not published is tried again.
    again = "held" if kind == "publish" else "failed*"
    assert statuses(ran()) == [again, "held*", "held*"]
    Path("ckpts/m00.safetensors").write_bytes(b"mended")
    assert statuses(ran()) == ["held", "held*", "held*"]


@pytest.mark.parametrize("content", [{"source_mark": "{"}, {"source_mark": "5"}, {"state": "odd"}])
def test_a_record_that_is_not_one(content: dict[str, Any], sources: Sources) -> None:
    sources(2)
    assert statuses(ran(_Spoiling("end", content))) == ["failed", "held"]


def test_progress_that_is_none(sources: Sources) -> None:
    class Odd(FakeExecutor):
        def _begin(self, task: Task, *, overwrite: bool) -> None:
            if task.number == 0:
                self._tell("progress", task, {"phase": "x"})
            super()._begin(task, overwrite=overwrite)

    sources(2)
    assert statuses(ran(Odd())) == ["failed", "held"]
    assert not Path("out/m00.video.safetensors").exists()


@pytest.mark.parametrize("moment", ["began", "ended"])
def test_a_message_that_cannot_be_shown(moment: str, sources: Sources) -> None:
    class Speechless(Watcher):
        pass

    def say(_self: Watcher, of: Any, *_: object) -> None:
        job: Job = of.job if isinstance(of, Outcome) else of
        if "m00" in job.source:
            "\udcff".encode()

    setattr(Speechless, moment, say)
    sources(3)
    assert statuses(ran(watch=Speechless())) == ["failed", "held", "held"]


def test_a_source_that_cannot_be_estimated(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inflate.batch import run

    estimate = run.estimate

    def fails(job: Job) -> Any:
        if "m00" in job.source:
            raise RecursionError("too deep")
        return estimate(job)

    monkeypatch.setattr(run, "estimate", fails)
    sources(3)
    outcomes = ran(memory=1 << 40)
    assert statuses(outcomes) == ["failed", "held", "held"]
    assert "RecursionError" in outcomes[0].document["error"]


def test_what_fails_after_its_output_got_its_name_is_replaced(sources: Sources) -> None:
    class Late(FakeExecutor):
        def _end(self, task: Task, record: dict[str, Any]) -> None:
            document = {"seconds": 0.1, "error": "too late"}
            super()._end(task, {**record, "state": "failed", "document": document})

    sources(1)
    assert statuses(ran(Late())) == ["failed"]
    Path("ckpts/m00.safetensors").write_bytes(b"mended")
    assert statuses(ran()) == ["held"]


def test_a_name_that_is_not_text(sources: Sources) -> None:
    (path,) = sources(1)
    os.rename(path, os.path.join(b"ckpts", b"\xff.safetensors"))
    sources(2)
    for known in ("", "*"):
        found = ran()
        outcomes = {Path(outcome.job.source).stem: outcome for outcome in found}
        assert statuses([outcomes["m00"], outcomes["m01"]]) == [f"held{known}"] * 2
        (failed,) = [outcome for outcome in found if outcome.status == "failed"]
        assert "UTF-8" in failed.document["error"]


def test_a_ledger_that_cannot_be_written_ends_the_batch(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OutputError("the disk is full")

    sources(2)
    monkeypatch.setattr(Ledger, "write", full)
    with pytest.raises(OutputError):
        ran()


def test_what_a_worker_cannot_describe_is_its_jobs_error(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inflate.batch import task as module

    look = module.mark_of_output

    def fails(location: str | Path) -> Any:
        if str(location) == "out.safetensors":
            raise KeyError("lost")
        return look(location)

    monkeypatch.setattr(module, "mark_of_output", fails)
    (path,) = sources(1)
    events: list[tuple[str, Mapping[str, Any]]] = []
    task = Task(0, str(path), "out.safetensors", {"skip_parity": True, "device": "cpu"})
    run_task(task, lambda *event: events.append(event), lambda *_: {"go": True})
    kind, record = events[-1]
    assert (kind, record["state"]) == ("end", "failed")
    assert "KeyError" in record["document"]["error"]


def test_a_factor_that_is_not_finite_ends_its_job_alone(tmp_path: Path, sources: Sources) -> None:
    sources(2)
    folder = tmp_path / "nan"
    folder.mkdir()
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", autoencoder(ch_mult=[1]))
    config = {"_class_name": "AutoencoderKL", "scaling_factor": float("nan")}
    (folder / "config.json").write_text(json.dumps(config))
    jobs: list[dict[str, Any]] = [
        {"source": "nan", "output": "out/a.safetensors"},
        {"source": "ckpts/m00.safetensors", "output": "out/b.safetensors",
         "set": ["scaling_factor=.inf"]},
        {"source": "ckpts/m01.safetensors", "output": "out/c.safetensors"},
    ]  # fmt: skip
    defaults = {"device": "cpu", "skip_parity": True}
    manifest = write_manifest(tmp_path / "m.yaml", {"defaults": defaults, "jobs": jobs})
    for reused in (0, 3):
        done = inflate_batch(tmp_path, manifest, "--json")
        assert done.returncode == 2, done.stderr
        document = json.loads(done.stdout)
        assert [job["status"] for job in document["jobs"]] == ["failed", "failed", "held"]
        assert document["counts"]["reused"] == reused
        assert all("scaling_factor" in job["error"] for job in document["jobs"][:2])
        assert "Traceback" not in done.stderr
