"""Runs over a ledger, with a fake executor: what is done once, and what again."""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from inflate.batch import files
from inflate.batch.batch import Batch, open_batch
from inflate.batch.jobs import Estimate
from inflate.batch.ledger import Ledger
from inflate.batch.run import Run
from inflate.batch.survey import survey
from inflate.batch.task import Event, Task
from inflate.errors import ConfigError

from ..checkpoints import write_safetensors
from ..conversions import metadata_of, sha256
from .conftest import Sources
from .fakes import FakeExecutor, Watcher, by_stem, made_of, ran, statuses


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def opened(**options: object) -> Batch:
    """The batch of all sources."""
    return open_batch(["ckpts/*"], "out", dict(options))


def output_of(number: int) -> Path:
    """The output of a source."""
    return Path(f"out/m{number:02}.video.safetensors")


def test_what_is_done_and_unchanged_is_skipped_without_opening_a_source(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(3)
    first, _ = ran(opened())
    read: list[object] = []
    monkeypatch.setattr(files, "open_checkpoint", read.append)
    again, executor = ran(opened())
    assert statuses(first) == ["held"] * 3
    assert statuses(again) == ["held*"] * 3
    assert (executor.ran, read) == ([], [])
    assert [outcome.row for outcome in again] == [outcome.row for outcome in first]


def test_files_are_known_by_their_autoencoder(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = sources(1)
    ran(opened())
    for file in (path, output_of(0)):  # A restored cache has other times and inodes.
        shutil.copyfile(file, "copy")
        Path("copy").replace(file)
    assert statuses(ran(opened())[0]) == ["held*"]
    write_safetensors(path, {**load_file(path), "model.x": torch.ones(2)}, {"a": "b"})
    assert statuses(ran(opened())[0]) == ["held*"]
    monkeypatch.setattr("inflate.batch.survey.key_of_source", lambda *_: 1 / 0)
    assert statuses(ran(opened())[0]) == ["held*"]  # The new mark is recorded.


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
        output_of(1).unlink()
    outcomes, executor = ran(opened(**options))
    redone = ["m00", "m01"] if change == "option" else ["m01"]
    assert [Path(task.source).stem for task in executor.ran] == redone
    assert statuses(outcomes)[1] == "held"
    assert output_of(1).read_bytes() == made_of(second)
    assert statuses(ran(opened(**options))[0]) == ["held*"] * 2


def test_a_config_next_to_the_weights_is_part_of_a_source(sources: Sources) -> None:
    (path,) = sources(1)
    beside = path.with_name("config.json")
    steps: list[tuple[dict[str, object] | None, str]] = [
        (None, "held"),
        ({"_class_name": "AutoencoderKL", "scaling_factor": 0.25}, "held"),
        ({"_class_name": "AutoencoderKL", "scaling_factor": 0.5}, "held"),
        ({"scaling_factor": 0.5, "_class_name": "AutoencoderKL"}, "held*"),
        ({"_class_name": "UNet2DConditionModel", "scaling_factor": 2.0}, "held"),
        ({"_class_name": "UNet2DConditionModel"}, "held*"),
        (None, "held*"),
    ]
    for content, expected in steps:
        beside.unlink(missing_ok=True)
        if content is not None:
            beside.write_text(json.dumps(content), encoding="utf-8")
        assert statuses(ran(open_batch(["ckpts/m*"], "out", {}))[0]) == [expected], content


def test_an_output_that_no_batch_made_is_kept(sources: Sources) -> None:
    sources(2)
    Path("out").mkdir()
    for number in range(2):
        output_of(number).write_bytes(b"precious")
    with pytest.raises(ConfigError) as raised:
        ran(opened())
    assert len(raised.value.problems) == 2
    assert output_of(0).read_bytes() == b"precious"
    assert statuses(ran(opened(overwrite=True))[0]) == ["held"] * 2
    tensors, header = load_file(output_of(0)), metadata_of(output_of(0))
    assert statuses(ran(opened())[0]) == ["held*"] * 2
    for edited in ((tensors | {"mine": torch.ones(2)}, header), (tensors, {})):
        write_safetensors(output_of(0), *edited)
        before = sha256(output_of(0))
        with pytest.raises(ConfigError):
            ran(opened())
        assert sha256(output_of(0)) == before


def test_what_failed_is_tried_again_when_asked_or_changed(sources: Sources) -> None:
    *_, third = sources(3)
    act = by_stem(m01="failed", m02="unequal")
    assert statuses(ran(opened(), act)[0]) == ["held", "failed", "unequal"]
    again, executor = ran(opened())
    assert statuses(again) == ["held*", "failed*", "unequal*"]
    assert again[1].row.document["error"] == "no"
    assert executor.ran == []
    third.write_bytes(third.read_bytes() + b"mended")
    assert statuses(ran(opened())[0]) == ["held*", "failed*", "held"]
    assert statuses(ran(opened(), retry_failed=True)[0]) == ["held*", "held", "held*"]


@pytest.mark.parametrize("how", ["failed", "lost"])
def test_a_failure_keeps_the_existing_output_as_ours(how: str, sources: Sources) -> None:
    (path,) = sources(1)
    ran(opened())
    before = output_of(0).read_bytes()
    path.write_bytes(b"broken")
    assert statuses(ran(opened(), by_stem(m00=how))[0]) == ["failed"]
    assert output_of(0).read_bytes() == before
    path.write_bytes(b"mended")
    assert statuses(ran(opened())[0]) == ["held"]
    assert output_of(0).read_bytes() == made_of(path)


def test_fail_fast_begins_no_more(sources: Sources) -> None:
    sources(4)
    act = by_stem(m01="failed")
    outcomes, executor = ran(opened(), act, fail_fast=True)
    assert statuses(outcomes) == ["held", "failed", "not-run", "not-run"]
    assert len(executor.ran) == 2
    assert statuses(ran(opened(), act)[0]) == ["held*", "failed*", "held", "held"]


@pytest.mark.parametrize(("losses", "state"), [(2, "held"), (3, "failed")])
def test_a_job_whose_worker_is_lost_is_started_three_times(
    losses: int, state: str, sources: Sources
) -> None:
    sources(2)
    tries: list[str] = []

    def act(task: Task) -> str:
        tries.append(Path(task.source).stem)
        return "lost" if tries[-1] == "m00" and tries.count("m00") <= losses else "held"

    outcomes, _ = ran(opened(), act)
    assert statuses(outcomes) == [state, "held"]
    assert [outcome.row.attempts for outcome in outcomes] == [3, 1]


def test_a_worker_lost_after_its_file_got_its_name_does_nothing_twice(sources: Sources) -> None:
    sources(1)
    outcomes, executor = ran(opened(), by_stem(m00="vanish"))
    assert statuses(outcomes) == ["held"]
    assert outcomes[0].row.document["conversion"]["parity"]["verdict"] == "bitwise"
    assert len(executor.ran) == 1
    assert statuses(ran(opened())[0]) == ["held*"]


def test_a_worker_that_was_given_up_may_not_publish(sources: Sources) -> None:
    class Late(FakeExecutor):
        """Loses the first attempt, which still runs to its end."""

        def begin(self, task: Task, act: str) -> None:
            if task.number == 0:
                self.send("lost", task, error="unreachable")
            super().begin(task, act)

    sources(1)
    outcomes, executor = ran(opened(), executor=Late(2))
    assert statuses(outcomes) == ["held"]
    assert executor.answers == [False, True]


class _DeadlyExecutor(FakeExecutor):
    """The batch dies at a publication, before or after the worker acts on it."""

    def __init__(self, count: int, *, acted: bool) -> None:
        super().__init__()
        self._count, self._acted = count, acted

    def answer(self, event: Event, go: bool) -> None:
        """Die, or continue."""
        self._count -= 1
        if self._count >= 0 or self._acted:
            super().answer(event, go)
        if self._count < 0:
            raise SystemExit


@pytest.mark.parametrize("acted", [False, True])
@pytest.mark.parametrize("count", range(2))
def test_a_batch_killed_between_any_two_steps_resumes(
    count: int, acted: bool, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice over: with nothing there, and with an older output to replace."""
    paths = sources(2)
    for round_ in range(2):
        with monkeypatch.context() as patch:
            # A killed batch gives nothing back; the system releases its lock.
            patch.setattr(Ledger, "__exit__", lambda self, *_: os.close(self.lock))
            with pytest.raises(SystemExit):
                ran(opened(), executor=_DeadlyExecutor(count, acted=acted))
        outputs = [output_of(number) for number in range(2)]
        whole = sum(
            made.exists() and made.read_bytes() == made_of(path)
            for path, made in zip(paths, outputs, strict=True)
        )
        assert whole == count + acted
        outcomes, executor = ran(opened())
        assert [outcome.row.state for outcome in outcomes] == ["held", "held"]
        # What was published is not done again, whether or not its end was recorded.
        assert len(executor.ran) == 2 - whole
        for path, made in zip(paths, outputs, strict=True):
            assert made.read_bytes() == made_of(path)
            path.write_bytes(path.read_bytes() + b"%d" % round_)


class _Corrupting(FakeExecutor):
    """The result of its first job cannot be recorded."""

    def send(self, kind: Any, task: Task, **content: Any) -> None:
        """Corrupt one."""
        if (kind, task.number) == ("publish", 0):
            content["document"] = {"seconds": float("nan")}
        super().send(kind, task, **content)


def test_what_cannot_be_recorded_is_not_published(sources: Sources) -> None:
    sources(2)
    outcomes, executor = ran(opened(), executor=_Corrupting())
    assert statuses(outcomes) == ["failed", "held"]
    assert outcomes[0].row.document["error"]
    assert executor.answers == [False, True]
    assert not output_of(0).exists()
    assert statuses(ran(opened())[0]) == ["held", "held*"]


class _Broken(Watcher):
    """A display with a bug."""

    def moved(self, *_: Any) -> None:
        """Fail."""
        raise ZeroDivisionError


def test_a_bug_of_the_display_is_not_recorded_as_a_failed_job(sources: Sources) -> None:
    sources(1)
    with pytest.raises(ZeroDivisionError):
        ran(opened(), watch=_Broken())
    assert statuses(ran(opened())[0]) == ["held"]


def test_a_second_batch_waits_and_takes_the_results_of_the_first(sources: Sources) -> None:
    sources(1)
    batch, watch, first = opened(), Watcher(), FakeExecutor()
    with ThreadPoolExecutor(1) as threads, Ledger(batch.ledger) as ledger:
        second = threads.submit(ran, batch, watch=watch)
        while not watch.waited:
            time.sleep(0.01)
        seen = survey(batch.jobs, ledger, retry_failed=False)
        Run(seen, ledger, first, Watcher()).outcomes()
    outcomes, executor = second.result()
    assert statuses(outcomes) == ["held*"]
    assert (len(first.ran), executor.ran) == (1, [])


@pytest.mark.parametrize(("memory", "together"), [(None, 3), (100, 3), (70, 2), (5, 1)])
def test_memory_bounds_what_runs_at_once(
    memory: int | None, together: int, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(4)
    monkeypatch.setattr("inflate.batch.run.estimate", lambda _job: Estimate(1, 1, 30))
    outcomes, executor = ran(opened(), executor=FakeExecutor(3), memory=memory)
    assert statuses(outcomes) == ["held"] * 4
    assert executor.together == together
