"""Without the names that other packages do not promise, all work is still done."""

import sys
from types import ModuleType, SimpleNamespace

import dask.array as da
import distributed
import numpy as np
import pytest
import zarr
from distributed import Client
from numpy.testing import assert_array_equal

from hkmeans_dask import HierarchicalKMeans, compat
from hkmeans_dask.runtime import graphs, tasks
from tests.conftest import local_cluster

X = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
EXPECTED = HierarchicalKMeans(9).fit(X)


def written(url):
    array = zarr.create_array(url, shape=X.shape, dtype="f4", chunks=(100, 6))
    array[...] = X
    return zarr.open_array(url, mode="r")


def do_all(z, url):
    """Fit, save, load, average: from Zarr to Zarr."""
    HierarchicalKMeans(9).fit(z).to_zarr(url)
    model = HierarchicalKMeans.from_zarr(url)
    assert_array_equal(model.labels_, EXPECTED.labels_)
    assert_array_equal(model.transform(z), EXPECTED.transform(X))


@pytest.mark.filterwarnings("ignore:.*cannot be listed")
@pytest.mark.parametrize("kind", ["local", "remote"])
def test_zarr_without_its_loop(kind, tmp_path, monkeypatch):
    root = {"local": str(tmp_path), "remote": "memory://without-sync"}[kind]
    z = written(f"{root}/x")
    monkeypatch.setitem(sys.modules, "zarr.core.sync", ModuleType("empty"))
    do_all(z, f"{root}/model")


def test_fsspec_without_details_of_what_it_finds():
    """Zarr lists by the same name today, so only our use of it can be taken away."""
    store = written("memory://without-find/x").store
    without = SimpleNamespace(
        fs=object(), path=store.path, list_prefix=store.list_prefix
    )
    known = compat.run_on_zarr(compat.find_details(store, store.path), None)
    found = compat.run_on_zarr(compat.find_details(without, store.path), None)
    assert len(found) == 4
    assert found.keys() == known.keys()
    assert not any(found.values())
    assert all(details["size"] for details in known.values())


def test_tasks_that_dask_writes(monkeypatch):
    lazy = da.from_array(X, chunks=(100, 6)) + 0
    ours = tasks.map_blocks("sum", lambda *_: 1, lazy)
    assert len(ours[0][0].dask) == 3, "reads are calls within calls"
    monkeypatch.setattr(graphs, "task_nodes", lambda: None)
    model = HierarchicalKMeans(9).fit(lazy)
    assert_array_equal(model.labels_, EXPECTED.labels_)
    assert_array_equal(model.transform(lazy), EXPECTED.transform(X))


def test_nodes_under_other_names(monkeypatch):
    monkeypatch.delattr("dask._task_spec.TaskRef")
    assert compat.task_nodes() is None


def _execute_subgraph(*_):
    """Has the name of what dask calls for fused tasks."""


def test_fused_tasks_of_another_make_are_left_alone():
    for args in [([], "outer", ()), ({}, "outer", ("name",))]:
        fused = SimpleNamespace(func=_execute_subgraph, args=args)
        assert compat.unfolded(fused, compat.task_nodes()) is fused


def test_workers_without_annotations(monkeypatch):
    """They are silent; the work is done."""
    lazy = da.from_array(X, chunks=(100, 6))
    with local_cluster(1, processes=False) as cluster, Client(cluster):
        stranger = SimpleNamespace(get_current_task=lambda: "task")
        monkeypatch.setattr(distributed, "get_worker", lambda: stranger)
        model = HierarchicalKMeans(9, verbose=1).fit(lazy)
    assert_array_equal(model.labels_, EXPECTED.labels_)


def test_scikit_learn_without_its_attribute():
    model = HierarchicalKMeans(9, feature_axis=1).fit(X.T)
    model.set_output(transform="pandas")
    assert compat.output_container(model) == "pandas"
    del model._sklearn_output_config
    assert compat.output_container(model) == "default"
    assert isinstance(model.transform(X.T), np.ndarray)


def test_pools_of_another_name_are_left_alone(monkeypatch):
    for name in ("default_pool", "pools"):
        monkeypatch.delattr(f"dask.threaded.{name}")
    compat.forget_pools()
