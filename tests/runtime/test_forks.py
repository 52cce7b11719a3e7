"""Forked processes, whose copy of dask's pool has no threads, come to an end too."""

import multiprocessing
import os

import dask
import dask.array as da
import numpy as np
import pytest

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.kmeans.crew import _crew
from hkmeans_dask.runtime.blas import one_blas_thread

X = np.random.default_rng(0).normal(size=(3000, 8))


def labels(queue, lazy):
    given = da.from_array(X, (500, 8)) if lazy else X
    queue.put(np.asarray(HierarchicalKMeans(9).fit(given).labels_))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.timeout(60)
def test_a_fit_in_a_fork_ends_with_the_same_labels(lazy):
    expected = HierarchicalKMeans(9).fit(da.from_array(X, (500, 8))).labels_.compute()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=labels, args=(queue, lazy), daemon=True)
    child.start()
    found = queue.get(timeout=30)
    child.join(30)
    assert np.array_equal(found, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
@pytest.mark.timeout(60)
def test_a_fork_while_a_thread_holds_our_locks(monkeypatch):
    expected = HierarchicalKMeans(9).fit(X).labels_
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=labels, args=(queue, False), daemon=True)
    with one_blas_thread._lock, _crew._lock:
        child.start()
    found = queue.get(timeout=30)
    child.join(30)
    assert np.array_equal(found, expected)


def test_numpy_is_computed_here_where_dask_would_use_processes():
    called = []

    class Here(np.ndarray):
        def __reduce__(self):
            called.append(self.shape)
            return super().__reduce__()

    given = X.view(Here)
    with dask.config.set(scheduler="processes"):
        model = HierarchicalKMeans(9).fit(given)
        means = model.transform(given)
    assert not called
    assert np.array_equal(model.labels_, HierarchicalKMeans(9).fit(X).labels_)
    assert means.shape == (9, 8)


def test_lazy_x_and_processes_that_share_nothing_get_advice():
    lazy = da.from_array(X, chunks=(len(X) // 2, -1))
    model = HierarchicalKMeans(9)
    with dask.config.set(scheduler="processes"):
        with pytest.warns(UserWarning, match="Use scheduler='threads'") as told:
            model.plan(lazy)
        model.plan(X)
    assert [warning.filename for warning in told] == [__file__]
