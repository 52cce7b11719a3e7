"""Threads of this process that share the rows or columns of a large call.

Tasks run side by side, so a call takes only its task's part of them: all of them when
one large task is left, as for the big clusters, or for one that holds most features.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _Crew:
    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget all tasks: after a fork their threads are not here."""
        self.size = 1
        self._tasks = 0
        self._lock = threading.Lock()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count a task as long as it runs."""
        with self._lock:
            self._tasks += 1
        try:
            yield
        finally:
            with self._lock:
                self._tasks -= 1

    @property
    def part(self) -> int:
        """Threads that a call may use."""
        return max(1, self.size // max(1, self._tasks))


_crew = _Crew()
at_work = _crew.at_work
begin_anew = _crew.begin_anew


@contextmanager
def shared_tiles(n_threads: int) -> Iterator[None]:
    """Let large calls of kernels in this process use up to `n_threads` threads.

    The results are the same for any number: threads share whole tiles, or columns that
    have nothing to do with each other.
    """
    before, _crew.size = _crew.size, n_threads
    try:
        yield
    finally:
        _crew.size = before


def in_parallel(
    function: Callable[[slice], None], length: int, unit: int, *, pays: bool
) -> None:
    """Call ``function(part)`` for slices of a range, on the threads at hand.

    Parameters
    ----------
    function : callable
    length : int
        The range begins at 0.
    unit : int
        Slices are cut at multiples of it.
    pays : bool
        Whether more than one thread would save time.
    """
    threads = _crew.part if pays else 1
    each = max(1, -(-length // (unit * threads))) * unit
    first, *others = tiles(length, each) or [slice(0, 0)]
    if not others:
        function(first)
        return
    with ThreadPoolExecutor(len(others)) as pool:
        waiting = pool.map(function, others)
        function(first)
        list(waiting)


def tiles(stop: int, height: int, start: int = 0) -> list[slice]:
    """Cut ``range(start, stop)`` into slices of `height`, the last one shorter."""
    return [
        slice(first, min(first + height, stop)) for first in range(start, stop, height)
    ]
