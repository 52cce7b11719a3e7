"""Lines that say that nobody works, and when somebody does."""

import logging
import threading
from itertools import pairwise

import dask.array as da
import numpy as np
import pytest
from distributed import Client

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.runtime import watching
from tests.conftest import local_cluster

X = np.random.default_rng(0).normal(size=(3000, 8))


@pytest.fixture
def said(monkeypatch):
    """Note what is said, and do something when the first line comes."""
    monkeypatch.setattr(watching, "SECONDS", 0.2)
    lines, calls = [], []

    class Notes(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())
            if calls:
                calls.pop()()

    handler = Notes(logging.INFO)
    watching.logger.addHandler(handler)
    yield lines, calls
    watching.logger.removeHandler(handler)


def about_workers(lines):
    return [line for line in lines if "workers" in line]


def test_a_fit_without_workers_says_so_and_goes_on(said):
    lines, calls = said
    with local_cluster(0) as cluster, Client(cluster):
        scaled = threading.Event()

        def scale():
            cluster.scale(1)
            scaled.set()

        calls.append(threading.Thread(target=scale, daemon=True).start)
        model = HierarchicalKMeans(20).fit(da.from_array(X, chunks=(250, 8)))
        assert scaled.is_set()
    assert model.n_clusters_ == 20
    assert about_workers(lines) == [
        "there are no workers yet; waiting for some",
        "workers are there (1); the work goes on",
    ]


def test_workers_that_are_lost_are_told_of_once(caplog):
    caplog.set_level(logging.INFO, "hkmeans_dask")
    seen = [None, {"a", "b"}, {"a", "b"}, {"a", "c"}, set(), set(), {"d"}]
    for before, now in pairwise(seen):
        watching._tell(before, now)
    assert [record.getMessage() for record in caplog.records] == [
        "workers gone: 1, there: 2; the work goes on",
        "all workers are gone; waiting for some",
        "workers are there (1); the work goes on",
    ]
