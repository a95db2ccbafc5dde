"""Batches in worker processes: killed workers, killed batches, and what is left of them."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from inflate.batch.executor import Event, Task
from inflate.batch.local import LocalExecutor
from inflate.batch.owners import become_owner

from ..conversions import sha256
from .conftest import ROOT, Sources, environment, inflate_batch

OPTIONS = ("--device", "cpu", "--time-mode", "all", "-o", "out/")
KILLS = 10


def hidden(folder: Path) -> list[str]:
    """What is left staged or locked."""
    return sorted(path.name for path in folder.glob(".*"))


@pytest.mark.slow
def test_killed_ten_times_nothing_is_lost_and_nothing_done_twice(
    tmp_path: Path, sources: Sources
) -> None:
    paths = sources(24, broken=(5, 17))
    command = [
        sys.executable, "-m", "inflate", "batch", "ckpts/*.safetensors", *OPTIONS, "--jobs", "1",
        "--json",
    ]  # fmt: skip
    drawn = random.Random(5)
    inodes: dict[str, int] = {}

    def made() -> list[Path]:
        return list((tmp_path / "out").glob("*.video.safetensors"))

    for i in range(KILLS):
        batch = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        # Each time some jobs further, and at any moment of the next; while it starts where an
        # earlier one came as far already.
        while len(made()) < 2 * i and batch.poll() is None:
            time.sleep(0.01)
        time.sleep(0.3 * drawn.random())
        batch.kill()
        batch.communicate()
        assert batch.returncode == -signal.SIGKILL
        for path in made():
            # A file that has its name is whole, and is never made anew.
            assert inodes.setdefault(path.name, path.stat().st_ino) == path.stat().st_ino
    assert len(inodes) >= KILLS, "hardly any work was done when it was killed"
    last = inflate_batch(tmp_path, "ckpts/*.safetensors", *OPTIONS, "--jobs", "2", "--json")
    assert last.returncode == 2, last.stderr
    document = json.loads(last.stdout)
    assert document["counts"] | {"reused": 0} == {
        "total": 24, "held": 22, "unequal": 0, "failed": 2, "not_run": 0, "reused": 0,
    }  # fmt: skip
    assert [job["status"] == "failed" for job in document["jobs"]] == [
        number in (5, 17) for number in range(24)
    ]
    for job, path in zip(document["jobs"], paths, strict=True):
        assert job["source"] == f"ckpts/{path.name}"
        if job["status"] == "held":
            assert job["verdict"] == "bitwise"
            assert sha256(tmp_path / job["output"]) == job["output_sha256"]
            assert sha256(path) == job["source_sha256"]
            name = Path(job["output"]).name
            inode = (tmp_path / job["output"]).stat().st_ino
            assert inodes.setdefault(name, inode) == inode
        else:
            assert "is cut short" in job["error"]
    assert len(made()) == 22
    assert hidden(tmp_path / "out") == []


@pytest.mark.slow
def test_two_batches_at_once_share_the_work(tmp_path: Path, sources: Sources) -> None:
    sources(8)
    command = [sys.executable, "-m", "inflate", "batch", "ckpts/*", *OPTIONS, "--json"]
    both = [
        subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    documents = [json.loads(batch.communicate(timeout=120)[0]) for batch in both]
    assert [batch.returncode for batch in both] == [0, 0]
    for jobs in zip(*(document["jobs"] for document in documents), strict=True):
        assert [job["status"] for job in jobs] == ["held", "held"]
        assert sorted(job["reused"] for job in jobs) == [False, True]
        assert jobs[0]["output_sha256"] == jobs[1]["output_sha256"]
        assert jobs[0]["attempts"] == 1
    assert hidden(tmp_path / "out") == []


ONE_OUTPUT = """
import os, time
reserve, reserved = os.posix_fallocate, []
def once(*arguments):
    reserved.append(1)
    while len(reserved) > 1:
        time.sleep(0.1)
    return reserve(*arguments)
os.posix_fallocate = once
"""
"""Makes a worker wait for its end while it writes its second output."""


@pytest.mark.slow
def test_ctrl_c_stops_the_workers_and_leaves_nothing(tmp_path: Path, sources: Sources) -> None:
    sources(8)
    (tmp_path / "sitecustomize.py").write_text(ONE_OUTPUT)
    own = environment()
    batch = subprocess.Popen(
        [sys.executable, "-u", "-m", "inflate", "batch", "ckpts/*", *OPTIONS],
        cwd=tmp_path, env={**own, "PYTHONPATH": f"{tmp_path}:{own['PYTHONPATH']}"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert batch.stdout is not None
    assert batch.stdout.readline().startswith("held")
    batch.send_signal(signal.SIGINT)
    _, said = batch.communicate(timeout=60)
    finished = re.fullmatch(r"interrupted: (\d) of 8 jobs .+\n", said)
    assert batch.returncode == 130
    assert finished
    assert hidden(tmp_path / "out") == []
    done = inflate_batch(tmp_path, "ckpts/*", *OPTIONS, "--json")
    counts = json.loads(done.stdout)["counts"]
    assert counts["held"] == 8
    assert counts["reused"] >= int(finished[1]) >= 1


class Harness:
    """A local executor, driven by hand."""

    def __init__(self, folder: Path, slots: int) -> None:
        self.owner = become_owner(folder / "ledger.sqlite")
        self.executor = LocalExecutor(slots, self.owner.path)
        self.seen: list[Event] = []

    def until(self, kind: str, number: int, **answers: Any) -> Event:
        """Answer what is asked until a task tells an event of a kind."""
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            for event in self.executor.wait(0.5):
                self.seen.append(event)
                if event.wants_answer and event.kind != kind:
                    self.executor.answer(event, {"go": True, "overwrite": False})
            for event in self.seen:
                if (event.kind, event.number) == (kind, number):
                    self.seen.remove(event)
                    return event
        raise AssertionError((kind, number, self.seen))

    def close(self) -> None:
        """Stop it."""
        self.executor.close()
        self.owner.release()


def worker_pids(lock: Path) -> list[int]:
    """The worker processes that hold a lock file."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"inflate.batch.worker" in command and str(lock).encode() in command:
            found.append(int(process.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_killed_in_the_middle(
    tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (source, other) = sources(2)
    harness = Harness(tmp_path, 1)
    try:
        output = tmp_path / "out" / "v.safetensors"
        task = Task(0, str(source), str(output), {"device": "cpu"})
        harness.executor.submit(task)
        asked = harness.until("publish", 0)
        assert asked.content["document"]["conversion"]["parity"]["verdict"] == "bitwise"
        assert not output.exists()  # Nothing gets its name before the answer.
        assert len(list(output.parent.glob(".*.staged"))) == 1
        (pid,) = worker_pids(harness.owner.path)
        os.kill(pid, signal.SIGKILL)
        lost = harness.until("lost", 0)
        assert "worker 1 was killed by signal 9" in lost.content["error"]
        harness.executor.submit(task)
        harness.executor.submit(Task(1, str(other), str(tmp_path / "o.safetensors"), {}))
        harness.until("publish", 0)
        publish = Event("publish", 0, "worker 1")
        harness.executor.answer(publish, {"go": True})
        assert harness.until("end", 0).content["state"] == "held"
        assert output.exists()
        assert hidden(output.parent) == []  # The next conversion cleared up.
        assert harness.until("publish", 1).number == 1
    finally:
        harness.close()
    assert worker_pids(harness.owner.path) == []
    assert hidden(tmp_path) == []


def test_a_worker_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("raise ImportError('no torch for you')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(broken), str(ROOT)]))
    harness = Harness(tmp_path, 1)
    try:
        harness.executor.submit(Task(0, "x", "y", {}))
        error = harness.until("lost", 0).content["error"]
        assert "ended with code 1" in error
        assert "no torch for you" in error
    finally:
        harness.close()


def test_a_bug_in_one_job_is_told_and_the_others_go_on(
    tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inflate.batch.task import run_task

    (source,) = sources(1)
    told: list[tuple[str, Any]] = []

    def broken(*arguments: object, **more: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("inflate.workflow.conversion.convert_with", broken)
    run_task(
        Task(0, str(source), str(tmp_path / "v.safetensors"), {}),
        lambda kind, content: told.append((kind, content)),
        lambda _kind, _content: {"go": True},
    )
    ((kind, record),) = told
    assert (kind, record["state"]) == ("end", "failed")
    assert record["document"]["error"] == "a bug: ZeroDivisionError: a bug"
    assert "Traceback" in record["document"]["traceback"]
    assert record["source_sha256"] == sha256(source)


@pytest.mark.parametrize(
    ("asked", "gpu", "expected"),
    [
        (None, None, "auto"),
        ("cpu", 1, "cpu"),
        ("cuda:1", 0, "cuda:1"),
        ("auto", 0, "cuda:0"),
        (None, 3, "cuda:1"),
        ("cuda", 2, "cuda:0"),
    ],
)
def test_gpus_are_shared_out_one_a_worker(
    asked: str | None, gpu: int | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from inflate.batch.task import _device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert _device(asked, gpu) == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _device(asked, gpu) == (asked or "auto")
