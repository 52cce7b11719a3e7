"""Ctrl-C and SIGTERM on the command line: both raise, wherever the process is."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminated(BaseException):
    """SIGTERM, to be handled like Ctrl-C."""


@contextmanager
def terminable() -> Iterator[None]:
    """End cleanly on SIGTERM, where signals come here (not in other threads).

    An interrupt that comes where Python drops it, as in a callback of gc, is repeated.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGTERM, _terminate)
    hook = sys.unraisablehook

    def again(lost: Any) -> None:
        if issubclass(lost.exc_type, (KeyboardInterrupt, Terminated)):
            _interrupt_soon(lost.exc_type)
        else:
            hook(lost)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, handler)


def _terminate(*_: object) -> None:
    raise Terminated


def _interrupt_soon(kind: type[BaseException]) -> None:
    """Send the signal of an exception, from another thread."""
    number = signal.SIGTERM if kind is Terminated else signal.SIGINT
    main = threading.main_thread().ident
    threading.Timer(0.05, signal.pthread_kill, (main, number)).start()
