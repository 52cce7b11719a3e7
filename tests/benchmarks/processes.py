"""Where a method computes, and what its processes used while it did."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

MEMORY_LIMIT = "1GB"
"""Of each worker."""


class Usage(NamedTuple):
    """What one process used."""

    pid: int
    cpu_seconds: float
    """Of all its threads, and of its children that ended."""
    bytes_read: int
    """By its calls of read(), from disk or page cache; not from sockets."""
    peak_bytes: int
    """Resident memory at its highest since the process began."""

    def since(self, before: Usage) -> Usage:
        """Subtract what was used before; a peak cannot be."""
        return self._replace(
            cpu_seconds=self.cpu_seconds - before.cpu_seconds,
            bytes_read=self.bytes_read - before.bytes_read,
        )


def usage() -> Usage:
    """Look at this process."""
    times = os.times()
    return Usage(
        pid=os.getpid(),
        cpu_seconds=sum(times[:4]),
        bytes_read=_number_after("rchar:", "/proc/self/io"),
        peak_bytes=1024 * _number_after("VmHWM:", "/proc/self/status"),
    )


def _number_after(name: str, path: str) -> int:
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return next(int(words[1]) for words in lines if words[0] == name)


class Processes:
    """The process we are in, and the workers of a client if there is one."""

    def __init__(self, client: Client | None = None) -> None:
        self._client = client

    def usage(self) -> list[Usage]:
        """Look at all of them, the client first."""
        workers = self._client.run(usage) if self._client else {}
        return [usage(), *workers.values()]

    def troubles(self, before: list[Usage], after: list[Usage]) -> list[str]:
        """Say which workers ran short of memory: restarted, paused or spilling."""
        n_new = len({one.pid for one in after} - {one.pid for one in before})
        found = self._client.run(_worker_troubles) if self._client else {}
        lines = [f"{at} {what}" for at in sorted(found) for what in found[at]]
        return [f"{n_new} workers were restarted", *lines] if n_new else lines


def _worker_troubles(dask_worker: Any) -> list[str]:
    spilled = dask_worker.data.cumulative_metrics["disk-write", "bytes"]
    messages = [message for _, message in dask_worker.get_logs()]
    paused = sum("Pausing worker" in message for message in messages)
    found = {f"paused {paused} times": paused, f"spilled {spilled:.0f} bytes": spilled}
    return [what for what, amount in found.items() if amount]


def used(before: list[Usage], after: list[Usage]) -> list[Usage]:
    """Subtract, in each process that was there before, what it had used before."""
    known = {one.pid: one for one in before}
    return [now.since(known[now.pid]) if now.pid in known else now for now in after]


@contextmanager
def computing(n_workers: int) -> Iterator[Processes]:
    """Compute in threads of this process, or in so many one-thread workers."""
    if not n_workers:
        yield Processes()
        return
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=MEMORY_LIMIT,
            silence_logs=logging.WARNING,  # that of a pause must be kept
        ) as cluster,
        Client(cluster) as client,
    ):
        yield Processes(client)
