"""Whether there are workers while a client waits for them, told in lines of the log."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("hkmeans_dask")

SECONDS = 5.0
"""Between two looks; the first comes as late."""


@contextmanager
def watched(client: Any) -> Iterator[None]:
    """Say inside when there are no workers, or fewer, and when the work goes on."""
    if client is None or client.asynchronous:
        yield
        return
    end = threading.Event()
    thread = threading.Thread(target=_watch, args=(client, end), daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()  # not joined: it may be waiting for a scheduler that is gone


def _watch(client: Any, end: threading.Event) -> None:
    before: set[str] | None = None
    try:
        while not end.wait(SECONDS):
            now = set(client.scheduler_info(n_workers=-1)["workers"])
            if not end.is_set():
                _tell(before, now)
            before = now
    except Exception:  # the client, which waits itself, tells what is wrong
        return


def _tell(before: set[str] | None, now: set[str]) -> None:
    lost = len((before or set()) - now)
    if not now and (before is None or before):
        said = "all workers are gone" if lost else "there are no workers yet"
        logger.warning("%s; waiting for some", said)
    elif now and before is not None and not before:
        logger.warning("workers are there (%d); the work goes on", len(now))
    elif lost:
        known = (lost, len(now))
        logger.info("workers gone: %d, there: %d; the work goes on", *known)
