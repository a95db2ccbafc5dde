"""Workers and their batch, where a signal ends one of them in the middle of something."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inflate.batch.executor import Task
from inflate.batch.local import LocalExecutor
from inflate.batch.owners import become_owner
from inflate.signals import ENDING

from .conftest import Sources, environment

TWICE = """
import os, sys
from inflate.signals import end_on_signals
end_on_signals()
try:
    os.kill(os.getpid(), int(sys.argv[1]))
finally:
    for number in sys.argv[1:]:
        os.kill(os.getpid(), int(number))
    print("removed")
"""


@pytest.mark.parametrize("number", ENDING)
def test_more_signals_do_not_interrupt_the_removal(number: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", TWICE, *(str(int(n)) for n in (number, *ENDING))],
        env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (128 + number, "removed\n", "")


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_to_a_worker_removes_what_it_staged(
    number: int, tmp_path: Path, sources: Sources
) -> None:
    (source,) = sources(1)
    output = tmp_path / "out" / "v.safetensors"
    owner = become_owner(tmp_path / "ledger.sqlite")
    worker = subprocess.Popen(
        [sys.executable, "-m", "inflate.batch.worker", "0", str(owner.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(),
    )  # fmt: skip
    assert worker.stdin is not None
    assert worker.stdout is not None
    task = {"number": 0, "source": str(source), "output": str(output), "options": {}}
    for message in (task, {"go": True, "overwrite": False}):
        worker.stdin.write(json.dumps(message) + "\n")
    worker.stdin.flush()
    # It waits for an answer before it publishes.
    while json.loads(worker.stdout.readline())["kind"] != "publish":
        pass
    assert len(list(output.parent.glob(".*.staged"))) == 1
    worker.send_signal(number)
    worker.wait(timeout=60)  # Its input stays open: at the end of that it would end itself.
    _, said = worker.communicate()
    owner.release()
    assert (worker.returncode, said) == (128 + number, "")
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("after", ["kill -9 $$", "echo; exec cat"], ids=["dead", "senseless"])
def test_a_worker_that_stops_in_a_line_is_lost(
    after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text(f'#!/bin/sh\nprintf \'{{"kind": "progr\'\n{after}\n')
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    executor = LocalExecutor(1, tmp_path / "lock")
    try:
        executor.submit(Task(3, "x", "y", {}))
        (lost,) = executor.wait(60.0)
    finally:
        executor.close()
    assert (lost.kind, lost.number) == ("lost", 3)
    assert f"signal {int(signal.SIGKILL)}" in lost.content["error"]
