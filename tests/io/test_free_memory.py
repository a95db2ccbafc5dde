"""Free memory as Linux and its control groups state it, page cache included."""

from __future__ import annotations

from pathlib import Path

import pytest

from inflate.io.free_memory import free_memory

MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable:    4000 kB\n"}
V2 = {
    **MEMINFO, "proc/self/cgroup": "0::/batch/job\n", "sys/fs/cgroup/batch/job/memory.max": "max\n",
    "sys/fs/cgroup/batch/job/memory.current": "900000\n",
    "sys/fs/cgroup/batch/memory.max": "1000000\n", "sys/fs/cgroup/batch/memory.current": "950000\n",
    "sys/fs/cgroup/batch/memory.stat": "anon 5\nactive_file 300000\ninactive_file 500000\n",
}  # fmt: skip
V1 = {
    **MEMINFO,
    "proc/self/cgroup": "11:cpu:/job\n4:memory,hugetlb:/job\n",
    "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "2000000\n",
    "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "1900000\n",
    "sys/fs/cgroup/memory/job/memory.stat": "total_active_file 100000\ntotal_inactive_file 7\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "1900000\n",
}
IN_A_CONTAINER = {  # The group's path is the host's, and the mount shows the group itself.
    **MEMINFO,
    "proc/self/cgroup": "0::/docker/4f1e\n",
    "sys/fs/cgroup/memory.max": "600000\n",
    "sys/fs/cgroup/memory.current": "500000\n",
    "sys/fs/cgroup/memory.stat": "inactive_file 20000\n",
}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        pytest.param(MEMINFO, 4_096_000, id="machine"),
        pytest.param(V2, 850_000, id="v2, a parent's limit"),
        pytest.param(V1, 200_007, id="v1"),
        pytest.param(IN_A_CONTAINER, 120_000, id="container"),
        pytest.param({**IN_A_CONTAINER, "sys/fs/cgroup/memory.current": "700000\n"}, 0, id="over"),
    ],
)
def test_the_tightest_limit_with_its_cache_given_back(
    files: dict[str, str], free: int, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert free_memory(tmp_path) == free
