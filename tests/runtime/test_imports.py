"""What is imported, where and when: no second is lost before the first block."""

import subprocess
import sys

import dask.array as da
from distributed import Client

from hkmeans_dask.cli.cluster import Cluster
from hkmeans_dask.runtime.execution import Runner
from hkmeans_dask.runtime.tasks import MODULES
from tests.conftest import local_cluster

FIT = """
import sys
import numpy as np, zarr
import dask.array as da
from hkmeans_dask import HierarchicalKMeans
X = np.random.default_rng(0).normal(size=(100, 4))
for lazy in (X, da.from_array(X), zarr.array(X)):
    model = HierarchicalKMeans(3).fit(lazy)
    model.inverse_transform(model.transform(lazy))
print("dask_ml" in sys.modules, "distributed" in sys.modules)
"""

COMMAND = """
import sys
from hkmeans_dask.cli.commands import main
sys.argv[1:] = ["plan", sys.argv[1], "-k", "3"]
code = main()
print(code, {"dask.array", "sparse", "xarray"} & sys.modules.keys())
"""


def run(script, *args):
    """Run a script in a fresh process; give the last line that it prints."""
    command = [sys.executable, "-W", "ignore", "-c", script, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def imported():
    """Tell which modules that tasks need are there, and others that take long."""
    needed = {f"hkmeans_dask.{name}" for name in MODULES}
    return needed & sys.modules.keys() == needed, "sparse" in sys.modules


def test_plain_arrays_need_neither_dask_ml_nor_distributed():
    assert run(FIT) == "False False"


def test_a_command_imports_no_packages_that_dask_only_looks_for(tmp_path):
    zarr = tmp_path / "x.zarr"
    da.zeros((100, 4), chunks=(10, 4)).to_zarr(str(zarr))
    assert run(COMMAND, str(zarr)) == "0 {'dask.array'}"


def test_workers_of_a_command_begin_with_all_that_their_tasks_need():
    with Cluster(workers=2, memory_limit=None, address=None).running():
        found = Client.current().run(imported)
    assert list(found.values()) == [(True, False)] * 2


def test_workers_of_a_cluster_are_told_to_import_at_once():
    X = da.zeros((10, 2))
    with local_cluster(2) as cluster, Client(cluster) as client:
        runner = Runner.find(X, in_memory=False)
        assert len(client.gather(runner._imports)) == 2
        assert all(needed for needed, _ in client.run(imported).values())
        assert not Runner.find(X, in_memory=False)._imports, "once"
