"""Memory that this process may still take: of the machine, its container, its job.

A batch system, a container and systemd limit a process by its control group, whose
files are looked at here (version 1 and 2), ``ulimit -v`` by a limit of addresses.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By version: the limit, what is used, and of that the cache that can be given up."""


def available_memory() -> int:
    """Bytes of memory that this process can still get."""
    free = int(psutil.virtual_memory().available)
    for limit, used in (*_of_groups(), *_of_addresses()):
        free = min(free, limit - used)
    return max(0, free)


def _of_groups() -> Iterator[tuple[int, int]]:
    """Limits of the control groups that this process is in, and what is used of them.

    Each may be that of a group further up. A container often sees its own as the root.
    """
    with suppress(OSError, ValueError):
        for line in OWN.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                version = 1 if controllers else 2
                root = GROUPS / controllers
                group = root / path.lstrip("/")
                for folder in (group, *group.parents):
                    if folder.is_relative_to(root):
                        yield from _of_group(folder, *FILES[version])


def _of_group(
    folder: Path, limit: str, used: str, cache: str
) -> Iterator[tuple[int, int]]:
    with suppress(OSError, ValueError):  # not there, or "max"
        most = int((folder / limit).read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
        spare = sum(int(n) for name, n in map(str.split, lines) if name == cache)
        yield most, int((folder / used).read_text()) - spare


def _of_addresses() -> Iterator[tuple[int, int]]:
    with suppress(ImportError):
        import resource  # not on Windows

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            yield most, psutil.Process().memory_info().vms
