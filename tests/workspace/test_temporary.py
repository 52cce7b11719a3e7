"""Temporary folders live as long as what reads them, and no longer."""

import copy
import gc
import os
import subprocess
import sys
import time

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, wait
from numpy.testing import assert_allclose, assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.workspace import temporary
from tests.conftest import local_cluster

X = np.random.default_rng(0).normal(size=(400, 6))
EXPECTED = HierarchicalKMeans(9).fit(X)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Let labels of any X go to two files of a temporary folder; give its parent."""
    monkeypatch.setattr("hkmeans_dask.workspace.places.LABEL_BYTES", 4)
    monkeypatch.setattr("hkmeans_dask.stages.label.LABELS_TOGETHER", 200)
    temporary.remove_left()
    with dask.config.set(temporary_directory=str(tmp_path)):
        yield tmp_path
    temporary.remove_left()


def fitted():
    return HierarchicalKMeans(9).fit(da.from_array(X, (100, 6)))


def listed(parent):
    gc.collect()
    return [path.name for path in parent.glob("hkmeans-*")]


def all_go(parent):
    """Wait for the scheduler to hear that nobody wants what has been released."""
    deadline = time.monotonic() + 5
    while found := listed(parent):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
        temporary.remove_left()


def slowly(values):
    """Let who is first have gone before labels are read."""
    time.sleep(0.3)
    return values


def reader(name):
    """Make something that reads labels in files, of a model that nobody holds."""
    model = fitted()
    late = da.from_array(X, (100, 6)).map_blocks(slowly, dtype=X.dtype)
    if name == "labels_":
        return model.labels_
    if name == "inverse_transform":
        return model.inverse_transform(model.transform(late))
    return model.transform(late)


VALUES = {
    "labels_": EXPECTED.labels_,
    "inverse_transform": EXPECTED.inverse_transform(EXPECTED.transform(X)),
    "transform": EXPECTED.transform(X),
}


@pytest.mark.parametrize("name", VALUES)
def test_lazy_results_outlive_the_model_in_threads(folders, name):
    lazy = reader(name)
    assert len(listed(folders)) == 1
    assert_allclose(lazy.compute(), VALUES[name])
    assert_allclose(lazy.persist().compute(), VALUES[name])
    del lazy
    assert listed(folders) == []


@pytest.mark.parametrize("name", VALUES)
def test_persisted_results_outlive_the_model_on_a_cluster(folders, two_processes, name):
    persisted = reader(name).persist()
    assert len(listed(folders)) == 1
    further = (persisted + 1).persist()
    del persisted
    temporary.remove_left()
    assert_allclose(further.compute(), VALUES[name] + 1)
    del further
    all_go(folders)


def test_futures_outlive_the_model_and_lost_workers(folders, two_processes):
    future = two_processes.compute(reader("transform"))
    wait(future)
    gc.collect()
    (holder,) = two_processes.who_has([future])[future.key]
    pids = two_processes.run(os.getpid)
    two_processes.run(os._exit, 1, workers=[holder], on_error="ignore")
    assert_allclose(future.result(), VALUES["transform"])
    assert set(two_processes.run(os.getpid).values()) != set(pids.values())


def test_fits_in_a_loop_leave_nothing_but_the_last(folders, two_processes):
    X_there = da.from_array(X, (100, 6)).persist()
    held = None
    for _ in range(5):
        model = HierarchicalKMeans(9).fit(X_there)
        held = model.transform(X_there).persist()
        del model
        assert len(listed(folders)) <= 2
    assert_allclose(held.compute(), VALUES["transform"])
    for _ in range(3):
        HierarchicalKMeans(9).fit(X_there).transform(X_there).compute()
    del held
    all_go(folders)


def test_a_closed_cluster_holds_nothing(folders):
    with local_cluster(1, processes=False) as cluster, Client(cluster):
        persisted = reader("transform").persist()
        assert_allclose(persisted.compute(), VALUES["transform"])
        assert len(listed(folders)) == 1
    del persisted
    all_go(folders)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_of_a_model_keep_its_labels(folders, copied):
    copied = copied(fitted())
    gc.collect()
    assert_array_equal(copied.labels_, EXPECTED.labels_)
    del copied
    assert listed(folders) == []


def test_models_go_to_other_processes(folders, two_processes):
    model = fitted()
    read = two_processes.submit(lambda model: np.asarray(model.labels_), model)
    del model
    assert_array_equal(read.result(), EXPECTED.labels_)


SCRIPT = """
import os, sys
import dask, dask.array as da, numpy as np
from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.workspace import places
places.LABEL_BYTES = 4
dask.config.set(temporary_directory=sys.argv[1])
model = HierarchicalKMeans(3).fit(da.ones((40, 2), chunks=10) * np.arange(2))
if os.fork() == 0:
    sys.exit()
os.wait()
model.labels_.compute()
"""


def test_a_process_removes_its_own_folders_at_its_end(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
    assert listed(tmp_path) == []
