"""Workers that share no folder with the client have rows and labels in their memory."""

import pickle
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client
from numpy.testing import assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.kmeans import sampling
from hkmeans_dask.planning import memory
from hkmeans_dask.stages import label
from hkmeans_dask.workspace import places, spread
from tests.conftest import local_cluster

rng = np.random.default_rng(0)
VALUES = rng.normal(size=(3000, 8)).astype("f4") + rng.integers(0, 30, size=(3000, 1))
HOLES = np.where(rng.random(VALUES.shape) < 0.01, np.float32("nan"), VALUES)


def hiding(folder):
    """Command that hides a folder from what it runs, as if it was not mounted."""
    script = f"mount -t tmpfs none '{folder}' && exec \"$@\""
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


@contextmanager
def worker(client, hidden, *more):
    """Start a worker that does not see a folder."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker"]
    options = ["--no-dashboard", "--nthreads", "1", *more]
    process = subprocess.Popen(
        [*hiding(hidden), *command, client.scheduler.address, *options],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:  # how workers end is not what is tested
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """Make a folder that can be hidden from processes."""
    folder = tmp_path_factory.mktemp("hidden")
    tried = subprocess.run([*hiding(folder), "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"cannot hide a folder from a process here: {tried.stderr}")
    return folder


@pytest.fixture(scope="module")
def apart(hidden):
    """Start two workers that do not see the client's temporary folder."""
    with local_cluster(0) as cluster, Client(cluster) as client, ExitStack() as workers:
        for _ in range(2):
            workers.enter_context(worker(client, hidden, "--no-nanny"))
        client.wait_for_workers(2, timeout=60)
        yield cluster


@pytest.fixture
def scaled_down(monkeypatch, hidden):
    """Let small rows and labels be large ones, in several parts and bundles."""
    monkeypatch.setattr(memory, "CLUSTER_ROWS", 0)
    monkeypatch.setattr(places, "LABEL_BYTES", 4)
    monkeypatch.setattr(sampling, "ONE_PART_BYTES", 2**14)
    monkeypatch.setattr(sampling, "PART_BYTES", 2**14)
    monkeypatch.setattr(spread, "BUNDLE_BYTES", 2**14)
    monkeypatch.setattr(label, "LABELS_TOGETHER", 300)
    with dask.config.set(temporary_directory=str(hidden)):
        yield


@pytest.fixture
def client(apart, scaled_down):
    """Connect to workers apart."""
    with Client(apart) as client:
        yield client


FITTED = (
    "labels_",
    "sizes_",
    "cluster_centers_",
    "coarse_centers_",
    "parents_",
    "prices_",
    "offset_",
    "inertia_",
)


def fitted(values=VALUES, **parameters):
    wanted = {"n_clusters": 60, "max_features_per_cluster": None, **parameters}
    return HierarchicalKMeans(**wanted).fit(da.from_array(values, (250, 8)))


def bits(model):
    return [np.asarray(getattr(model, name)).tobytes() for name in FITTED]


def in_threads(*args, **parameters):
    with dask.config.set(scheduler="threads"):
        return bits(fitted(*args, **parameters))


def forgotten(cluster):
    """Wait until a scheduler knows no task; it hears of what is released later."""
    deadline = time.monotonic() + 10
    while (tasks := list(cluster.scheduler.tasks)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not tasks


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"nested": False},
        {"refine": 1, "init": VALUES[:60]},
        {"balance": 0.5, "nested": False},
        {"allocation": "inertia", "metric": "cosine", "refine": 1},
    ],
    ids=["default", "not nested", "refined", "balanced", "directions"],
)
def test_workers_that_share_no_folder_give_the_same_bits(client, apart, parameters):
    model = fitted(**parameters)
    assert bits(model) == in_threads(**parameters)
    del model
    assert forgotten(apart)


@pytest.mark.parametrize("most", [None, 30])
def test_so_they_do_where_features_are_left_out(client, apart, most):
    parameters = {"missing": "exclude", "max_features_per_cluster": most}
    assert bits(fitted(HOLES, **parameters)) == in_threads(HOLES, **parameters)
    assert forgotten(apart)


def test_labels_need_no_cluster(client, apart):
    model = fitted()
    assert forgotten(apart)
    again = model.predict(da.from_array(VALUES, (250, 8))).compute()
    for labels in (model.labels_, pickle.loads(pickle.dumps(model)).labels_):
        assert_array_equal(labels.compute(scheduler="threads"), again)
