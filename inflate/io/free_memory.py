"""How much memory this process can still allocate; used by batches and by parity."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_RECLAIMABLE = ("active_file", "inactive_file")
"""Page cache in ``memory.stat``: counted as used, but released when a program needs it."""


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes available to this process, within the limits of the machine and of every container.

    Page cache counts as free. None if the system does not report it. ``root`` is the folder where
    ``proc`` and ``sys`` are mounted.

    Source:
        Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of the Linux kernel.
    """
    found = [*_machine(root), *_groups(root)]
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    return max(0, min(found)) if found else None


def _machine(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _groups(root: Path) -> Iterator[int]:
    """Bytes left in each control group around this process (v1 and v2), innermost first.

    Inside a container its path may not exist; the top of the mount is then the group itself.
    """
    mount = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        own = PurePosixPath(path.lstrip("/"))
        for folder in (own, *own.parents):
            if not controllers:
                yield from _left(mount / folder, "max", "current", "")
            elif "memory" in controllers.split(","):
                names = ("limit_in_bytes", "usage_in_bytes", "total_")
                yield from _left(mount / "memory" / folder, *names)


def _left(group: Path, limit_name: str, usage_name: str, prefix: str) -> Iterator[int]:
    limit, usage = (_lines(group / f"memory.{name}") for name in (limit_name, usage_name))
    if not limit or not usage or not limit[0].isdigit():  # "max": this group sets no limit.
        return
    statistics = dict(line.split() for line in _lines(group / "memory.stat"))
    cache = sum(int(statistics.get(prefix + name, 0)) for name in _RECLAIMABLE)
    yield int(limit[0]) - int(usage[0]) + cache


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
