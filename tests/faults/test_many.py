"""Two hundred fits in one process, and on one cluster, leave all where it was."""

import gc
import threading
import time

import dask
import dask.array as da
import numpy as np
import psutil
import pytest
from distributed import Client

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.workspace import temporary
from tests.conftest import local_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MANY, FIRST = 200, 20
GROWTH = 24 * 2**20
"""Bytes that an allocator may keep after all of them; a fit holds 160 kB of X."""

RECORDS = 100 * 2**20
"""What distributed may keep of them in its records, as of any other computations."""

X = np.random.default_rng(0).normal(size=(2000, 20)).astype("f4")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Let labels go to files of temporary folders; give their parent."""
    monkeypatch.setattr("hkmeans_dask.workspace.places.LABEL_BYTES", 4)
    with dask.config.set(temporary_directory=str(tmp_path)):
        yield tmp_path
    temporary.remove_left()


def fit(number):
    values = da.from_array(X + number, (500, 20))
    model = HierarchicalKMeans(20).fit(values)
    model.transform(values).compute()
    model.labels_.compute()


def held():
    """Count threads, descriptors and files, and give the bytes in use."""
    gc.collect()
    process = psutil.Process()
    counted = {"threads": threading.active_count(), "descriptors": process.num_fds()}
    return counted, process.memory_info().rss


def folders(parent):
    """Count the temporary folders."""
    return {"folders": len(list(parent.glob("hkmeans-*")))}


def of_cluster(scheduler):
    """Count what a scheduler keeps for its clients."""
    ours = [name for name in scheduler._broker._topics if name.startswith("hkmeans")]
    return {
        "topics": len(ours),
        "plugins": len(scheduler.plugins),
        "extensions": len(scheduler.extensions),
        "clients": len(scheduler.clients),
        "tasks": len(scheduler.tasks),
        "handlers": len(scheduler.stream_handlers),
    }


def grown(count, most):
    """Give what is more than at most, once what is released has gone.

    A scheduler hears of it later.
    """
    deadline = time.monotonic() + 10
    while (found := more(count(), most)) and time.monotonic() < deadline:
        gc.collect()
        temporary.remove_left()
        time.sleep(0.05)
    return found


def more(found, most):
    return {name: n for name, n in found.items() if n > most[name]}


def many(fit, count, growth=GROWTH):
    for number in range(FIRST):
        fit(number)
    before, bytes_before = held()
    counted = count()
    for number in range(MANY):
        fit(number)
    assert not grown(count, counted)
    before["descriptors"] += 2
    assert not grown(lambda: held()[0], before)
    assert held()[1] - bytes_before < growth


def test_many_fits_in_one_process(folder):
    many(fit, lambda: folders(folder))
    assert not grown(lambda: folders(folder), {"folders": 0})


def test_many_fits_on_one_cluster(folder):
    with local_cluster(2, processes=False) as cluster, Client(cluster):
        many(fit, lambda: of_cluster(cluster.scheduler), RECORDS)
    assert not grown(lambda: folders(folder), {"folders": 0})
