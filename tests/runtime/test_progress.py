"""What is shown while a fit goes on: bars, lines, or nothing."""

import fcntl
import io
import logging
import os
import pty
import re
import struct
import sys
import termios
import threading
import time
from contextlib import contextmanager, suppress
from typing import ClassVar

import dask.array as da
import numpy as np
import pytest
from distributed import Client

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.runtime import progress
from hkmeans_dask.runtime.execution import Runner
from hkmeans_dask.stages import label
from hkmeans_dask.storage import outputs
from tests.processes import PHASES, commands, run

X = np.random.default_rng(0).normal(size=(6000, 8)).astype("f4")
BLOCKS = 12
REFINED = (*PHASES[:4], "rows", "refine", "label")


def lazy():
    return da.from_array(X, (len(X) // BLOCKS, -1))


def fit_lazily(**options):
    return HierarchicalKMeans(16, refine=2, verbose=1, **options).fit(lazy())


@pytest.fixture
def bars(monkeypatch):
    """Show bars; give what they have counted when their phases are done."""
    counts = {}
    complete = progress._Bar.complete

    def record(bar):
        if bar.began:
            counts[bar._name] = (bar._tqdm.n, bar._tqdm.total)
        complete(bar)

    monkeypatch.setattr(progress, "_can_show_bars", lambda: True)
    monkeypatch.setattr(progress._Bar, "complete", record)
    return counts


def check(counts):
    done, total = counts.pop("coarse")
    assert done == total > 1
    done, most = counts.pop("rows")
    assert 0 < done <= most, "passes over training rows may end early"
    assert list(counts.items()) == [
        ("sample", (BLOCKS, BLOCKS)),
        ("partition", (1, 1)),
        ("fine", (4, 4)),
        ("refine", (2 * BLOCKS, 2 * BLOCKS)),
        ("label", (BLOCKS, BLOCKS)),
    ]


def test_threads_move_the_bars(bars):
    fit_lazily()
    check(bars)


def test_a_cluster_moves_the_bars_and_its_dashboard_names_the_stages(
    bars, two_processes
):
    fit_lazily()
    check(bars)
    prefixes = two_processes.run_on_scheduler(
        lambda dask_scheduler: list(dask_scheduler.task_prefixes)
    )
    assert {f"hkmeans-{stage}" for stage in REFINED} <= set(prefixes)
    assert "hkmeans" not in prefixes


def test_nobody_talks_where_nobody_listens(two_processes):
    before = two_processes.get_events(progress.PROGRESS)
    HierarchicalKMeans(16).fit(lazy())
    assert two_processes.get_events(progress.PROGRESS) == before


def test_clients_that_watched_leave_nothing_on_the_scheduler(bars, cluster_of_two):
    topics = cluster_of_two.scheduler._broker._topics
    for _ in range(3):
        with Client(cluster_of_two):
            fit_lazily()
    ours = {name for name in topics if name.startswith("hkmeans")}
    assert ours == {progress.PROGRESS}
    deadline = time.monotonic() + 10
    while topics[progress.PROGRESS].subscribers:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_clients_that_watch_at_the_same_time_see_their_own(bars, two_processes):
    other = threading.Thread(target=fit_lazily)
    other.start()
    fit_lazily()
    other.join()
    check(bars)
    assert not progress._counting[two_processes]


@pytest.mark.usefixtures("content_is_known")
def test_what_is_there_is_not_counted(bars, tmp_path, monkeypatch):
    monkeypatch.setattr(label, "LABELS_TOGETHER", 2 * len(X) // BLOCKS)
    fit_lazily(work_dir=tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "labels-3.npz").unlink()
    bars.clear()
    fit_lazily(work_dir=tmp_path)
    assert bars == {"label": (2, 2)}


def test_what_is_read_and_written_moves_the_bar(bars, tmp_path, two_processes):
    model = HierarchicalKMeans(16).fit(lazy())
    results = {"transform": model.transform(lazy()), "predict": model.predict(lazy())}
    for name, result in results.items():
        runner = Runner.find(result, in_memory=False)
        with progress.shown(1), progress.phase(name, {}):
            outputs.fill(str(tmp_path / name), result, runner.write)
    assert bars == dict.fromkeys(results, (BLOCKS + 1, BLOCKS + 1))


@contextmanager
def terminal(folder):
    """Give what starts commands whose stderr is a terminal, and what that gets."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    (folder / "0").symlink_to(os.ttyname(theirs))
    got = []

    def read():
        with suppress(OSError):  # when no one has the other end any more
            while data := os.read(ours, 2**16):
                got.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    with commands(folder) as start:
        yield start, got
    os.close(theirs)
    reader.join()
    os.close(ours)


@pytest.mark.parametrize("workers", [(), ("--workers", 2)])
def test_a_terminal_gets_bars(source, tmp_path, workers):
    command = ("fit", source, tmp_path / "m", "-k", 100, "--refine", 1, *workers)
    (tmp_path / "logs").mkdir()
    with terminal(tmp_path / "logs") as (start, got):
        assert start(*command, "--verbose", 2).wait() == 0
    text = b"".join(got).decode().replace("\x1b[A", "").split("\r\n")
    lines = [line.split("\r")[-1] for line in text]
    bars = [line for line in lines if "elapsed" in line]
    assert [bar.split()[0] for bar in bars] == list(REFINED)
    done = r"\w+ +100%\|█+\| (\d+)/\1 [a-z -]+, \d\d:\d\d elapsed, 00:00 left.*"
    assert all(re.fullmatch(done, bar) for bar in bars), bars
    assert re.search(r"/\d+ mini-batches, .*, mean inertia [\d.]+$", bars[1])
    said = [line for line in lines if line.strip() and line not in bars]
    passes = [line for line in said if line.startswith("hkmeans: rows-")]
    assert len(said) == 6 + len(passes) + bool(workers)
    assert all(line.startswith("hkmeans: ") for line in said), said


def test_a_file_gets_lines_or_nothing(source, tmp_path, start):
    fit = ("fit", source, tmp_path / "m", "-k", 400)
    lines = run(start, *fit).said()
    assert [line.split()[:2] for line in lines] == [["hkmeans:", it] for it in PHASES]
    transform = ("transform", source, tmp_path / "m", tmp_path / "o")
    (line,) = run(start, *transform).said()
    assert line.startswith("hkmeans: transform ")
    assert run(start, *fit, "--overwrite", "--quiet").said() == []


@pytest.fixture
def lines(monkeypatch):
    """Collect what is logged, from any thread; `wait` awaits the first line."""

    class Lines(logging.Handler):
        came = threading.Event()
        said: ClassVar[list[tuple[bool, str]]] = []

        def emit(self, record):
            self.said.append((progress._live.get(), record.getMessage()))
            self.came.set()

    handler = Lines()
    monkeypatch.setattr(progress.logger, "handlers", [handler])
    monkeypatch.setattr(progress.logger, "level", logging.INFO)
    yield handler
    handler.said.clear()


def test_what_is_slow_is_said_while_it_goes_on(monkeypatch, lines):
    monkeypatch.setattr(progress, "PATIENCE", 0)
    monkeypatch.setattr(progress, "_can_show_bars", lambda: True)
    with progress.shown(1), progress.said_if_slow("reading %s", "a"):
        assert lines.came.wait(30)
    assert lines.said == [(True, "reading a ...")]


def test_what_is_done_soon_is_not_said(monkeypatch, lines):
    monkeypatch.setattr(progress, "PATIENCE", 3600)
    before = set(threading.enumerate())  # threads of other tests may end meanwhile
    with suppress(KeyError), progress.said_if_slow("reading"):
        (timer,) = timers(set(threading.enumerate()) - before)
        raise KeyError
    timer.join(60)
    assert not timer.is_alive()
    assert lines.said == []


def timers(threads):
    """Give those that wait for a time."""
    return [thread for thread in threads if isinstance(thread, threading.Timer)]


class Tee(io.StringIO):
    """Says that it is a terminal, and has no descriptor."""

    def isatty(self):
        """Lie."""
        return True


class Strange(Tee):
    """Has one that is no terminal's."""

    def fileno(self):
        """Give one that is closed."""
        return -1


@pytest.mark.parametrize("stderr", [Tee(), Strange(), None], ids=type)
def test_what_is_no_terminal_gets_no_bar(monkeypatch, capsys, stderr):
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress.shown(1):
        assert not progress._live.get()
        progress.write("a line")
    assert capsys.readouterr().out == ""
    assert stderr is None or stderr.getvalue() == "a line\n"
