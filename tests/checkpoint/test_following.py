"""What is done with a file while it is still being written."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from inflate.checkpoint.following import Mark, StoppedError, hash_behind, sync_behind


def followed(work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Work on a thread of its own."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work, *arguments)
    pool.shutdown(wait=False)
    return future


@pytest.mark.parametrize("steps", [[1], [1, 5000], [7, 7, 2_500_000], [3_000_001]])
def test_the_hash_is_that_of_the_finished_file(steps: list[int], tmp_path: Path) -> None:
    content = os.urandom(max(steps))
    mark, path = Mark(), tmp_path / "file"
    with path.open("wb", buffering=0) as file:
        hashed = followed(hash_behind, mark, path, lambda: content[:1])
        for end in steps:
            file.write(content[file.tell() : end])
            mark.reach(end)
        mark.end()
        mark.close()
        assert hashed.result(10) == hashlib.sha256(content[: steps[-1]]).hexdigest()


def test_the_hash_may_have_another_beginning_than_the_file(tmp_path: Path) -> None:
    path, mark = tmp_path / "file", Mark()
    path.write_bytes(b"old, body")
    hashed = followed(hash_behind, mark, path, lambda: b"new")
    assert not hashed.done()
    mark.reach(3)
    mark.reach(9)
    mark.end()
    assert hashed.result(10) == hashlib.sha256(b"new, body").hexdigest()


def test_a_file_that_ends_too_soon_has_no_hash(tmp_path: Path) -> None:
    path, mark = tmp_path / "file", Mark()
    path.write_bytes(b"short")
    mark.reach(9)
    mark.end()
    with pytest.raises(OSError, match="ended at byte 5; 9 were written"):
        hash_behind(mark, path, lambda: b"")


@pytest.mark.parametrize("reached", [0, 5])
def test_nobody_waits_for_a_writing_that_was_given_up(reached: int, tmp_path: Path) -> None:
    path, mark = tmp_path / "file", Mark()
    path.write_bytes(b"12345")
    mark.reach(reached)
    both = [
        followed(hash_behind, mark, path, lambda: b""),
        followed(sync_behind, mark, 0),
    ]
    mark.close()
    for future in both:
        with pytest.raises(StoppedError):
            future.result(10)


def test_a_file_is_synced_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append, raising=False)
    mark = Mark()
    asked: list[int] = []
    ends = iter([100_000_000, 200_000_000, 200_000_001, 200_000_001])

    def wait(beyond: int) -> int:
        asked.append(beyond)
        return next(ends)

    monkeypatch.setattr(mark, "wait", wait)
    sync_behind(mark, 7)
    assert synced == [7, 7, 7]
    assert asked[0] > 1_000_000
    assert asked[1] > 100_000_000


def test_a_disk_that_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail, raising=False)
    mark = Mark()
    mark.reach(1)
    mark.end()
    with pytest.raises(OSError, match="Input/output error"):
        sync_behind(mark, 0)
