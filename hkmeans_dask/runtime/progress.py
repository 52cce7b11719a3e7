"""What a terminal, a notebook or a log shows of phases while they run.

One bar a phase, where stderr is a terminal or a notebook; elsewhere a line at its end::

    shown(verbose)              around all that is to be seen
      phase(name)               times a phase and says so
        counted(names, client)  moves its bar as tasks with these names are done

Tasks are the same whether anybody watches or not. Local schedulers call back when a
task is done. Tasks on a cluster say so themselves, where an annotation asks them to; so
do the mini-batches inside a task. They say it to one topic for all clients, as
schedulers never forget a topic, and each client knows the names of its own.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from hkmeans_dask.compat import task_annotations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

logger = logging.getLogger("hkmeans_dask")

UNITS = {"coarse": "mini-batches", "partition": "parts", "fine": "big clusters"}
"""What phases count that do not count blocks."""

FORMAT = (
    "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}, "
    "{elapsed} elapsed, {remaining} left{postfix}"
)

PROGRESS = "hkmeans_progress"
"""The topic that those who watch a cluster listen to, and an annotation: be heard."""

SECONDS = 0.2
"""Between two messages of one task."""

PATIENCE = 0.5
"""Seconds that what is most often done at once may take unsaid."""

_live: ContextVar[bool] = ContextVar("live", default=False)
_bar: ContextVar[_Bar | None] = ContextVar("bar", default=None)
_waiting: dict[str, _Bar] = {}
"""The bars that what has a name moves."""
_counting: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""How much each client that listens counts at this time."""
_lock = threading.Lock()


@contextmanager
def shown(verbose: int) -> Iterator[None]:
    """Show phases from `verbose` 1, what they decide from 2; bars or lines, on stderr.

    Where the application has set up logging for this package, lines are left to that.
    Inside another `shown` that one decides.
    """
    if not verbose or _live.get():
        yield
        return
    live = _can_show_bars()
    reset = _live.set(live)
    try:
        with _lines(logging.INFO if verbose == 1 else logging.DEBUG, live):
            yield
    finally:
        _live.reset(reset)


def _can_show_bars() -> bool:
    """Whether stderr is a notebook (whose stream says it is none), or a terminal.

    Some that no one looks at have no width.
    """
    if type(sys.stderr).__module__.startswith("ipykernel."):
        return True
    try:
        terminal = sys.stderr.isatty()
        return terminal and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (AttributeError, OSError, ValueError):  # a stream of another kind, or none
        return False


@contextmanager
def _lines(level: int, live: bool) -> Iterator[None]:
    """Write log lines to stderr, but none that a bar tells."""
    if logger.hasHandlers():
        yield
        return
    handler, before = _Lines(), logger.level
    handler.setFormatter(logging.Formatter("hkmeans: %(message)s"))
    handler.addFilter(lambda record: not (live and getattr(record, "on_bar", False)))
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Lines(logging.Handler):
    """Log lines on stderr, above the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        write(self.format(record))


def write(line: str) -> None:
    """Write a line to stderr, above a bar if there is one."""
    if _live.get():
        from tqdm.auto import tqdm

        tqdm.write(line, file=sys.stderr)
    elif sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def said_if_slow(text: str, *args: object) -> Iterator[None]:
    """Say what goes on inside, if it takes longer than one waits without asking."""
    say = copy_context().run
    timer = threading.Timer(PATIENCE, say, (logger.info, f"{text} ...", *args))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def phase(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Time a phase, and show it."""
    logger.debug("%s ...", name, extra={"on_bar": True})
    start = time.perf_counter()
    bar = _Bar(name) if _live.get() else None
    reset = _bar.set(bar)
    try:
        yield
        if bar:
            bar.complete()
    finally:
        _bar.reset(reset)
        if bar:
            bar.close()
    seconds[name] = time.perf_counter() - start
    on_bar = bar is not None and bar.began
    logger.info("%-9s %7.2f s", name, seconds[name], extra={"on_bar": on_bar})


@contextmanager
def counted(names: Sequence[str], client: Any, rounds: int = 1) -> Iterator[None]:
    """Move the bar of the phase, if it has one, when what has these names is done.

    Parameters
    ----------
    names : sequence of str
        Keys of tasks, as text, or a name that `batches` tells of.
    client : distributed.Client or None
        Who computes inside.
    rounds : int, default=1
        As many follow, up to so often, with this one.
    """
    bar = _bar.get()
    if bar is None or not names:
        yield
        return
    bar.expect(names, rounds)
    _waiting.update(dict.fromkeys(names, bar))
    try:
        with _heard(client) if client else _called_back():
            yield
    finally:
        for name in names:
            _waiting.pop(name, None)


def _called_back() -> Any:
    from dask.callbacks import Callback

    return Callback(posttask=lambda key, *_: _told(str(key)))


@contextmanager
def _heard(client: Any) -> Iterator[None]:
    """Listen, and let tasks know it."""
    import dask

    with _lock:
        _counting[client] = _counting.get(client, 0) + 1
        if _counting[client] == 1:
            client.subscribe_topic(PROGRESS, lambda event: _told(*event[1]))
    try:
        with dask.annotate(**{PROGRESS: True}):  # type: ignore[attr-defined]
            yield
    finally:
        with _lock:
            _counting[client] -= 1
            if not _counting[client] and client.status == "running":
                client.unsubscribe_topic(PROGRESS)


def _told(name: str, *batch: Any) -> None:
    bar = _waiting.get(name)
    if bar:
        bar.move(name, *batch)


class _Bar:
    """The bar of a phase, which appears when it is known what it counts."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._unit = UNITS.get(name, "blocks")
        self._missing: set[str] = set()
        self._lock = threading.Lock()
        self._tqdm: Any = None
        self._end = threading.Event()

    @property
    def began(self) -> bool:
        """Whether it appeared."""
        return self._tqdm is not None

    def expect(self, names: Sequence[str], rounds: int) -> None:
        """Count these too; how many mini-batches there are they will tell."""
        with self._lock:
            self._missing.update(names)
            total = self._expected + (rounds - 1) * len(names)
            if self.began:
                self._resize(total)
            else:
                self._begin(None if self._unit == "mini-batches" else total)

    @property
    def _expected(self) -> int:
        return (self._tqdm.n if self.began else 0) + len(self._missing)

    def _begin(self, total: int | None) -> None:
        from tqdm.auto import tqdm

        self._tqdm = tqdm(
            total=total,
            desc=f"{self._name:<9}",
            unit=self._unit,
            bar_format=FORMAT,
            miniters=1,
            dynamic_ncols=True,
        )
        threading.Thread(target=self._tick, daemon=True).start()

    def _tick(self) -> None:
        """Let time go on where tasks take long."""
        while not self._end.wait(1):
            with self._lock:
                if not self._end.is_set():
                    self._tqdm.refresh()

    def _resize(self, total: int) -> None:
        """Set the total; widgets learn of it from `reset` only."""
        if total != self._tqdm.total:
            n, start = self._tqdm.n, self._tqdm.start_t
            self._tqdm.reset(total)
            self._tqdm.n, self._tqdm.start_t = n, start

    def move(self, name: str, *batch: Any) -> None:
        """Count one more, or the mini-batches that a task has told of."""
        with self._lock:
            if batch:
                n, most, inertia = batch
                self._resize(most)
                self._tqdm.set_postfix_str(f"mean inertia {inertia:.4g}", refresh=False)
                self._tqdm.update(n - self._tqdm.n)
            elif name in self._missing:
                self._missing.discard(name)
                self._tqdm.update(1)

    def complete(self) -> None:
        """Show all as done: of a task that is done the message may be on its way."""
        if self.began and self._unit != "mini-batches":
            with self._lock:
                self._resize(self._expected)
                self._tqdm.update(len(self._missing))

    def close(self) -> None:
        """Leave the bar as it is."""
        with self._lock:
            self._end.set()
            if self.began:
                self._tqdm.close()


def done() -> None:
    """Say, on a worker, that the task at hand is done, if a client listens."""
    if worker := _heard_worker():
        worker.log_event(PROGRESS, (str(worker.get_current_task()),))


def _heard_worker() -> Any:
    """Find the worker of the task at hand, if a client listens; else None."""
    worker, annotations = task_annotations() or (None, {})
    return worker if PROGRESS in annotations else None


@contextmanager
def batches(name: str, most: int) -> Iterator[Callable[[float], None] | None]:
    """Give what tells of mini-batches from inside a task; None if nobody listens.

    Parameters
    ----------
    name : str
        That `counted` was given.
    most : int
        Mini-batches, at most.
    """
    send: Callable[..., None] | None = None
    if name in _waiting:
        send = functools.partial(_told, name)
    elif worker := _heard_worker():
        send = lambda *batch: worker.log_event(PROGRESS, (name, *batch))  # noqa: E731
    if send is None:
        yield None
        return
    told = _Batches(send, most)
    yield told
    told.end()


class _Batches:
    """Counts mini-batches, and tells of them a few times a second."""

    def __init__(self, send: Callable[..., None], most: int) -> None:
        self._send, self._most = send, most
        self._n, self._inertia, self._last = 0, 0.0, 0.0

    def __call__(self, inertia: float) -> None:
        """Count a mini-batch of this mean inertia."""
        self._n += 1
        self._inertia = float(inertia)
        if time.monotonic() - self._last > SECONDS:
            self._last = time.monotonic()
            self._send(self._n, max(self._n, self._most), self._inertia)

    def end(self) -> None:
        """Tell how many there were."""
        self._send(self._n, self._n, self._inertia)
