"""Memory of a transform: bounded, projected, refused; the same bits at any size."""

import asyncio
import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client

from hkmeans_dask import HierarchicalKMeans, applying, reduction
from hkmeans_dask.inputs import arrays
from hkmeans_dask.planning import reducing
from hkmeans_dask.planning.reducing import project_transform
from hkmeans_dask.reduction import cluster_means, lazy_labels
from hkmeans_dask.runtime import graphs
from hkmeans_dask.storage import outputs
from tests.conftest import local_cluster
from tests.planning.test_memory import peak, peak_of, warm
from tests.strategies import Watched

MB = 10**6
rng = np.random.default_rng(0)


class Numbered:
    """Rows of their number, made when they are read."""

    ndim, dtype = 2, np.dtype(np.float32)

    def __init__(self, shape):
        self.shape = shape

    def __getitem__(self, index):
        """Read some rows."""
        rows = np.arange(self.shape[0], dtype=self.dtype)[index[0]]
        return np.repeat(rows[:, None] % 97, self.shape[1], axis=1)


def unordered(n_blocks, rows, width, n_clusters):
    """Features in no order: a block has some of almost all clusters."""
    array = Numbered((n_blocks * rows, width))
    meta = np.empty((0, 0), np.float32)
    X = da.from_array(array, chunks=(rows, width), asarray=False, meta=meta)
    labels = np.random.default_rng(0).integers(0, n_clusters, len(X), np.int32)
    features = arrays.read_features(X, 0, join=False)
    return features, lazy_labels(labels, X.chunks[0]), np.ones(n_clusters)


def counted(lazy):
    """Tasks of a graph by the name of their stage, and the blocks that have labels."""
    graph = lazy.__dask_graph__()
    keys = (key[0] if isinstance(key, tuple) else key for key in graph)
    return Counter(key.split("-")[1] for key in keys if key.startswith("hkmeans-"))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("without_nodes", [False, True])
@pytest.mark.parametrize("chunks", [(9, 5), (100, 2), (3, 5), (4, 3)])
def test_large_sums_have_the_same_bits(weighted, without_nodes, chunks, monkeypatch):
    n_features, n_clusters = 300, 41
    values = rng.normal(size=(n_features, 5)).astype(np.float32) * 1e3
    labels = rng.integers(-1, n_clusters, n_features)
    labels[labels == 7] = 8
    weights = rng.random(n_features) if weighted else None
    factors = np.sqrt(1.0 + np.arange(n_clusters))
    if without_nodes:
        monkeypatch.setattr(graphs, "task_nodes", lambda: None)
    found = []
    for least in (10**9, 0):
        monkeypatch.setattr(reduction, "LARGE_SUMS", least)
        array = Watched(values)
        features = arrays.read_features(array.blocks(chunks), 0, join=False)
        lazy = cluster_means(
            features.weighted(weights), da.from_array(labels, 70), factors
        )
        assert lazy.chunks == ((n_clusters,), features.blocks.chunks[1])
        found.append(lazy.compute(scheduler="threads"))
        assert array.reads == features.blocks.npartitions
    np.testing.assert_array_equal(*found, strict=True)


@pytest.mark.parametrize("n_blocks", [64, 200])
def test_large_sums_take_no_more_tasks_than_blocks_and_a_half(n_blocks, monkeypatch):
    monkeypatch.setattr(reduction, "LARGE_SUMS", 0)
    means = cluster_means(*unordered(n_blocks, 5, 4, 50))
    tasks = counted(means)
    assert tasks["sum"] == n_blocks // 8
    assert tasks.total() <= 1.5 * n_blocks


def test_the_first_bad_feature_of_large_sums_is_named(monkeypatch):
    monkeypatch.setattr(reduction, "LARGE_SUMS", 0)
    values = rng.normal(size=(700, 3))
    values[[333, 334, 600]] = np.nan
    features = arrays.read_features(da.from_array(values, chunks=(5, 3)), 0)
    labels = da.from_array(rng.integers(0, 20, 700), 100)
    lazy = cluster_means(features, labels, np.ones(20))
    with pytest.raises(ValueError, match=r"NaN: the first is in feature 333\."):
        lazy.compute(scheduler="threads")


def test_a_transform_holds_few_sums_of_all_clusters():
    """Not ten of them, for each level of the tree that adds them up."""
    n_clusters, width = 20_000, 128
    what = unordered(80, 2000, width, n_clusters)
    sums = 8 * n_clusters * width
    assert sums > reduction.LARGE_SUMS
    lazy = cluster_means(*what)
    held = held_by(lambda: lazy.compute(scheduler="synchronous"))
    assert held < 4 * sums
    assert held < project_transform(what[0], n_clusters).peak()


def held_by(work):
    """Bytes that Python and NumPy hold at most while something works."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("scaling", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_what_else_is_lazy_holds_no_more_than_is_projected(
    scaling, dtype, tmp_path, monkeypatch
):
    """Read from Zarr, and written to it."""
    monkeypatch.setattr(reducing, "SMALL", 2 * MB)
    X = rng.normal(scale=50, size=(60_000, 96)).astype(dtype)
    means = rng.normal(size=(2000, 96)).astype(np.float32)
    array = zarr.create_array(
        tmp_path / "x", shape=X.shape, chunks=(30_000, 96), dtype=dtype
    )
    array[...] = X
    model = HierarchicalKMeans(2000, scaling=scaling).fit(X)
    reduced = zarr.create_array(
        tmp_path / "reduced", shape=means.shape, chunks=(500, 48), dtype=np.float32
    )
    reduced[...] = means
    projected = []

    def check(_, found):
        projected.append(found)

    with monkeypatch.context() as patched:
        patched.setattr(applying, "check_memory", check)
        features = arrays.read_whole_features(array, 0)
        later = [model._new_labels(features, "fine"), model._spread(reduced)]
    for one, projection in zip(later, projected, strict=True):
        place, compute = str(tmp_path / projection.work), dask.compute
        with dask.config.set(scheduler="synchronous"):
            held = held_by(partial(outputs.fill, place, one.result, compute))
        assert held < projection.peak() < 2 * held


@pytest.mark.parametrize("kind", ["numpy", "one chunk", "several chunks"])
def test_the_way_back_of_wide_means_is_projected_closely(kind, monkeypatch):
    """They are more than a block of the result, which is one, too, if in memory."""
    monkeypatch.setattr(reducing, "SMALL", 2 * MB)
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 2 * MB)
    monkeypatch.setattr(arrays, "MEMORY_BLOCK_BYTES", 4 * MB)
    shape, projected = (2000, 3000), []

    def check(_, found):
        projected.append(found)

    model = HierarchicalKMeans(2000).fit(rng.normal(size=(6000, 4)))
    means = rng.normal(size=shape)
    if kind != "numpy":
        height = 2000 if kind == "one chunk" else 250
        made = {"chunks": ((height,) * (2000 // height), (3000,)), "dtype": float}
        means = da.map_blocks(lambda: np.ones((height, 3000)), **made)
    with monkeypatch.context() as patched:
        patched.setattr(applying, "check_memory", check)
        back = model._spread(means)
    with dask.config.set(scheduler="synchronous"):
        if kind == "numpy":
            held = held_by(lambda: applying.give(back))
        else:
            held = held_by(partial(back.result.store, Nowhere(), lock=False))
    assert held < projected[0].peak() < 2.2 * held


class Nowhere:
    """Where what is written is forgotten."""

    def __setitem__(self, where, values):
        """Forget values."""


def test_centers_that_are_here_are_not_counted_again():
    """Nor are those that no feature is compared with at the same time."""
    X = rng.normal(size=(4000, 300)).astype(np.float32)
    model = HierarchicalKMeans(2000).fit(X)
    features, nested = arrays.read_features(X[:500], 0), model._hierarchy()
    every = nested._replace(compared=np.arange(2000, dtype=np.int32)[None])
    how = {"copied": False, "exclude": False}
    project = partial(reducing.project_labels, features, **how)
    sent = project(nested, 2).peak() - project(nested).peak()
    assert sent == sum(array.nbytes for array in nested)
    assert project(every).peak() - project(nested).peak() > nested.fine.nbytes
    assert held_by(lambda: model.predict(X[:500])) < project(nested).peak()


def test_what_no_worker_can_hold_is_refused_with_the_remedy():
    values = rng.normal(size=(2000, 2))
    model = HierarchicalKMeans(1500).fit(values)
    wide = da.zeros((2000, 20_000), chunks=(100, 20_000))
    with local_cluster(1, memory_limit="512MiB") as cluster, Client(cluster):
        with pytest.raises(MemoryError) as refused:
            model.transform(wide)
        narrow = model.transform(wide.rechunk((100, 100)))
        assert narrow.shape == (1500, 20_000)
    said = str(refused.value)
    assert said.startswith("A transform takes up to ")
    assert "a worker of 512 MiB can give it 72 MiB" in said
    assert "Pass X in chunks of fewer samples" in said


def test_a_plan_tells_what_a_transform_takes():
    X = da.zeros((10**6, 512), np.float32, chunks=(32_768, 512))
    with dask.config.set(scheduler="synchronous"):
        few, many = (HierarchicalKMeans(k).plan(X) for k in (1000, 100_000))
    features = arrays.read_features(X, 0, join=False)
    assert many.transform_bytes == project_transform(features, 100_000).peak()
    assert many.transform_bytes > 8 * 100_000 * 512 > few.transform_bytes / 2
    assert many.transform_limit > many.transform_bytes
    assert "the same of a transform" in repr(many)


SHAPES = {
    "large": (70, 32_768, 256, 20_000),
    "few blocks": (30, 32_768, 256, 20_000),
    "small": (70, 65_536, 128, 2000),
}


def transform_here(name):
    """Transform in this process; print what it took, and what NumPy held of it."""
    features, labels, factors = unordered(*SHAPES[name])
    projected = project_transform(features, len(factors)).peak()
    lazy = cluster_means(features, labels, factors)
    pid, idle = warm()
    lazy.compute(scheduler="synchronous")
    resident = peak(pid) - idle
    held = peak_of(lambda: lazy.compute(scheduler="synchronous"))
    print(json.dumps([projected, resident, held]))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_projected_memory_of_a_process_is_that_measured(name):
    code = f"from tests.planning.test_reducing import *; transform_here({name!r})"
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    projected, resident, held = json.loads(ran.stdout)
    assert projected >= resident
    assert projected <= 1.75 * held  # more is resident, by what the allocator keeps


@pytest.mark.slow
def test_projected_memory_of_a_worker_is_that_measured():
    features, labels, factors = unordered(*SHAPES["large"])
    with local_cluster(1, memory_limit="8GiB") as cluster, Client(cluster) as client:
        idle = dict(client.run(warm).values())
        cluster_means(features, labels, factors).sum().compute()
        measured = max(peak(pid) - before for pid, before in idle.items())
    assert project_transform(features, len(factors), 1).peak() >= measured


def test_who_cannot_be_asked_gets_a_lazy_transform_all_the_same():
    X = np.random.default_rng(0).normal(size=(60, 4))
    model, lazy = HierarchicalKMeans(5).fit(X), da.from_array(X, chunks=(20, 4))

    class Scheduler:
        def get(self, graph, keys, **options):
            return dask.threaded.get(graph, keys, **options)

    async def transformed():
        async with Client(
            processes=False, asynchronous=True, dashboard_address="127.0.0.1:0"
        ) as client:
            return await client.compute(model.transform(lazy))

    with dask.config.set(scheduler=Scheduler().get):
        means = model.transform(lazy).compute()
    np.testing.assert_array_equal(means, asyncio.run(transformed()))
