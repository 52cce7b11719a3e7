"""Fixtures that several test modules share."""

from contextlib import contextmanager

import pytest
from distributed import Client, LocalCluster


@contextmanager
def local_cluster(n_workers, threads_per_worker=1, *, processes=True):
    """Give a Client of a cluster that listens on this machine only."""
    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=threads_per_worker,
            processes=processes,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def two_processes():
    """A Client of two one-thread processes; the active one in the whole module."""
    with local_cluster(2) as client:
        yield client
