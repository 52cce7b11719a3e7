"""One BLAS thread, while any thread of this process multiplies matrices.

BLAS rounds by its number of threads, so every task that multiplies matrices runs with
one. `one_blas_thread` counts, under a lock, the tasks of this process that need it:
the first sets the limit and the last restores the old one. It therefore holds in
threads, processes and workers of any kind, also when the user computes a lazy result
long after we returned it.
"""

from __future__ import annotations

import functools
import threading
from contextlib import ContextDecorator

import threadpoolctl


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
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget who is inside: after a fork those threads are not here."""
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
