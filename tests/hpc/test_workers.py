"""Workers that SLURM runs and ends: that costs time, but not a bit."""

import os
import signal

import pytest
from dask_jobqueue import SLURMCluster
from distributed import Client

from tests.hpc import slurm
from tests.hpc.waiting import at_it, first_at, until
from tests.processes import PATIENCE, PHASES, bits, fit

pytestmark = pytest.mark.hpc


@pytest.fixture(scope="module")
def cluster(job_name, tmp_path_factory):
    """Let SLURM run two workers, and others when they end."""
    folder = tmp_path_factory.mktemp("slurm")
    with SLURMCluster(
        cores=1,
        memory="1GB",
        walltime="00:10:00",
        interface="lo",
        log_directory=str(folder / "logs"),
        local_directory=str(folder),
        job_extra_directives=[f"--job-name={job_name}"],
        scheduler_options={"dashboard_address": "127.0.0.1:0"},
    ) as cluster:
        cluster.adapt(minimum_jobs=2, maximum_jobs=2, interval="100ms")
        yield cluster


@pytest.fixture
def pids(cluster):
    """Wait for two workers; give their processes by address."""
    with Client(cluster) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        yield client.run(os.getpid)


def stopped_in(stage, cluster, pids):
    """Stop the process of a worker that is at a task of a stage."""
    worker = first_at(cluster.scheduler, stage)
    if worker:
        os.kill(pids[worker.address], signal.SIGSTOP)
        if at_it(worker, stage):
            return worker
        os.kill(pids[worker.address], signal.SIGCONT)
    return None


HOW = {"scancel": (), "kill": ("--signal=KILL", "--full")}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("stage", PHASES)
def test_a_worker_that_scancel_ends_costs_no_bit(
    stage, how, cluster, pids, start, source, whole, tmp_path, note
):
    command = start(*fit(source, tmp_path, "--scheduler", cluster.scheduler_address))
    worker = command.until(lambda: stopped_in(stage, cluster, pids))
    job = cluster.workers[worker.name].job_id
    slurm.asked("scancel", *HOW[how], job)
    assert command.wait() == 0, command.said()
    assert bits(tmp_path / "model") == whole.bits
    ended = until(lambda: (now := slurm.state(job)) != "RUNNING" and now)
    note(f"job {job} {ended} in {stage}; {command.complaints()}")
