"""Fits that are jobs of SLURM: ended, and sent again, they go on."""

import os
import shlex
import signal
from pathlib import Path

import psutil
import pytest

from tests.hpc import slurm
from tests.hpc.waiting import until
from tests.processes import LEFT, bits, fit, left

pytestmark = pytest.mark.hpc

ENDED = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT"}
TERMINATED = "hkmeans-dask: terminated: what was not complete is removed."
ROOT = Path(__file__).parents[2]


def command(*words):
    """Write a line that runs a command, with small sizes."""
    return shlex.join(["python", "-m", "tests.hpc.scaled", *map(str, words)])


@pytest.fixture
def send(job_name, tmp_path):
    """Send jobs."""

    def send(lines, *options):
        lines = [f"export PYTHONPATH={ROOT}", *lines]
        return slurm.sent(job_name, tmp_path, lines, *options)

    return send


def stopped(job, folder):
    """Wait until the process of a job has stopped itself; give its number."""
    pid = until(lambda: _stopped(folder / f"{job}.pid") or slurm.state(job) in ENDED)
    assert slurm.state(job) == "RUNNING", slurm.said(job, folder)
    assert not (folder / "model").exists()
    return pid


def _stopped(file):
    number = file.read_text().strip() if file.exists() else ""
    here = number and psutil.Process(int(number)).status() == psutil.STATUS_STOPPED
    return int(number) if here else None


def ended(job):
    """Wait for the end of a job; give how it ended."""
    return until(lambda: (now := slurm.state(job)) in ENDED and now)


def cancel(job, pid):
    slurm.asked("scancel", job)
    assert ended(job) == "CANCELLED"


def warn(job, pid):
    """Send the signal that some queues send before they end a job."""
    slurm.asked("scancel", "--signal=TERM", "--full", job)
    os.kill(pid, signal.SIGCONT)
    assert ended(job) == "FAILED"


def kill(job, pid):
    """End it as the system does where memory is short."""
    os.kill(pid, signal.SIGKILL)
    assert ended(job) == "FAILED"


def time_out(job, pid):
    assert ended(job) == "TIMEOUT"


@pytest.mark.parametrize(
    "ends", [(time_out, kill), (cancel, warn)], ids=["timeout-kill", "cancel-warn"]
)
def test_a_job_that_is_ended_twice_goes_on(ends, send, source, whole, tmp_path, note):
    lines = ["echo $$ > $SLURM_JOB_ID.pid", f"exec {command(*fit(source, tmp_path))}"]
    for end, kind in zip(ends, ("coarse", "fine-"), strict=True):
        there = f"export STOP_AT='work/*/{kind}*'"
        job = send([there, *lines], f"--time={1 if end is time_out else 10}")
        end(job, stopped(job, tmp_path))
        note(f"job {job}: {slurm.state(job)} with {kind.strip('-')} results")
        assert (slurm.said(job, tmp_path)[-1] == TERMINATED) == (end is not kill)
    job = send(lines)
    assert ended(job) == "COMPLETED", slurm.said(job, tmp_path)
    note(f"job {job}: COMPLETED")
    assert bits(tmp_path / "model") == whole.bits
    assert left(tmp_path / "work") == LEFT


def test_workers_of_srun_find_the_scheduler_by_its_file(
    send, source, whole, tmp_path, note
):
    worker = "dask worker --scheduler-file here.json --nthreads 1 --no-dashboard"
    lines = [
        "dask scheduler --scheduler-file here.json --interface lo --no-dashboard "
        "--port 0 & ",
        "until [ -s here.json ]; do sleep 0.1; done",
        f"srun --ntasks=2 --overlap {worker} --interface lo &",
        command(*fit(source, tmp_path), "--scheduler-file", "here.json"),
        "kill %1; wait",
    ]
    job = send(lines, "--ntasks=3", "--mem-per-cpu=1000")
    assert ended(job) == "COMPLETED", slurm.said(job, tmp_path)
    note(f"job {job}: COMPLETED, with two workers of srun")
    assert bits(tmp_path / "model") == whole.bits
