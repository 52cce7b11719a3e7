"""Memory is what the control group, the addresses and the machine leave."""

import subprocess
import sys

import psutil
import pytest

from hkmeans_dask.runtime import limits
from hkmeans_dask.runtime.limits import available_memory

MIB = 2**20


def write(folder, version, limit, used, cache=0):
    most, current, name = limits.FILES[version]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / most).write_text(f"{limit}\n")
    (folder / current).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{name} {cache}\nfile 9\n")


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Take other files for those of the system; give a function that writes them."""
    monkeypatch.setattr(limits, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(limits, "OWN", tmp_path / "own")

    def own(text):
        (tmp_path / "own").write_text(text)
        return tmp_path / "groups"

    return own


def test_the_limit_of_a_job(groups):
    root = groups("0::/system.slice/slurmstepd.scope/job_7/step_0\n")
    job = root / "system.slice/slurmstepd.scope/job_7"
    write(job, 2, 80 * MIB, 50 * MIB, cache=10 * MIB)
    write(job / "step_0", 2, "max", 50 * MIB)
    assert available_memory() == 40 * MIB


def test_the_limit_of_a_container_that_sees_its_group_as_the_root(groups):
    write(groups("0::/../../docker/7\n"), 2, 80 * MIB, 50 * MIB)
    assert available_memory() == 30 * MIB


def test_version_1(groups):
    root = groups("5:cpu,cpuacct:/x\n4:memory:/slurm/uid_0/job_7\n0::/\n")
    write(root / "memory/slurm/uid_0/job_7", 1, 80 * MIB, 50 * MIB, cache=20 * MIB)
    write(root / "memory", 1, 2**63 - 4096, 60 * MIB)
    assert available_memory() == 50 * MIB


def test_the_lowest_of_several_limits(groups):
    root = groups("0::/a/b\n")
    write(root / "a", 2, 70 * MIB, 65 * MIB)
    write(root / "a/b", 2, 80 * MIB, 50 * MIB)
    assert available_memory() == 5 * MIB
    write(root / "a", 2, 70 * MIB, 75 * MIB)
    assert available_memory() == 0


@pytest.mark.parametrize("text", ["", "nonsense\n", "0::/not/there\n"])
def test_without_limits_it_is_that_of_the_machine(groups, text):
    groups(text)
    whole = psutil.virtual_memory().available
    assert abs(available_memory() - whole) < 0.2 * whole


REFUSED = """
import resource, psutil
import numpy as np
from hkmeans_dask import HierarchicalKMeans
X = np.zeros((2_000_000, 32), np.float32)
HierarchicalKMeans(3).fit(X[:100] + np.arange(100)[:, None])
used = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, resource.RLIM_INFINITY))
try:
    HierarchicalKMeans(1000).fit(X)
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
def test_a_fit_beyond_the_limit_of_addresses_is_refused():
    command = [sys.executable, "-c", REFUSED]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "this machine" in ran.stdout
