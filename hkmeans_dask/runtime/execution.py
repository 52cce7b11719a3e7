"""Which scheduler runs this, and how: versions, retries, threads, what is held.

The scheduler is found the way dask finds it: ``dask.config`` or a ``with
dask.config.set(scheduler=...)``, then the active ``Client``, then the collection's
default, threads in this process. What is in memory here is computed here.

Another version of this package may compute other bits. A cluster's processes are asked
for theirs before the first task, and every task carries the client's version, for
workers that come later. One without the package cannot load a task and leaves its
cluster. (dask itself warns of other versions of dask, NumPy and Python.)
"""

from __future__ import annotations

import inspect
import os
import sys
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import dask
import dask.array as da
import dask.base
import dask.threaded
import dask.utils
import psutil
from dask.system import CPU_COUNT

from hkmeans_dask.compat import forget_pools
from hkmeans_dask.kmeans import crew
from hkmeans_dask.kmeans.crew import shared_tiles
from hkmeans_dask.runtime import progress
from hkmeans_dask.runtime.blas import one_blas_thread
from hkmeans_dask.runtime.tasks import VERSION, import_all, mismatch
from hkmeans_dask.runtime.watching import watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dask.delayed import Delayed


if hasattr(os, "register_at_fork"):  # threads that hold locks are not in a fork
    for begin_anew in (forget_pools, one_blas_thread.begin_anew, crew.begin_anew):
        os.register_at_fork(after_in_child=begin_anew)

_PROCESSES = dask.base.named_schedulers["processes"]

RETRIES = 2
"""Times a task is tried again on a cluster after an error (a passing read error)."""


WARNED = 6
"""Calls from `fit` to where it prepares who computes: a warning is of its caller."""

_prepared: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""By client the workers that were told to import what tasks need."""

TASK_BYTES = 512
"""Bytes of a graph for each task that reads a block, at most (some 200 measured)."""


class Runner:
    """Compute and persist with the scheduler that was found for one input.

    Parameters
    ----------
    get : callable
        A dask scheduler, or the ``get`` method of a ``distributed.Client``.
    """

    def __init__(self, get: Callable[..., Any]) -> None:
        self.get = get
        owner = get.__self__ if inspect.ismethod(get) else None
        self.client: Any = owner if hasattr(owner, "scheduler_info") else None
        self._most_threads: int | None = None
        self._imports: list[Any] = []
        """Futures, to be forgotten with this: workers may be gone before they begin."""
        self._held: list[ref[Any]] = []
        """Futures of what is held on a cluster; several may be of one key."""
        self.sent_bytes = 0
        """Bytes that a graph has to carry: tasks of blocks, weights of features."""

    @classmethod
    def find(cls, array: da.Array, *, in_memory: bool) -> Runner:
        """Find the scheduler for `array`; a cluster gets no array of this process.

        Raises
        ------
        ImportError
            If a process of a cluster has another version of this package, or none.
        """
        runner = cls.seen(array, in_memory=in_memory)
        runner.prepare()
        return runner

    @classmethod
    def seen(cls, array: da.Array, *, in_memory: bool) -> Runner:
        """Find the scheduler as it is now, for what is computed later; ask nobody."""
        get = _scheduler(array)
        if in_memory and (inspect.ismethod(get) or get is _PROCESSES):
            get = dask.base.named_schedulers["threads"]
        return cls(get)

    def prepare(self) -> None:
        """Do what `find` does before something is computed here."""
        if self.get is _PROCESSES:
            warnings.warn(
                "dask's scheduler 'processes' takes all that one task gives to another "
                "through this process, many times as long as threads take. Use "
                "scheduler='threads', or a distributed.Client.",
                stacklevel=WARNED,
            )
        if self.client:
            _compare_versions(self.client)
            self.import_early()

    def import_early(self) -> None:
        """Let workers import what tasks need, all at once, while a fit is prepared."""
        known = _prepared.setdefault(self.client, set())
        found = self.client.scheduler_info(n_workers=-1)["workers"]
        for address in found.keys() - known:
            known.add(address)
            key = f"hkmeans-import-{uuid.uuid4().hex}"
            where = {"workers": [address], "key": key, "retries": RETRIES}
            self._imports.append(self.client.submit(import_all, **where))

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
        self.sent_bytes = TASK_BYTES * len(tasks[0].dask)
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
            from distributed import futures_of, wait

            with self._sending(), progress.counted(count, self.client, rounds):
                held = self.client.persist(tasks, retries=RETRIES)
                self._held += map(ref, futures_of(held))
                with _thread_left():
                    wait(held)  # or what they need could be released before it is known
            return list(held)
        with self._threads(), progress.counted(count, None, rounds):
            return list(dask.base.persist(*tasks, scheduler=self.get))

    def let_go(self) -> None:
        """Let a cluster forget what is held: a traceback may refer to it for long."""
        known = (known() for known in self._held)
        for future in (*self._imports, *known):
            if future is not None:
                future.release()

    @property
    def computes_here(self) -> bool:
        """Whether tasks run in this process, and share its memory."""
        return not self.client and self.get is not _PROCESSES

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

    def all_say(self, question: Callable[[], bool]) -> bool:
        """Ask all workers that are there now; those that fail to answer say no."""
        found = self.client.run(question, on_error="return")
        return all(answer is True for answer in found.values())

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """One BLAS thread, and tiles shared by the threads that dask would use."""
        with one_blas_thread, shared_tiles(self.n_threads), self._few_threads():
            yield

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Let a graph be larger by what it has to carry; say if nobody works at it."""
        with watched(self.client), self._large_graphs():
            yield

    @contextmanager
    def _large_graphs(self) -> Iterator[None]:
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


@contextmanager
def _thread_left() -> Iterator[None]:
    """Leave the thread of a task to others, as dask does while it waits inside one.

    Else a fit inside a task would wait for ever for the thread that it holds.
    """
    from distributed import rejoin, secede

    left = False
    with suppress(ValueError, AttributeError, KeyError):  # in no task, or left already
        secede()
        left = True
    try:
        yield
    finally:
        if left:
            rejoin()


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
            raise ImportError(mismatch(name, theirs, VERSION))


def peak_memory() -> int:
    """Largest memory that this process has had, in bytes."""
    try:
        import resource  # not on Windows
    except ImportError:
        known = psutil.Process().memory_info()
        return int(getattr(known, "peak_wset", known.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
