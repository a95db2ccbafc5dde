"""Runs over a ledger: what is done once, what is done again, and whose work a file is.

The executor is a fake that takes the steps of a real one and copies files.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inflate.batch import marks
from inflate.batch.batch import Batch, open_sources
from inflate.batch.estimate import Estimate
from inflate.batch.executor import Event, Task
from inflate.batch.ledger import Ledger
from inflate.batch.run import Outcome, Run, run_batch
from inflate.batch.survey import Seen, survey
from inflate.errors import ConfigError, OutputError

from .conftest import Sources, environment
from .fakes import FakeExecutor, Watcher, always_held

Act = Callable[[Task], str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def opened(**options: object) -> Batch:
    """The batch of all sources."""
    return open_sources(["ckpts/*"], "out", dict(options))


def ran(
    batch: Batch,
    act: Act = always_held,
    *,
    retry_failed: bool = False,
    fail_fast: bool = False,
    executor: FakeExecutor | None = None,
) -> tuple[list[Outcome], FakeExecutor]:
    """Run a batch to its end."""
    executor = executor or FakeExecutor(1, act)
    with Ledger(batch.ledger) as ledger:
        ledger._db.execute("PRAGMA synchronous = OFF")  # Thousands of rows, on a busy disk.
        seen = survey(batch.jobs, ledger, retry_failed=retry_failed)
        outcomes = run_batch(
            seen, ledger, executor, Watcher(), retry_failed=retry_failed, fail_fast=fail_fast
        )
    return outcomes, executor


def statuses(outcomes: list[Outcome]) -> list[str]:
    """What became of each job."""
    return [outcome.status + ("*" if outcome.reused else "") for outcome in outcomes]


def by_number(**acts: str) -> Act:
    """What tasks come to: ``m01="failed"``; ``held`` if nothing is said."""
    return lambda task: acts.get(Path(task.source).stem, "held")


def test_what_is_done_and_unchanged_is_skipped(sources: Sources) -> None:
    sources(3)
    first, _ = ran(opened())
    again, executor = ran(opened())
    assert statuses(first) == ["held"] * 3
    assert statuses(again) == ["held*"] * 3
    assert executor.ran == []
    assert again[0].document == first[0].document
    assert again[0].source_sha256 == first[0].source_sha256


def test_a_thousand_done_jobs_are_known_without_opening_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ckpts"
    folder.mkdir()
    for number in range(1000):
        (folder / f"m{number:04}.safetensors").write_bytes(b"%d" % number)
    outcomes, _ = ran(opened())
    assert statuses(outcomes) == ["held"] * 1000
    opened_files = []
    for name in ("hash_file", "hash_files", "find_files"):
        monkeypatch.setattr(marks, name, opened_files.append)
    outcomes, executor = ran(opened())
    assert statuses(outcomes) == ["held*"] * 1000
    assert (executor.ran, opened_files) == ([], [])


def test_a_copy_with_other_times_is_known_by_its_hash(sources: Sources) -> None:
    (path,) = sources(1)
    ran(opened())
    os.utime(path, ns=(1, 1))
    os.utime("out/m00.video.safetensors", ns=(1, 1))
    outcomes, _ = ran(opened())
    assert statuses(outcomes) == ["held*"]


@pytest.mark.parametrize("change", ["content", "option", "output removed"])
def test_what_has_changed_is_done_again(change: str, sources: Sources) -> None:
    _, second = sources(2)
    ran(opened())
    options = {}
    if change == "content":
        second.write_bytes(second.read_bytes() + b"more")
    elif change == "option":
        options = {"seed": 1}
    else:
        Path("out/m01.video.safetensors").unlink()
    outcomes, executor = ran(opened(**options))
    redone = ["m00", "m01"] if change == "option" else ["m01"]
    assert [Path(task.source).stem for task in executor.ran] == redone
    assert statuses(outcomes)[1] == "held"
    assert Path("out/m01.video.safetensors").read_bytes() == second.read_bytes() + b" "
    assert statuses(ran(opened(**options))[0]) == ["held*"] * 2


def test_an_output_that_somebody_else_made_is_kept(sources: Sources) -> None:
    sources(2)
    out = Path("out")
    out.mkdir()
    for name in ("m00", "m01"):
        (out / f"{name}.video.safetensors").write_bytes(b"precious")
    with pytest.raises(ConfigError) as raised:
        ran(opened())
    assert str(raised.value).count("exists, and no batch of this ledger made it") == 2
    assert (out / "m00.video.safetensors").read_bytes() == b"precious"
    assert statuses(ran(opened(overwrite=True))[0]) == ["held"] * 2


def test_an_output_that_was_changed_is_somebody_elses(sources: Sources) -> None:
    sources(1)
    ran(opened())
    Path("out/m00.video.safetensors").write_bytes(b"edited by hand")
    with pytest.raises(ConfigError, match="no batch of this ledger made it as it is"):
        ran(opened())


def test_what_failed_is_tried_again_when_asked_or_changed(sources: Sources) -> None:
    *_, third = sources(3)
    act = by_number(m01="failed", m02="unequal")
    assert statuses(ran(opened(), act)[0]) == ["held", "failed", "unequal"]
    again, executor = ran(opened())
    assert statuses(again) == ["held*", "failed*", "unequal*"]
    assert again[1].document["error"] == "no"
    assert executor.ran == []
    third.write_bytes(third.read_bytes() + b"mended")
    assert statuses(ran(opened())[0]) == ["held*", "failed*", "held"]
    assert statuses(ran(opened(), retry_failed=True)[0]) == ["held*", "held", "held*"]


def test_a_failure_leaves_what_stood_there(sources: Sources) -> None:
    (path,) = sources(1)
    ran(opened())
    before = Path("out/m00.video.safetensors").read_bytes()
    path.write_bytes(b"broken")
    assert statuses(ran(opened(), by_number(m00="failed"))[0]) == ["failed"]
    assert Path("out/m00.video.safetensors").read_bytes() == before
    path.write_bytes(b"mended")  # What stands there is known as ours, and may be replaced.
    assert statuses(ran(opened())[0]) == ["held"]
    assert Path("out/m00.video.safetensors").read_bytes() == b"mended "


def test_fail_fast_begins_no_more(sources: Sources) -> None:
    sources(4)
    act = by_number(m01="failed")
    outcomes, executor = ran(opened(), act, fail_fast=True)
    assert statuses(outcomes) == ["held", "failed", "not-run", "not-run"]
    assert len(executor.ran) == 2
    assert statuses(ran(opened(), act)[0]) == ["held*", "failed*", "held", "held"]


def test_a_lost_worker_loses_no_job(sources: Sources) -> None:
    sources(2)
    tries: list[str] = []

    def act(task: Task) -> str:
        tries.append(Path(task.source).stem)
        return "lost" if tries.count("m00") < 3 else "held"

    outcomes, executor = ran(opened(), act)
    assert statuses(outcomes) == ["held", "held"]
    assert len([task for task in executor.ran if task.number == 0]) == 3
    assert outcomes[0].attempts == 3


def test_a_job_that_kills_its_workers_fails(sources: Sources) -> None:
    sources(2)
    outcomes, executor = ran(opened(), by_number(m00="lost"))
    assert statuses(outcomes) == ["failed", "held"]
    assert outcomes[0].document["error"] == "its process was lost 3 times: worker was killed"
    assert len(executor.ran) == 4


def test_a_worker_lost_after_its_file_got_its_name_does_nothing_twice(sources: Sources) -> None:
    sources(1)
    outcomes, executor = ran(opened(), by_number(m00="vanish"))
    assert statuses(outcomes) == ["held"]
    assert outcomes[0].document["conversion"]["parity"]["verdict"] == "bitwise"
    assert len(executor.ran) == 2  # The second was told not to go.
    assert statuses(ran(opened())[0]) == ["held*"]


class KilledError(BaseException):
    """The batch dies here."""


class _DeadlyExecutor(FakeExecutor):
    """The batch dies at the ``count``-th answer, before or after the worker acts on it."""

    def __init__(self, count: int, *, acted: bool) -> None:
        super().__init__()
        self._count, self._acted = count, acted

    def answer(self, event: Event, answer: object) -> None:
        """Die, or go on."""
        self._count -= 1
        if self._count < 0 and not self._acted:
            raise KilledError
        super().answer(event, answer)  # type: ignore[arg-type]
        if self._count < 0:
            raise KilledError


@pytest.mark.parametrize("acted", [False, True])
@pytest.mark.parametrize("count", range(4))
def test_a_batch_killed_between_any_two_steps_goes_on(
    count: int, acted: bool, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice over: with nothing there, and with an older output to replace."""
    paths = sources(2)
    for round_ in range(2):
        with monkeypatch.context() as patch:
            # Whoever is killed gives nothing back; the system lets its lock go.
            patch.setattr(Ledger, "__exit__", lambda self, *_: os.close(self.owner.handle))
            with pytest.raises(KilledError):
                ran(opened(), executor=_DeadlyExecutor(count, acted=acted))
        published = count % 2 == 1 and acted
        whole = sum(
            made.read_bytes() == path.read_bytes() + b" "
            for path in paths
            for made in Path("out").glob(f"{path.stem}.video.safetensors")
        )
        assert whole == count // 2 + published
        outcomes, executor = ran(opened())
        assert [outcome.status for outcome in outcomes] == ["held", "held"]
        # What was published is not done again, whether or not its end was written down.
        assert len(executor.ran) == 2 - whole
        for path in paths:
            made = Path("out") / f"{path.stem}.video.safetensors"
            assert made.read_bytes() == path.read_bytes() + b" "
            path.write_bytes(path.read_bytes() + b"%d" % round_)
        for left in Path("out").glob("*.staged"):
            left.unlink()


# Two batches, one ledger


def test_of_two_batches_one_gets_a_job(sources: Sources) -> None:
    sources(1)
    batch = opened()
    with Ledger(batch.ledger) as first, Ledger(batch.ledger) as second:
        row = first.row("m00.video.safetensors")
        assert second.row("m00.video.safetensors") == row
        claimed = first.write(row, state="running", owner=first.owner.token)
        assert claimed is not None
        assert second.write(row, state="running", owner=second.owner.token) is None
        assert second.is_taken(second.row(row.output))
        assert not first.is_taken(claimed)
        (seen,) = survey(batch.jobs, second, retry_failed=False)
        assert seen.standing == "elsewhere"


def test_a_batch_waits_for_what_another_does_and_takes_over_what_it_leaves(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(2)
    batch = opened()
    other = Ledger(batch.ledger)
    rows = [other.row(f"m0{i}.video.safetensors") for i in range(2)]
    for row in rows:
        assert other.write(row, state="running", owner=other.owner.token)
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            other.__exit__()

    monkeypatch.setattr("inflate.batch.run.time.sleep", nap)
    outcomes, executor = ran(batch)
    assert len(naps) == 3
    assert statuses(outcomes) == ["held", "held"]
    assert len(executor.ran) == 2


def test_a_job_that_another_batch_did_meanwhile_is_not_done_again(sources: Sources) -> None:
    sources(2)
    batch = opened()
    with Ledger(batch.ledger) as ledger:
        seen = survey(batch.jobs, ledger, retry_failed=False)
        ran(batch)  # All of it, between the survey and the run.
        executor = FakeExecutor()
        outcomes = run_batch(seen, ledger, executor, Watcher())
    assert statuses(outcomes) == ["held*", "held*"]
    assert executor.ran == []


def test_the_locks_of_the_dead_are_let_go_and_cleared(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    code = (
        "import os, sys; from pathlib import Path; from inflate.batch.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "ledger.write(ledger.row('x'), state='running', owner=ledger.owner.token)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    died = subprocess.run([sys.executable, "-c", code, path], env=environment(), check=False)
    assert died.returncode == -9
    assert len(list(tmp_path.glob(".l.sqlite.*.lock"))) == 1
    with Ledger(path) as ledger:
        row = ledger.row("x")
        assert (row.state, ledger.is_taken(row)) == ("running", False)
        assert len(list(tmp_path.glob(".l.sqlite.*.lock"))) == 1  # Its own.
    assert list(tmp_path.glob(".l.sqlite.*.lock")) == []


def test_what_is_no_ledger(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    path.write_bytes(b"something else entirely, long enough to be looked at as a database" * 20)
    with pytest.raises(OutputError, match="cannot be used as a ledger: file is not a database"):
        Ledger(path)
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(OutputError, match="version 99"):
        Ledger(path)
    assert list(tmp_path.glob(".*.lock")) == []


# Memory


@pytest.mark.parametrize(("memory", "together"), [(None, 3), (100, 3), (70, 2), (30, 1), (5, 1)])
def test_memory_bounds_what_runs_at_once(
    memory: int | None, together: int, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(4)
    monkeypatch.setattr("inflate.batch.run.estimate", lambda _job: Estimate(1, 1, 30))
    batch, executor = opened(), FakeExecutor(3)
    with Ledger(batch.ledger) as ledger:
        seen: list[Seen] = survey(batch.jobs, ledger, retry_failed=False)
        outcomes = Run(seen, ledger, executor, Watcher(), memory=memory).outcomes()
    assert statuses(outcomes) == ["held"] * 4
    assert executor.together == together
