"""Fixtures that several test modules share."""

from collections import Counter
from contextlib import contextmanager

import pytest
from distributed import Client, LocalCluster
from hypothesis import settings
from threadpoolctl import threadpool_limits
from zarr.storage import MemoryStore

from hkmeans_dask.remote import patience
from tests.processes import Whole, bits, commands, fit, run, write_input
from tests.strategies import Wrapped

settings.register_profile("no clock", deadline=None, derandomize=True)
settings.load_profile("no clock")


def pytest_terminal_summary(terminalreporter):
    """Write what tests noted: jobs and requests, for who reads the log."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for line in (line for name, line in report.user_properties):
                    terminalreporter.write_line(f"{report.nodeid}: {line}")


@contextmanager
def local_cluster(n_workers, threads_per_worker=1, *, processes=True, **options):
    """Give a cluster that listens on this machine only."""
    with LocalCluster(
        n_workers=n_workers,
        threads_per_worker=threads_per_worker,
        processes=processes,
        host="127.0.0.1" if processes else None,
        dashboard_address="127.0.0.1:0",
        **options,
    ) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster_of_two():
    """Start two one-thread processes once; the tests that want them connect."""
    with local_cluster(2) as cluster:
        yield cluster


@pytest.fixture
def two_processes(cluster_of_two):
    """Make two one-thread processes what dask computes with, in one test."""
    with Client(cluster_of_two) as client:
        yield client


@pytest.fixture
def counting_store():
    """Make a store in memory that counts how often each of its chunks is read."""
    counted = Counter()

    class CountingStore(Wrapped):
        async def get(self, key, prototype, byte_range=None):
            if "c/" in key:
                counted[key] += 1
            return await super().get(key, prototype, byte_range)

    return CountingStore(MemoryStore()), counted


@pytest.fixture
def content_is_known(monkeypatch):
    """Take dask arrays that count their reads for such whose content is known."""
    monkeypatch.setattr("hkmeans_dask.fitting.is_known", lambda X: True)


@pytest.fixture
def one_openmp_thread():
    """Let nilearn's k-means not spin for cores that other processes hold: 50 x."""
    with threadpool_limits(1, user_api="openmp"):
        yield


@pytest.fixture(scope="module")
def server():
    """Start an S3 server, which is in the environment of one module's tests."""
    from tests import s3  # what it needs may not be installed

    with s3.running() as server:
        yield server


@pytest.fixture
def bucket(server):
    """Make a bucket; after the test the server answers as it should."""
    yield server.bucket()
    server.heal()


@pytest.fixture
def short_waits(monkeypatch):
    """Try again soon what a store did not do."""
    monkeypatch.setattr(patience, "WAITS", (0.01,) * 5)


@pytest.fixture
def start(tmp_path_factory):
    """Start commands in processes of their own."""
    with commands(tmp_path_factory.mktemp("logs")) as start:
        yield start


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Write an array that takes a second to cluster."""
    return write_input(tmp_path_factory.mktemp("source") / "x")


@pytest.fixture(scope="session")
def whole(source, tmp_path_factory):
    """Fit it without interruption: what tests compare with."""
    folder = tmp_path_factory.mktemp("whole")
    with commands(folder) as start:
        command = run(start, *fit(source, folder))
        yield Whole(command, bits(folder / "model"), folder / "model")
