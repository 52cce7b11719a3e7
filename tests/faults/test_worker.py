"""A worker that is killed, in any phase: that costs a retry, but not a bit."""

import importlib
import logging
import os
import signal
import threading
import time
from contextlib import contextmanager

import dask
import psutil
import pytest
import zarr
from distributed import Client, LocalCluster

from hkmeans_dask import HierarchicalKMeans
from tests.processes import LEFT, PHASES, SIZES, bits, left

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(whole):
    """Start two processes that may die; forked from the server, they start at once."""
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        yield cluster


@pytest.fixture
def scaled_down(monkeypatch):
    """Give a small array many blocks, parts and files, as a large one has."""
    for name, value in SIZES.items():
        module, _, constant = f"hkmeans_dask.{name}".rpartition(".")
        monkeypatch.setattr(importlib.import_module(module), constant, value)


def kill_one_in(cluster, phase, killed):
    """Kill the first worker that is given a task of a phase."""
    while not killed:
        for state in list(cluster.scheduler.workers.values()):
            if any(f"hkmeans-{phase}" in str(task.key) for task in state.processing):
                (nanny,) = (
                    each
                    for each in cluster.workers.values()
                    if each.worker_address == state.address
                )
                time.sleep(0.02)  # now it is at it
                killed.append(nanny.pid)
                os.kill(nanny.pid, signal.SIGKILL)
                break
        time.sleep(0.001)


@contextmanager
def worker_killed_in(cluster, phase):
    """Kill a worker in a phase of what runs inside; give the list that names it."""
    killed = []
    killer = threading.Thread(target=kill_one_in, args=(cluster, phase, killed))
    killer.start()
    try:
        yield killed
    finally:
        killed.append(None)
        killer.join()


@pytest.mark.parametrize("durable", [True, False], ids=["files", "memory"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_worker_costs_no_bit(
    phase, durable, cluster, scaled_down, source, whole, tmp_path
):
    """All results are in files, or in the memory of the workers."""
    work_dir = tmp_path / "work" if durable else None
    model = HierarchicalKMeans(400, work_dir=work_dir)
    with Client(cluster) as client, worker_killed_in(cluster, phase) as killed:
        client.wait_for_workers(2)
        model.fit(zarr.open_array(source, mode="r"))
    assert not psutil.pid_exists(killed[0])
    model.to_zarr(tmp_path / "model")
    assert bits(tmp_path / "model") == whole.bits
    if durable:
        assert left(work_dir) == LEFT
