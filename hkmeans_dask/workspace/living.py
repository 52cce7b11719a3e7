"""Whether a process that left a mark is alive: by its number or a pulse.

Who works where others may come leaves a mark of itself and touches it now and then. A
process of this system is looked up; of one elsewhere (another host, another container)
it counts how long its mark has not been touched, by the clock of the file system.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BEAT = 20.0
"""Seconds between two touches of a mark."""

SILENCE = 120.0
"""Seconds without one after which a process elsewhere counts as dead."""


def mark() -> bytes:
    """Tell which process this is, to all who can read it."""
    process = os.getpid()
    known = {"space": _space(), "process": process, "began": _began(process)}
    return json.dumps({"host": socket.gethostname(), **known}).encode()


def read_mark(written: bytes) -> dict[str, Any]:
    """Read a mark; one that is just being written tells nothing."""
    with suppress(ValueError):
        found = json.loads(written)
        if isinstance(found, dict):
            return found
    return {}


def is_dead(known: dict[str, Any], silence: float) -> bool:
    """Whether a process is gone that left a mark, untouched for so many seconds."""
    if known.get("space") != _space():
        return silence > SILENCE
    process, began = known.get("process"), known.get("began")
    if not isinstance(process, int) or not psutil.pid_exists(process):
        return True
    return isinstance(began, (int, float)) and abs(_began(process) - began) > 1


@contextmanager
def beating(touch: Callable[[], object]) -> Iterator[None]:
    """Touch a mark now and then, from a thread of its own, until the block ends."""
    end = threading.Event()

    def beat() -> None:
        while not end.wait(BEAT):
            with suppress(Exception):  # the next touch may do
                touch()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _space() -> str:
    """Name where numbers of processes are unique, as exactly as this system tells."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _began(process: int) -> float:
    with suppress(psutil.Error):
        return float(psutil.Process(process).create_time())
    return 0.0
