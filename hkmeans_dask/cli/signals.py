"""Ctrl-C and SIGTERM on the command line: both raise, wherever the process is."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ALARM = getattr(signal, "SIGALRM", None)
"""Of the system's timer; Windows has none, and what is dropped there is only told."""

SOON = 0.05
"""Seconds after which an interrupt that was dropped is raised again."""


class Terminated(BaseException):
    """SIGTERM, to be handled like Ctrl-C."""


@contextmanager
def terminable() -> Iterator[None]:
    """End cleanly on SIGTERM, where signals come here (not in other threads).

    An interrupt that comes where Python drops it, as in a callback of gc, is repeated.
    """
    if not _in_main_thread():
        yield
        return
    handler, hook = signal.signal(signal.SIGTERM, _terminate), sys.unraisablehook

    def again(lost: Any) -> None:
        interrupt = issubclass(lost.exc_type, (KeyboardInterrupt, Terminated))
        if interrupt and ALARM is not None and _in_main_thread():
            _raise_soon(lost.exc_type)
        else:
            hook(lost)

    sys.unraisablehook = again
    try:
        with _alarm_put_back():
            yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _alarm_put_back() -> Iterator[None]:
    """Leave the alarm as it was, and none that is still to come."""
    if ALARM is None:
        yield
        return
    before = signal.getsignal(ALARM)
    try:
        yield
    finally:
        if signal.getsignal(ALARM) is not before:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(ALARM, before or signal.SIG_DFL)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _terminate(*_: object) -> None:
    raise Terminated


def _raise_soon(kind: type[BaseException]) -> None:
    """Raise here by a timer of the system, which also wakes a thread that sleeps.

    A thread that sends a signal could not: it sends when this one lets it run, which
    may be just before the call that sleeps.
    """

    def ring(*_: object) -> None:
        raise kind

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SOON)
