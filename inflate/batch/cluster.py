"""Jobs on a Ray cluster: tasks that Ray places, and begins again where a worker is lost.

Workers tell of their tasks, and ask, by way of an actor. Sources and outputs have to be where every
machine finds them: on a shared file system, or in a store.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from inflate.batch.executor import Event, Task
from inflate.batch.run import ATTEMPTS
from inflate.errors import ConfigError, InflateError, needs_extra

_OBJECTS = 100_000_000
"""Bytes for Ray's store of objects, of which jobs make none."""


class Mailbox:
    """Where workers leave what they tell, and wait for answers; an actor of Ray's."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._something = asyncio.Event()
        self._asked: dict[str, asyncio.Future[Mapping[str, Any]]] = {}

    async def tell(self, event: dict[str, Any]) -> None:
        """Leave an event."""
        self._events.append(event)
        self._something.set()

    async def ask(self, event: dict[str, Any], token: str) -> Mapping[str, Any]:
        """Leave an event, and wait for its answer."""
        self._asked[token] = asyncio.get_running_loop().create_future()
        await self.tell({**event, "content": {**event["content"], "token": token}})
        return await self._asked[token]

    async def take(self, seconds: float) -> list[dict[str, Any]]:
        """What was left since the last call; waits this long for a first event at most."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._something.wait(), seconds)
        self._something.clear()
        taken, self._events = self._events, []
        return taken

    async def answer(self, token: str, answer: Mapping[str, Any]) -> None:
        """Answer who asked."""
        self._asked.pop(token).set_result(answer)


class RayExecutor:
    """Tasks of Ray's, one a job."""

    def __init__(self, slots: int | None, address: str | None) -> None:
        """Join a cluster, or start one on this machine.

        Args:
            slots: how many tasks there may be at once; as many as the cluster has CPUs by default.
            address: of the cluster; by default that of ``RAY_ADDRESS``, or a new one.

        Raises:
            InflateError: Ray is not installed, or there is no such cluster.
        """
        self._ray = _import_ray()
        self._ours = not self._ray.is_initialized()
        if self._ours:
            _connect(self._ray, slots, address)
        try:
            resources = self._ray.cluster_resources()
            self.slots = slots or max(1, int(resources.get("CPU", 1)))
            self._gpus = resources.get("GPU", 0) > 0
            self._largest = max(
                node["Resources"].get("memory", 0) for node in self._ray.nodes() if node["Alive"]
            )
            self._mailbox = self._ray.remote(Mailbox).options(num_cpus=0).remote()
            self._work = self._ray.remote(work)
        except BaseException:
            self._disconnect()
            raise
        self._tasks: dict[Any, int] = {}

    def submit(self, task: Task) -> None:
        """Give a task to Ray, with what it needs of a machine."""
        gpu = self._gpus and task.options.get("device") in (None, "auto", "cuda")
        reference = self._work.options(
            num_cpus=1,
            num_gpus=1 if gpu else 0,
            # What no machine has would be waited for for ever.
            memory=min(task.memory, int(self._largest)),
            max_retries=ATTEMPTS - 1,
            retry_exceptions=False,
            name=f"inflate {task.number}",
        ).remote(asdict(task), self._mailbox)
        self._tasks[reference] = task.number

    def wait(self, seconds: float) -> list[Event]:
        """What happened since the last call."""
        events = [Event(**said) for said in self._ray.get(self._mailbox.take.remote(seconds))]
        if not self._tasks:
            return events
        references = list(self._tasks)
        ended, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        for reference in ended:
            number = self._tasks.pop(reference)
            try:
                self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                why = {"error": " ".join(str(error).split())[-2000:], "final": True}
                events.append(Event("lost", number, "ray", why))
        return events

    def answer(self, event: Event, answer: Mapping[str, Any]) -> None:
        """Let a worker go on."""
        self._ray.get(self._mailbox.answer.remote(event.content["token"], answer))

    def close(self) -> None:
        """Cancel what still runs, and leave the cluster; one that was started here ends."""
        for reference in self._tasks:
            self._ray.cancel(reference, force=True)
        self._ray.kill(self._mailbox)
        self._disconnect()

    def _disconnect(self) -> None:
        if self._ours:
            self._ray.shutdown()


def work(task: Mapping[str, Any], mailbox: Any) -> None:
    """Do one task in a worker of Ray's."""
    ray = _import_ray()
    from inflate.batch.task import run_task

    name = f"worker {os.getpid()}"

    def event(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
        content = {**content, "pid": os.getpid()} if kind == "begin" else dict(content)
        return {"kind": kind, "number": task["number"], "worker": name, "content": content}

    def tell(kind: str, content: Mapping[str, Any]) -> None:
        told = mailbox.tell.remote(event(kind, content))
        if kind == "end":
            ray.get(told)  # The task is not done before its end is told.

    def ask(kind: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
        found: Mapping[str, Any] = ray.get(
            mailbox.ask.remote(event(kind, content), secrets.token_hex(8))
        )
        return found

    run_task(Task(**task), tell, ask, gpu=0 if ray.get_gpu_ids() else None)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Tasks without a GPU keep what the environment says of GPUs, as Ray will do of itself.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with needs_extra("ray", "--executor ray", InflateError):
        import ray
    return ray


def _connect(ray: Any, slots: int | None, address: str | None) -> None:
    quiet = {"log_to_driver": False, "configure_logging": False}
    joined = address or os.environ.get("RAY_ADDRESS")
    if joined:
        try:
            ray.init(address=joined, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            told = str(error).strip().splitlines() or [type(error).__name__]
            raise ConfigError(f"there is no Ray cluster at {joined!r}: {told[0]}") from error
        return
    ray.init(num_cpus=slots, include_dashboard=False, object_store_memory=_OBJECTS, **quiet)
