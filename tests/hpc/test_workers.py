"""Workers that SLURM runs and ends: that costs time, but not a bit."""

import os
import signal
from contextlib import contextmanager

import dask
import psutil
import pytest
from dask_jobqueue import SLURMCluster
from distributed import Client

from tests.hpc import slurm
from tests.hpc.waiting import at_it, first_at, until
from tests.processes import LEFT, PHASES, bits, fit, left

pytestmark = pytest.mark.hpc


@contextmanager
def jobs(name, folder, *, walltime="00:10:00", extra=()):
    """Let SLURM run workers."""
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}),
        SLURMCluster(
            cores=1,
            memory="1GB",
            walltime=walltime,
            interface="lo",
            log_directory=str(folder / "logs"),
            local_directory=str(folder),
            job_extra_directives=[f"--job-name={name}"],
            worker_extra_args=list(extra),
            scheduler_options={"dashboard_address": "127.0.0.1:0"},
        ) as cluster,
    ):
        yield cluster


def has_two(cluster):
    """Whether there are two workers; let SLURM run what lacks."""
    if len(cluster.scheduler.workers) == 2:
        return True
    cluster.scale(jobs=2)  # dask_jobqueue looks only then what has ended
    return False


@pytest.fixture(scope="module")
def cluster(job_name, tmp_path_factory):
    """Let tests share a cluster."""
    with jobs(job_name, tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def pids(cluster):
    """Wait for two workers; give their processes by address."""
    until(lambda: has_two(cluster))
    with Client(cluster) as client:
        return client.run(os.getpid)


def stopped_in(stage, cluster, pids):
    """Stop the process of a worker that is at a task of a stage."""
    worker = first_at(cluster.scheduler, stage)
    if worker:
        os.kill(pids[worker.address], signal.SIGSTOP)
        if at_it(worker, stage):
            return worker
        os.kill(pids[worker.address], signal.SIGCONT)
    return None


def cancel(job, pid):
    slurm.asked("scancel", job)


def kill(job, pid):
    """End it, and what watches it, as the system does where memory is short."""
    psutil.Process(pid).parent().kill()
    os.kill(pid, signal.SIGKILL)


def ended(job):
    """Wait for the end of a job; give how it ended."""
    going = ("RUNNING", "COMPLETING")
    return until(lambda: (now := slurm.state(job)) not in going and now)


def waited(command, cluster):
    """Wait for the end of a command, while workers that end are followed by others."""
    command.until(lambda: has_two(cluster) and None)
    return command.wait()


@pytest.mark.parametrize("end", [cancel, kill])
@pytest.mark.parametrize("stage", PHASES)
def test_a_worker_that_is_ended_costs_no_bit(
    stage, end, cluster, start, source, whole, tmp_path, note
):
    there = pids(cluster)
    command = start(*fit(source, tmp_path, "--scheduler", cluster.scheduler_address))
    worker = command.until(lambda: stopped_in(stage, cluster, there))
    assert worker, command.said()
    job = cluster.workers[worker.name].job_id
    end(job, there[worker.address])
    assert command.wait() == 0, command.said()
    assert command.complaints() == []
    assert bits(tmp_path / "model") == whole.bits
    note(f"job {job}: {ended(job)} in {stage}")


def test_a_worker_whose_walltime_ends_costs_no_bit(
    job_name, start, source, whole, tmp_path, note
):
    with jobs(job_name, tmp_path, walltime="00:01:00") as cluster:
        there = pids(cluster)
        where = ("--scheduler", cluster.scheduler_address)
        command = start(*fit(source, tmp_path, *where))
        worker = command.until(lambda: stopped_in("fine", cluster, there))
        assert worker, command.said()
        job = cluster.workers[worker.name].job_id
        assert ended(job) == "TIMEOUT"
        assert waited(command, cluster) == 0, command.complaints()
    assert bits(tmp_path / "model") == whole.bits
    note(f"job {job}: TIMEOUT in fine")


def present(cluster):
    """Give the names of the workers that are there."""
    return {worker.name for worker in list(cluster.scheduler.workers.values())}


@pytest.mark.parametrize("stage", ["sample", "fine", "label"])
def test_workers_whose_lifetime_ends_cost_no_bit(
    stage, job_name, start, source, whole, tmp_path, note
):
    """All that were there when a stage began, while the client waits."""
    extra = ["--lifetime", "20s", "--lifetime-stagger", "2s"]
    with jobs(job_name, tmp_path, extra=extra) as cluster:
        pids(cluster)
        where = ("--scheduler", cluster.scheduler_address)
        command = start("fit", source, tmp_path / "model", "-k", 400, *where)
        command.until(lambda: has_two(cluster) and first_at(cluster.scheduler, stage))
        os.kill(command.pid, signal.SIGSTOP)
        known = {name: cluster.workers[name].job_id for name in present(cluster)}
        until(lambda: not known.keys() & present(cluster))
        os.kill(command.pid, signal.SIGCONT)
        assert waited(command, cluster) == 0, command.complaints()
    assert bits(tmp_path / "model") == whole.bits
    told = ", ".join(f"{job}: {slurm.state(job)}" for job in known.values())
    note(f"jobs {told} in {stage}")


def test_two_clients_share_workers_that_come_and_go(
    job_name, start, source, whole, tmp_path, note
):
    """At the same fit, in the same `work_dir`."""
    one, other = tmp_path / "one", tmp_path / "other"
    with jobs(job_name, tmp_path) as cluster:
        cluster.adapt(minimum_jobs=0, maximum_jobs=2, interval="100ms")
        assert not cluster.scheduler.workers
        where = ("--scheduler", cluster.scheduler_address, "--work-dir", one / "work")
        running = [start(*fit(source, place, *where)) for place in (one, other)]
        assert [command.wait() for command in running] == [0, 0]
        until(lambda: not cluster.scheduler.workers)
    assert bits(one / "model") == bits(other / "model") == whole.bits
    said = [line for command in running for line in command.complaints()]
    assert sum("at the same fit" in line for line in said) in (1, 2)
    assert left(one / "work") == LEFT
    note("no workers, then some, then none")
