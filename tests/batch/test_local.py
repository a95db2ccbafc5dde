"""Worker processes: killed workers, killed batches, and what is left of them."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch

from inflate.batch.ledger import Ledger
from inflate.batch.local import LocalExecutor
from inflate.batch.task import Event, Task, _device, run_task
from inflate.workflow import production

from ..conversions import print_of
from .conftest import ROOT, Sources, environment, inflate_batch

OPTIONS = ("--device", "cpu", "--time-mode", "all", "-o", "out/")
CONVERT = {"device": "cpu", "skip_parity": True}
KILLS = 10


def events_of(task: Task, *, go: bool = True) -> list[Event]:
    """The events of a task that runs in this process."""
    events: list[Event] = []

    def ask(event: Event) -> bool:
        events.append(event)
        return go

    run_task(task, events.append, ask)
    return events


def test_a_task_asks_before_its_output_gets_its_name(tmp_path: Path, sources: Sources) -> None:
    (source,) = sources(1)
    task = Task(0, str(source), str(tmp_path / "out/v.safetensors"), CONVERT)
    refused = events_of(task, go=False)
    assert [event.kind for event in refused if event.kind != "progress"] == ["publish"]
    assert list((tmp_path / "out").iterdir()) == []
    *_, publish, end = events_of(task)
    assert (publish.kind, end.kind, end.content["state"]) == ("publish", "end", "held")
    assert end.content["made"][1] == print_of(Path(task.output))
    assert publish.content["made"] == end.content["made"]


@pytest.mark.parametrize("bug", [False, True])
def test_an_error_becomes_the_result_of_its_task(
    bug: bool, tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = sources(1)
    options = CONVERT if bug else {**CONVERT, "set": ("scaling_factor=.nan",)}
    monkeypatch.setattr("inflate.workflow.production.carry_out", lambda *_: 1 / 0)
    end = events_of(Task(0, str(source), str(tmp_path / "v.safetensors"), options))[-1]
    assert (end.kind, end.content["state"]) == ("end", "failed")
    assert ("traceback" in end.content["document"]) == bug
    assert end.content["source_mark"] is not None
    json.dumps(end.content, allow_nan=False)


def test_a_task_whose_source_changes_fails_and_is_not_known(
    tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,), carry_out = sources(1), production.carry_out

    def changing(*arguments: Any) -> Any:
        digests = carry_out(*arguments)
        os.utime(source, ns=(1, 1))
        return digests

    monkeypatch.setattr(production, "carry_out", changing)
    end = events_of(Task(0, str(source), str(tmp_path / "v.safetensors"), CONVERT))[-1]
    assert (end.content["state"], end.content["source_mark"]) == ("failed", None)
    assert not (tmp_path / "v.safetensors").exists()


def test_each_worker_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    wanted = [(None, None), ("cuda:1", 0), ("auto", 0), (None, 3), ("cuda", 2)]
    assert [_device(*one) for one in wanted] == ["auto", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _device(None, 0) == "auto"


def until(executor: LocalExecutor, kind: str) -> Event:
    """The next event of a kind; all before it pass."""
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        for event in executor.wait(0.5):
            if event.kind == kind:
                return event
    raise AssertionError(kind)


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalExecutor]:
    """An executor of one worker."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with Ledger(tmp_path / "l.sqlite") as ledger, closing(LocalExecutor(1, ledger.lock)) as found:
        yield found


@pytest.mark.slow
def test_a_worker_killed_in_the_middle(
    tmp_path: Path, sources: Sources, executor: LocalExecutor
) -> None:
    (source,) = sources(1)
    output = tmp_path / "out" / "v.safetensors"
    executor.submit(Task(0, str(source), str(output), {"device": "cpu"}))
    until(executor, "publish")
    assert [path.suffix for path in output.parent.iterdir()] == [".staged"]
    executor._workers[0].process.kill()
    assert "signal 9" in until(executor, "lost").content["error"]
    executor.submit(Task(1, str(source), str(output), {"device": "cpu"}))
    executor.answer(until(executor, "publish"), True)
    assert until(executor, "end").content["state"] == "held"
    assert list(output.parent.iterdir()) == [output]  # What was left staged is removed.
    process = executor._workers[0].process
    executor.close()
    assert process.returncode == 128 + signal.SIGTERM


def test_a_worker_that_cannot_start_says_why(
    tmp_path: Path, executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "safetensors.py").write_text("raise ImportError('broken')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    executor.submit(Task(0, "x", "y", {}))
    assert "broken" in until(executor, "lost").content["error"]


def is_locked(ledger: Path) -> bool:
    """Whether a batch or one of its workers has a ledger open."""
    with ledger.with_name(f".{ledger.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("batch_is_gone", [False, True])
def test_a_worker_that_ends_removes_what_it_staged(
    batch_is_gone: bool, tmp_path: Path, sources: Sources
) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ours, theirs = Pipe()
    worker = subprocess.Popen(
        [sys.executable, "-m", "inflate.batch.local", "0", str(theirs.fileno())],
        pass_fds=[theirs.fileno(), ledger.lock], stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    theirs.close()
    (source,) = sources(1)
    ours.send(Task(0, str(source), str(tmp_path / "out/v.safetensors"), CONVERT))
    while ours.recv().kind != "publish":
        pass
    assert len(list((tmp_path / "out").glob(".*.staged"))) == 1
    # The lock of a batch that is killed outlives it until its workers have ended.
    os.close(ledger.lock)
    assert is_locked(ledger.path)
    if batch_is_gone:
        ours.close()
    else:
        worker.terminate()
    _, said = worker.communicate(timeout=60)
    assert (worker.returncode, said) == (128 + signal.SIGTERM, b"")
    assert list((tmp_path / "out").iterdir()) == []
    assert not is_locked(ledger.path)


@pytest.mark.slow
def test_a_batch_killed_ten_times_loses_nothing_and_does_nothing_twice(
    tmp_path: Path, sources: Sources
) -> None:
    paths = sources(24, broken=(5, 17))
    command = [sys.executable, "-m", "inflate", "batch", "ckpts/*.safetensors", *OPTIONS, "--json"]
    drawn = random.Random(5)
    inodes: dict[str, int] = {}
    out, made = tmp_path / "out", "*.video.safetensors"
    for i in range(KILLS):
        batch = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        # Each time some jobs further, and at any moment of the next.
        while len(list(out.glob(made))) < 2 * i and batch.poll() is None:
            time.sleep(0.01)
        time.sleep(0.3 * drawn.random())
        batch.kill()
        batch.communicate()
        assert batch.returncode == -signal.SIGKILL
        for path in out.glob(made):
            # A file that has its name is complete, and is never made again.
            assert inodes.setdefault(path.name, path.stat().st_ino) == path.stat().st_ino
    assert len(inodes) >= KILLS
    last = inflate_batch(tmp_path, "ckpts/*.safetensors", *OPTIONS, "--jobs", "2", "--json")
    assert last.returncode == 2, last.stderr
    document = json.loads(last.stdout)
    assert document["counts"] | {"reused": 0} == {
        "total": 24, "held": 22, "unequal": 0, "failed": 2, "not_run": 0, "reused": 0,
    }  # fmt: skip
    for number, (job, path) in enumerate(zip(document["jobs"], paths, strict=True)):
        assert job["source"] == f"ckpts/{path.name}"
        if number in (5, 17):
            assert job["status"] == "failed"
            continue
        output = tmp_path / job["output"]
        assert (job["status"], job["verdict"]) == ("held", "bitwise")
        assert print_of(output) == job["output_fingerprint"]
        assert print_of(path) == job["source_fingerprint"]
        assert inodes.get(output.name, output.stat().st_ino) == output.stat().st_ino
    assert list((tmp_path / "out").glob(".*")) == []


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
    assert batch.stdout.readline().startswith("converted")
    batch.send_signal(signal.SIGINT)
    _, said = batch.communicate(timeout=60)
    finished = re.fullmatch(r"interrupted: (\d) of 8 jobs .+\n", said)
    assert batch.returncode == 130
    assert finished
    assert list((tmp_path / "out").glob(".*")) == []
    done = inflate_batch(tmp_path, "ckpts/*", *OPTIONS, "--json")
    counts = json.loads(done.stdout)["counts"]
    assert counts["held"] == 8
    assert counts["reused"] >= int(finished[1]) >= 1
