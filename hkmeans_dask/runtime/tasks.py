"""Tasks: named after their stage, fused with reads, for a client of one version.

Another version of this package may compute other bits, so every task carries the
client's version, for workers that come late.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import socket
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from hkmeans_dask.kmeans.crew import at_work
from hkmeans_dask.runtime import graphs, progress
from hkmeans_dask.runtime.blas import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dask.delayed import Delayed

VERSION = version("hkmeans_dask")


TRIMS = b"MALLOC_TRIM_THRESHOLD_=65536"
"""By which dask has the workers that it starts give back freed memory at once."""


MOST_KEPT = 8 * 2**20
"""Bytes of freed memory that a thread of a worker keeps for its next call, about."""


LARGE = 4 * 2**20
"""Bytes that are given back at once all the same: they get large pages from NumPy."""


MODULES = (
    *(f"stages.{name}" for name in ("sample", "coarse", "partition", "fine", "label")),
    *(
        "stages.beyond",
        "stages.refine",
        "reduction",
        "storage.source",
        "storage.outputs",
    ),
)
"""What tasks need; with what these import."""


def mismatch(name: str, theirs: str | None, ours: str) -> str:
    """Say that a process has another version of this package, or none."""
    return (
        f"{name} has {f'version {theirs}' if theirs else 'no version'} of "
        f"hkmeans_dask, but the client has version {ours}. Install that version where "
        "scheduler and workers find it, and start them again."
    )


@functools.cache
def _keep_freed_pages() -> None:
    """Let malloc keep what tiles took, in a worker that would give it back at once.

    New pages cost more than the arithmetic on a tile. A process that dask did not start
    so finds its own limits, and is left alone; a worker keeps these for all its tasks.
    """
    environment = Path("/proc/self/environ")  # as it began; it may have changed since
    if not environment.exists() or TRIMS not in environment.read_bytes().split(b"\0"):
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option:
        for option, limit in ((-3, LARGE), (-1, MOST_KEPT)):
            set_option(option, limit)  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


def _call(wanted: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function for a client of the same version, and say that it is done."""
    result = _called(wanted, function, *args)
    progress.done()
    return result


def _called(wanted: str, function: Callable[..., Any], *args: Any) -> Any:
    if wanted != VERSION:
        here = f"Process {os.getpid()} on {socket.gethostname()}"
        raise ImportError(mismatch(here, VERSION, wanted))
    _keep_freed_pages()
    with at_work():
        return function(*args)


def import_all() -> None:
    """Import what the tasks of a fit need, so that the first ones need not wait."""
    for module in MODULES:
        importlib.import_module(f"hkmeans_dask.{module}")


def names(tasks: Iterable[Delayed]) -> list[str]:
    """Names of tasks, to be counted."""
    return [str(task.key) for task in tasks]


def task(
    stage: str, function: Callable[..., Any], *args: Any, rank: int = 0
) -> Delayed:
    """Call ``function(*args)`` later; see `tasks`."""
    return tasks(stage, function, [args], [rank])[0]


def tasks(
    stage: str,
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    ranks: Sequence[int] | None = None,
) -> list[Delayed]:
    """Call a function later, as tasks named ``hkmeans-<stage>``, of one layer.

    Parameters
    ----------
    stage : str
        dask takes one of eight letters that begins with one of a to f for a hash.
    function : callable
    calls : sequence of tuples
        Arguments of each call; Delayed ones, and those in lists, are computed first.
    ranks : sequence of int, optional
        Of tasks that wait for the same dask begins with the last by name: the highest.

    Returns
    -------
    tasks : list of Delayed
    """
    keys = [
        f"hkmeans-{stage}-{rank:08x}{uuid.uuid4().hex[8:]}"
        for rank in ranks or [0] * len(calls)
    ]
    return graphs.calls(
        unique(stage), keys, _call, [(VERSION, function, *args) for args in calls]
    )


def carried(labels: Any, chunks: tuple[int, ...]) -> da.Array:
    """Make an array of labels, of which a graph carries as few bytes as hold them.

    distributed warns of graphs of 10 MB: with up to 65,535 clusters those of five
    million features. They are counted from the lowest, which may be -1.
    """
    least = int(labels.min()) if len(labels) else 0
    counted = labels - least
    narrow = counted.astype(np.min_scalar_type(counted.max() if len(labels) else 0))
    lazy: da.Array = da.from_array(narrow, (chunks,), name=False).astype(np.int32)
    return lazy + np.int32(least) if least else lazy


def unique(stage: str) -> str:
    """Name an array after the stage that computes it, as no other one."""
    return f"hkmeans-{stage}-{uuid.uuid4().hex}"


def map_blocks(
    stage: str, function: Callable[..., Any], blocks: da.Array, *args: Any
) -> list[list[Delayed]]:
    """Call ``function(block, first row, *args)`` on each block, fused with its read.

    Parameters
    ----------
    stage : str
        Names the tasks ``hkmeans-<stage>``.
    function : callable
        May return anything.
    blocks : dask array of shape (n_features, n_samples)
    *args
        The same for all blocks; Delayed ones are computed first.

    Returns
    -------
    results : list of lists of Delayed
        By block along features, then along samples.
    """
    what = (VERSION, function, *args)
    return graphs.calls_on_blocks(unique(stage), _call_on_block, blocks, what)


@one_blas_thread
def _call_on_block(
    block: Any, start: int, wanted: str, function: Callable[..., Any], *args: Any
) -> Any:
    return _call(wanted, function, block, start, *args)


def add_blocks(
    stage: str,
    add: Callable[..., Any],
    finish: Callable[..., Any],
    blocks: da.Array,
    together: int,
    *args: Any,
) -> list[list[Delayed]]:
    """Let a task take several blocks, one after the other, each fused with its read.

    Parameters
    ----------
    stage : str
        Names the tasks ``hkmeans-<stage>``.
    add : callable
        Gets what it gave for the block before (at first None), which it may change, a
        block, its first row and `args`.
    finish : callable
        Makes the result of what was given at last.
    blocks : dask array of shape (n_features, n_samples)
    together : int
        Blocks along features that a task takes.
    *args
        As for `map_blocks`.

    Returns
    -------
    results : list of lists of Delayed
        Along features, then along samples.
    """
    what = (VERSION, add, *args)
    last = (_call, VERSION, finish)
    name = unique(stage)
    return graphs.calls_on_blocks(name, _add_block, blocks, what, together, last)


@one_blas_thread
def _add_block(
    before: Any,
    block: Any,
    start: int,
    wanted: str,
    function: Callable[..., Any],
    *args: Any,
) -> Any:
    return _called(wanted, function, before, block, start, *args)
