"""Signals raise in the main thread, also where Python would drop them."""

import gc
import signal
import sys
import time

import pytest

from hkmeans_dask.signals import Terminated, terminable


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_python_drops_comes_again(kind):
    def collected(*_):
        gc.callbacks.remove(collected)
        signal.raise_signal(kind)  # its exception cannot leave a callback

    def collect_and_wait():
        with terminable():
            gc.callbacks.append(collected)  # not sooner: gc comes by itself, too
            gc.collect()
            time.sleep(10)

    stopped = KeyboardInterrupt if kind == signal.SIGINT else Terminated
    with pytest.raises(stopped):
        collect_and_wait()


def test_other_dropped_exceptions_are_told_as_before(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    class Broken:
        def __del__(self):
            raise ValueError("dropped")

    with terminable():
        Broken()
    assert [lost.exc_type for lost in told] == [ValueError]
    assert sys.unraisablehook == told.append


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    with terminable():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before
