"""What is imported, where and when: no second is lost before the first block."""

import subprocess
import sys

import dask.array as da
import numpy as np
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
    model.to_zarr(sys.argv[1], overwrite=True)
print("dask_ml" in sys.modules, "distributed" in sys.modules)
"""

COMMAND = """
import sys
from hkmeans_dask.cli.commands import main
code = main()
print(code, *sorted({"sklearn", *HEAVY} & sys.modules.keys()))
"""

HEAVY = """
dask_ml distributed fsspec.implementations.http h5py icechunk jinja2.sandbox matplotlib
numba pandas polars pyarrow s3fs sparse tornado xarray
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


def test_plain_arrays_need_neither_dask_ml_nor_distributed(tmp_path):
    assert run(FIT, tmp_path / "model.zarr") == "False False"


def test_commands_in_threads_import_nothing_that_they_do_not_need(tmp_path):
    X = np.random.default_rng(0).normal(size=(100, 4))
    x, model, means = (str(tmp_path / name) for name in ("x", "model", "means"))
    da.from_array(X, 50).to_zarr(x)
    script = f"HEAVY = {HEAVY!r}.split()\n{COMMAND}"
    for words in (
        ["fit", x, model, "-k", "3"],
        ["transform", x, model, means],
        ["inverse-transform", means, model, str(tmp_path / "back")],
        ["predict", x, model, str(tmp_path / "labels")],
        ["plan", x, "-k", "3"],
    ):
        assert run(script, *words) == "0 sklearn", words


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
