"""Fits inside tasks of dask end, however few threads there are."""

import dask.array as da
import numpy as np
import pytest
from distributed import Client, get_client, worker_client

from hkmeans_dask import HierarchicalKMeans
from tests.conftest import local_cluster

X = np.random.default_rng(0).normal(size=(400, 6))


def fit_here(seed):
    """Fit a dask array with the cluster that this task runs on."""
    get_client()
    blocks = da.from_array(X + seed, (100, 6))
    return np.asarray(HierarchicalKMeans(9).fit(blocks).labels_)


def fit_as_client(seed):
    with worker_client():
        return fit_here(seed)


def fit_with_other_client(seed):
    with Client(get_client().scheduler.address, set_as_default=False) as client:
        with client.as_current():
            return fit_here(seed)


@pytest.fixture(scope="module")
def one_thread():
    """Start one worker of one thread."""
    with local_cluster(1) as cluster:
        yield cluster


@pytest.mark.timeout(100)
@pytest.mark.parametrize("work", [fit_here, fit_as_client, fit_with_other_client])
def test_fits_inside_tasks_end(one_thread, work):
    with Client(one_thread) as client:
        found = client.gather(client.map(work, range(3), pure=False))
    for seed, labels in enumerate(found):
        expected = HierarchicalKMeans(9).fit(da.from_array(X + seed, (100, 6)))
        assert np.array_equal(labels, np.asarray(expected.labels_))
