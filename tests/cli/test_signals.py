"""Signals raise in the main thread, also where Python would drop them."""

import gc
import signal
import sys
import threading
import time

import pytest

from hkmeans_dask.cli.signals import SOON, Terminated, terminable


@pytest.fixture
def heard():
    """Hear Ctrl-C, which is ignored where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_python_drops_comes_again(kind):
    # Where it comes while another callback of gc runs, that one would be cut short.
    others = gc.callbacks.copy()
    gc.callbacks.clear()

    def collected(*_):
        gc.callbacks.remove(collected)
        signal.raise_signal(kind)  # its exception cannot leave a callback

    def collect_and_wait():
        with terminable():
            gc.callbacks.append(collected)  # not sooner: gc comes by itself, too
            gc.collect()
            time.sleep(10)

    stopped = KeyboardInterrupt if kind == signal.SIGINT else Terminated
    try:
        with pytest.raises(stopped):
            collect_and_wait()
    finally:
        gc.callbacks.extend(others)


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


def handlers():
    kinds = (signal.SIGTERM, signal.SIGALRM)
    return [sys.unraisablehook, *map(signal.getsignal, kinds)]


def test_handlers_are_put_back():
    before = handlers()
    with terminable():
        assert handlers()[:2] != before[:2]
    assert handlers() == before


def test_nothing_is_raised_after_the_end():
    class Dropping:
        def __del__(self):
            raise Terminated

    before = handlers()
    with terminable():
        Dropping()
        Dropping()
        assert handlers() != before
    assert handlers() == before
    time.sleep(2 * SOON)


def test_what_another_thread_drops_is_told():
    class Dropping:
        def __del__(self):
            raise KeyboardInterrupt

    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", told.append)
        with terminable():
            thread = threading.Thread(target=Dropping)
            thread.start()
            thread.join()
    assert [lost.exc_type for lost in told] == [KeyboardInterrupt]
