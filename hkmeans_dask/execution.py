"""Which scheduler runs this, and how: versions, BLAS threads, retries, tasks per block.

The scheduler is found the way dask finds it: ``dask.config`` or a ``with
dask.config.set(scheduler=...)``, then the active ``Client``, then the collection's
default, threads in this process. What is in memory here is computed here.

Another version of this package may compute other bits. A cluster's processes are asked
for theirs before the first task, and every task carries the client's version, for
workers that come later. One without the package cannot load a task and leaves its
cluster. (dask itself warns of other versions of dask, NumPy and Python.)

BLAS rounds by its number of threads, so every task that multiplies matrices runs with
one. `one_blas_thread` counts, under a lock, the tasks of this process that need it:
the first sets the limit and the last restores the old one. It therefore holds in
threads, processes and workers of any kind, also when the user computes a lazy result
long after we returned it.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import os
import socket
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ContextDecorator, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import dask.base
import dask.threaded
import dask.utils
import numpy as np
import psutil
import threadpoolctl
from dask.core import flatten
from dask.delayed import delayed
from dask.system import CPU_COUNT

from hkmeans_dask import progress
from hkmeans_dask.compat import keep_names
from hkmeans_dask.crew import at_work, shared_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from dask.delayed import Delayed

VERSION = version("hkmeans_dask")

TRIMS = b"MALLOC_TRIM_THRESHOLD_=65536"
"""By which dask has the workers that it starts give back freed memory at once."""

MOST_KEPT = 8 * 2**20
"""Bytes of freed memory that a thread of a worker keeps for its next call, about."""

LARGE = 4 * 2**20
"""Bytes that are given back at once all the same: they get large pages from NumPy."""

RETRIES = 2
"""Times a task is tried again on a cluster after an error (a passing read error)."""


@functools.cache
def _blas() -> list[threadpoolctl.LibController]:
    """Find the BLAS libraries of this process, once: looking for them takes ms."""
    controller = threadpoolctl.ThreadpoolController().select(user_api="blas")
    libraries: list[threadpoolctl.LibController] = controller.lib_controllers
    return libraries


def _free_control() -> None:
    """Let any thread set the limit of OpenBLAS.

    Since threadpoolctl 3.8 the calls of all other threads are silently ignored while
    the thread that called first lives, unless that one left a limit of its own: not so
    where an application holds one, or where ours came first and did not leave last.
    """
    clear = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


class _OneBlasThread(ContextDecorator):
    """A limit of one BLAS thread while any thread of this process is inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[int] = []

    def _recreate_cm(self) -> _OneBlasThread:
        return self

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                _free_control()
                self._before = [library.num_threads for library in _blas()]
                for library in _blas():
                    library.set_num_threads(1)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                _free_control()
                for library, n_threads in zip(_blas(), self._before, strict=True):
                    library.set_num_threads(n_threads)
                _free_control()  # for the limits of threads that are not this one


one_blas_thread = _OneBlasThread()


class Runner:
    """Compute and persist with the scheduler that was found for one input.

    Parameters
    ----------
    get : callable
        A dask scheduler, or the ``get`` method of a ``distributed.Client``.
    """

    def __init__(self, get: Callable[..., Any]) -> None:
        self.get = get
        self.client: Any = get.__self__ if inspect.ismethod(get) else None
        self._most_threads: int | None = None
        self.sent_bytes = 0
        """Bytes that a graph has to carry: weights of features."""

    @classmethod
    def find(cls, array: da.Array, *, in_memory: bool) -> Runner:
        """Find the scheduler for `array`; a cluster gets no array of this process.

        Raises
        ------
        ImportError
            If a process of a cluster has another version of this package, or none.
        """
        get = _scheduler(array)
        if in_memory and inspect.ismethod(get):
            get = dask.base.named_schedulers["threads"]
        runner = cls(get)
        if runner.client:
            _compare_versions(runner.client)
        return runner

    def compute(
        self, *collections: Any, count: Sequence[str] = (), rounds: int = 1
    ) -> tuple[Any, ...]:
        """Compute, and bring the results here; the rest: see `progress.counted`."""
        options = {"retries": RETRIES} if self.client else {}
        told = progress.counted(count, self.client, rounds)
        with self._threads(), self._sending(), told:
            results = dask.base.compute(*collections, scheduler=self.get, **options)
        return tuple(results)

    def write(self, *tasks: Delayed) -> None:
        """Compute tasks that write, of one graph; count what they read and write.

        Threads are a pool of our own, which is waited for: after an error none of them
        still writes to what is being removed.
        """
        if self.get is dask.threaded.get:
            self.limit_threads(self.n_threads)
        stages = tuple(f"hkmeans-{stage}-" for stage in ("sum", "predict", "write"))
        blocks = [key for key in tasks[0].dask if isinstance(key, tuple)]
        count = [str(key) for key in blocks if key[0].startswith(stages)]
        self.compute(*tasks, count=count)

    def hold(
        self,
        tasks: list[Any],
        *,
        handles: bool,
        count: Sequence[str] = (),
        rounds: int = 1,
    ) -> list[Any]:
        """Compute, and leave the results where they are; handles of files come here.

        A handle that a dead worker held would be computed again, with all behind it.
        """
        if handles:
            return list(self.compute(*tasks, count=count, rounds=rounds))
        if self.client:
            from distributed import wait

            with self._sending(), progress.counted(count, self.client, rounds):
                held = self.client.persist(tasks, retries=RETRIES)
                wait(held)  # or what they need could be released before they are known
            return list(held)
        with self._threads(), progress.counted(count, None, rounds):
            return list(dask.base.persist(*tasks, scheduler=self.get))

    @property
    def n_threads(self) -> int:
        """Tasks that run at once in this process."""
        if self.get is not dask.threaded.get:
            return 1
        n_threads: int = dask.config.get("num_workers", None) or CPU_COUNT
        return min(n_threads, self._most_threads or n_threads)

    def limit_threads(self, most: int) -> None:
        """Run at most so many tasks at once in this process."""
        self._most_threads = most

    def workers(self) -> list[tuple[int, int]]:
        """Memory limit (0: none) and threads of each worker that is there now."""
        if not self.client:
            return []
        known = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return [(worker["memory_limit"] or 0, worker["nthreads"]) for worker in known]

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """One BLAS thread, and tiles shared by the threads that dask would use."""
        with one_blas_thread, shared_tiles(self.n_threads), self._few_threads():
            yield

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Let a graph be larger by what it has to carry, before distributed warns."""
        if not self.client or not self.sent_bytes:
            yield
            return
        key = "distributed.admin.large-graph-warning-threshold"
        most = dask.utils.parse_bytes(dask.config.get(key)) + self.sent_bytes
        with dask.config.set({key: most}):
            yield

    @contextmanager
    def _few_threads(self) -> Iterator[None]:
        """Use a pool of our own, where memory wants a smaller one, or tasks write."""
        if self._most_threads is None:
            yield
            return
        with ThreadPoolExecutor(self.n_threads) as pool, dask.config.set(pool=pool):
            yield


def _scheduler(array: da.Array) -> Callable[..., Any]:
    """Find what dask would use, without its import of distributed to look for a client.

    That takes a third of a second; where nobody has imported it there is no client.
    """
    if "distributed" not in sys.modules and not dask.config.get("scheduler", None):
        default: Callable[..., Any] = array.__dask_scheduler__
        return default
    found: Callable[..., Any] = dask.base.get_scheduler(collections=[array])
    return found


def _compare_versions(client: Any) -> None:
    """Refuse the processes of a cluster that have another version of this package."""
    found = client.get_versions(packages=["hkmeans_dask"])
    workers = {f"Worker {name}": known for name, known in found["workers"].items()}
    for name, known in {"The scheduler": found["scheduler"], **workers}.items():
        theirs = known["packages"]["hkmeans_dask"]
        if theirs != VERSION:
            raise ImportError(_mismatch(name, theirs, VERSION))


def _mismatch(name: str, theirs: str | None, ours: str) -> str:
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
    """Call a function for a client of the same version."""
    if wanted != VERSION:
        here = f"Process {os.getpid()} on {socket.gethostname()}"
        raise ImportError(_mismatch(here, VERSION, wanted))
    _keep_freed_pages()
    with at_work():
        result = function(*args)
    progress.done()
    return result


_lazy_call = delayed(_call, pure=False, traverse=False)


def names(tasks: Iterable[Delayed]) -> list[str]:
    """Names of tasks, to be counted."""
    return [str(task.key) for task in tasks]


def task(
    stage: str, function: Callable[..., Any], *args: Any, rank: int = 0
) -> Delayed:
    """Call ``function(*args)`` later, as a task named ``hkmeans-<stage>``.

    dask takes a stage of eight letters that begins with one of a to f for a hash. Of
    tasks that wait for the same it begins with the last by name: the highest `rank`.
    """
    key = f"hkmeans-{stage}-{rank:08x}{uuid.uuid4().hex[8:]}"
    lazy: Delayed = _lazy_call(VERSION, function, *args, dask_key_name=key)
    return lazy


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
    grid = blocks.numblocks
    mapped = da.map_blocks(
        _call_on_block,
        blocks,
        VERSION,
        function,
        *args,
        name=unique(stage),
        dtype=object,
        chunks=((1,) * grid[0], (1,) * grid[1]),
        meta=np.empty((0, 0), object),
    )
    rows = _optimized(mapped).to_delayed(optimize_graph=False)
    return [list(row) for row in rows]


def _optimized(mapped: da.Array) -> da.Array:
    """Fuse reads into tasks, but let these keep their names."""
    keys = list(flatten(mapped.__dask_keys__()))
    graph = dict(mapped.__dask_optimize__(mapped.__dask_graph__(), keys))
    keep_names(graph, keys)
    return da.Array(graph, mapped.name, mapped.chunks, dtype=mapped.dtype)


@one_blas_thread
def _call_on_block(
    block: Any,
    wanted: str,
    function: Callable[..., Any],
    *args: Any,
    block_info: Any = None,
) -> Any:
    start = block_info[0]["array-location"][0][0]
    return _call(wanted, function, block, start, *args)


def peak_memory() -> int:
    """Largest memory that this process has had, in bytes."""
    try:
        import resource  # not on Windows
    except ImportError:
        known = psutil.Process().memory_info()
        return int(getattr(known, "peak_wset", known.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
