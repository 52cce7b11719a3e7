"""Workers that share no folder with the client have rows and labels in their memory."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, SchedulerPlugin
from numpy.testing import assert_array_equal

from hkmeans_dask import HierarchicalKMeans, fitting
from hkmeans_dask.inputs import arrays
from hkmeans_dask.kmeans import sampling
from hkmeans_dask.planning import memory
from hkmeans_dask.stages import label
from hkmeans_dask.workspace import places, spread
from tests.conftest import local_cluster
from tests.strategies import Watched

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


class Watch(SchedulerPlugin):
    """Sees each task that begins or ends; tells how many of each kind have ended."""

    def __init__(self, begun=lambda kind, worker: None):
        self.ended, self._seen, self._begun = Counter(), set(), begun

    def transition(self, key, start, finish, *args, **kwargs):
        """Be told by the scheduler."""
        name = key[0] if isinstance(key, tuple) else key
        kind = name.split("-")[1] if name.startswith("hkmeans-") else ""
        if finish == "memory" and key not in self._seen:
            self._seen.add(key)
            self.ended[kind] += 1
        if finish == "processing":
            worker = self.scheduler.tasks[key].processing_on
            self._begun(kind, worker and worker.address)


@contextmanager
def watching(cluster, watch):
    """Let a plugin see the tasks of what runs inside."""
    watch.scheduler = cluster.scheduler
    cluster.scheduler.add_plugin(watch, name="watch")
    try:
        yield watch
    finally:
        cluster.scheduler.remove_plugin("watch")


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


STAGES = {
    "sample": ("sample", "join", "check"),
    "coarse": ("coarse", "sketch", "limit", "cut"),
    "partition": ("partition", "totals", "count", "bundle"),
    "fine": ("axes", "fine", "centers"),
}


def test_the_plan_tells_where_rows_are_and_counts_tasks(client, apart, hidden):
    X = da.from_array(VALUES, (250, 8))
    model = HierarchicalKMeans(60, max_features_per_cluster=None)
    plan = model.plan(X)
    assert list(hidden.iterdir()) == []
    wanted = rf"in the memory of 2 workers, up to {plan.held_bytes / 1e6:.0f} MB each;"
    assert plan.rows_place.startswith(wanted)
    assert plan.held_bytes > VALUES.nbytes  # half of it, twice, and not quite evenly
    assert "they do not share the client's temporary folder" in repr(plan)
    assert plan.labels_place.startswith("in memory; workers do not share")
    assert plan.workspace_bytes == 0
    with watching(apart, Watch()) as watch:
        model.fit(X)
    done = sum(watch.ended[kind] for kinds in STAGES.values() for kind in kinds)
    done += watch.ended["head"]
    planned = sum(plan.tasks[stage] for stage in STAGES)
    assert done <= planned <= 1.5 * done


def test_labels_need_no_cluster(client, apart):
    model = fitted()
    assert forgotten(apart)
    again = model.predict(da.from_array(VALUES, (250, 8))).compute()
    for labels in (model.labels_, pickle.loads(pickle.dumps(model)).labels_):
        assert_array_equal(labels.compute(scheduler="threads"), again)


# Memory


def test_rows_that_workers_cannot_hold_are_refused_before_they_are_read(client):
    X = da.zeros((10**9, 100), chunks=(10**5, 100), dtype="f4")
    model = HierarchicalKMeans(2000, max_features_per_cluster=None)
    message = (
        r"takes up to \d+ MiB .* but a worker of \d+ MiB can give it \d+ MiB\. "
        r"2 workers that do not share .* have 381469 MiB of training rows, twice, .* "
        r"take more of them, or pass a work_dir .* URL of a bucket, or give it at "
        r"least \d+ MiB\."
    )
    with pytest.raises(MemoryError, match=message):
        model.fit(X)
    assert model.plan(X).held_bytes > X.nbytes


def test_labels_that_the_client_cannot_hold_are_refused(client):
    X = da.zeros((10**12, 2), chunks=(10**9, 2), dtype="f4")
    with pytest.raises(MemoryError, match=r"^1000000000000 labels .* pass a work_dir"):
        HierarchicalKMeans(9).fit(X)


def test_x_that_would_be_copied_is_refused(client, monkeypatch):
    monkeypatch.setattr(arrays, "JOINED_BYTES", 2000)
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 2000)
    X = Watched(VALUES)
    with pytest.raises(FileNotFoundError, match=r"2 workers do not .* pass a work_dir"):
        HierarchicalKMeans(9).fit(X.blocks((1000, 4)))
    assert X.reads == 0


# Failures


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("stage", ["train_coarse", "train_fine", "label_features"])
def test_nothing_stays_on_the_cluster_after_an_error(
    client, apart, monkeypatch, stage, error
):
    """Although its traceback, which Python keeps, refers to all that was held."""

    def fail(*_, **options):
        raise error

    monkeypatch.setattr(fitting, stage, fail)
    with pytest.raises(error) as raised:
        fitted()
    assert forgotten(apart), list(apart.scheduler.tasks)
    assert raised.traceback


DEATHS = [
    ("cut", "--no-nanny"),
    ("fine", "--nanny"),
    *(
        pytest.param(kind, nanny, marks=pytest.mark.slow)
        for kind in ("join", "coarse", "partition", "bundle", "fine", "label")
        for nanny in ("--nanny", "--no-nanny")
    ),
]


@pytest.mark.parametrize(("kind", "nanny"), DEATHS)
def test_what_a_dead_worker_held_is_computed_again(hidden, scaled_down, kind, nanny):
    killed = []

    def kill(begun, address):
        if begun == kind and address and not killed:
            killed.append(processes[address])
            os.kill(processes[address], signal.SIGKILL)

    with local_cluster(0) as cluster, Client(cluster) as client, ExitStack() as workers:
        for _ in range(2):
            workers.enter_context(worker(client, hidden, nanny))
        client.wait_for_workers(2, timeout=60)
        processes = client.run(os.getpid)
        with watching(cluster, Watch(kill)):
            model = fitted()
        assert killed
    assert bits(model) == in_threads()
