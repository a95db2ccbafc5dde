"""Jobs on a Ray cluster: each attempt is a Ray task.

Workers send events to an actor and wait there for answers. Sources and outputs must be accessible
from every machine: on a shared file system, or remote.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from contextlib import suppress
from typing import Any

from inflate.batch.task import Event, Task, run_task
from inflate.errors import ConfigError, InflateError, needs_extra


class Mailbox:
    """A Ray actor that holds the events of workers and the answers to them."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._answers: defaultdict[int, asyncio.Queue[bool]] = defaultdict(asyncio.Queue)

    async def send(self, event: Event) -> None:
        """Post an event."""
        self._events.put_nowait(event)

    async def ask(self, event: Event) -> bool:
        """Post an event and wait for its answer."""
        self._events.put_nowait(event)
        return await self._answers[event.number].get()

    async def take(self, seconds: float) -> list[Event]:
        """The events since the last call; waits up to ``seconds`` for the first."""
        taken = []
        with suppress(asyncio.TimeoutError):
            taken.append(await asyncio.wait_for(self._events.get(), seconds))
        while not self._events.empty():
            taken.append(self._events.get_nowait())
        return taken

    async def answer(self, number: int, go: bool) -> None:
        """Answer the task of this number."""
        self._answers[number].put_nowait(go)


class RayExecutor:
    """Runs tasks on Ray by their resource needs; the process leaves the cluster at its end."""

    def __init__(self, slots: int | None, address: str | None) -> None:
        """Join the cluster of ``address`` or ``RAY_ADDRESS``, or start one on this machine.

        Raises:
            InflateError: Ray is not installed, or the cluster cannot be reached.
        """
        self._ray = _import_ray()
        handler = signal.getsignal(signal.SIGTERM)
        _connect(self._ray, slots, address)
        signal.signal(signal.SIGTERM, handler)  # Ray replaces it.
        resources = self._ray.cluster_resources()
        self.slots = slots or max(1, int(resources.get("CPU", 1)))
        self._gpus = resources.get("GPU", 0) > 0
        self._largest = max(
            node["Resources"].get("memory", 0) for node in self._ray.nodes() if node["Alive"]
        )
        self._mailbox = self._ray.remote(Mailbox).options(num_cpus=0).remote()
        self._work = self._ray.remote(_work)
        self._tasks: dict[Any, int] = {}

    def submit(self, task: Task) -> None:
        """Submit a task to Ray with the resources that it needs."""
        gpu = self._gpus and task.options.get("device") in (None, "auto", "cuda")
        reference = self._work.options(
            num_cpus=1,
            num_gpus=1 if gpu else 0,
            memory=min(task.memory, int(self._largest)),  # A larger task would wait forever.
            max_retries=0,  # The batch itself resubmits lost tasks.
            name=f"inflate {task.number}",
        ).remote(task, self._mailbox)
        self._tasks[reference] = task.number

    def wait(self, seconds: float) -> list[Event]:
        """The events since the last call."""
        tasks = list(self._tasks)
        ended, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0) if tasks else ([], [])
        # Read events afterwards: the mailbox then has the last event of every ended task.
        events: list[Event] = self._ray.get(self._mailbox.take.remote(0 if ended else seconds))
        for reference in ended:
            number = self._tasks.pop(reference)
            try:
                self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                why = " ".join(str(error).split())[-2000:]
                events.append(Event("lost", number, {"error": why}))
        return events

    def answer(self, event: Event, go: bool) -> None:
        """Allow or forbid a worker to publish."""
        self._ray.get(self._mailbox.answer.remote(event.number, go))

    def close(self) -> None:
        """Cancel running tasks."""
        for reference in self._tasks:
            self._ray.cancel(reference, force=True)
        self._ray.kill(self._mailbox)


def _work(task: Task, mailbox: Any) -> None:
    ray = _import_ray()

    def send(event: Event) -> None:
        sent = mailbox.send.remote(event)
        if event.kind == "end":
            ray.get(sent)  # The task must not end before its last event arrives.

    def ask(event: Event) -> bool:
        return bool(ray.get(mailbox.ask.remote(event)))

    run_task(task, send, ask, 0 if ray.get_gpu_ids() else None)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Tasks without a GPU keep CUDA_VISIBLE_DEVICES, which is Ray's future default.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with needs_extra("ray", "--executor ray", InflateError):
        import ray
    return ray


def _connect(ray: Any, slots: int | None, address: str | None) -> None:
    joined = address or os.environ.get("RAY_ADDRESS")
    # Jobs do not use Ray's object store.
    own = {"num_cpus": slots, "include_dashboard": False, "object_store_memory": 100_000_000}
    quiet = {"log_to_driver": False, "configure_logging": False, "ignore_reinit_error": True}
    try:
        ray.init(**({"address": joined} if joined else own), **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the Ray cluster at {joined!r} cannot be reached: {why}; start it, or correct "
            "--ray-address"
        ) from error
