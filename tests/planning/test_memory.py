"""Projected memory: hand-computed values, what is refused, and what is measured."""

import os
import re
import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest
import zarr
from distributed import Client

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.kmeans import seeding
from hkmeans_dask.kmeans.minibatch import Schedule
from hkmeans_dask.planning import memory
from hkmeans_dask.planning.memory import (
    IDLE,
    Projection,
    Sizes,
    project,
    usable,
)
from hkmeans_dask.runtime.execution import Runner
from hkmeans_dask.stages import coarse
from hkmeans_dask.storage.source import reading
from hkmeans_dask.workspace.files import InMemory
from hkmeans_dask.workspace.rows import Rows, coarse_rows
from tests.conftest import local_cluster

MB = 10**6
SIZES = {
    "n_features": 10**6,
    "n_samples": 100,
    "n_clusters": 400,
    "n_rows": 102_400,
    "n_big": 20,
    "itemsize": 4,
    "block_rows": 10**5,
    "block_bytes": 40 * MB,
    "read_bytes": 60 * MB,
    "cast": 0,
    "copied": True,
}


def test_reading_takes_what_is_decoded_and_what_is_stored():
    assert reading(64 * MB, 64 * MB, 64 * MB) == 128 * MB
    assert reading(64 * MB, 1 * MB, 1 * MB) == 9 * MB
    assert reading(64 * MB, 1 * MB, 64 * MB) == 72 * MB
    assert reading(10 * MB, 16 * MB, 16 * MB) == 20 * MB


def test_chunks_that_wait_to_be_decoded_are_counted():
    assert reading(64 * MB, 1 * MB, 1 * MB, 16) == 18 * MB
    assert reading(64 * MB, 32 * MB, 32 * MB, 2) == 128 * MB
    assert reading(64 * MB, 64 * MB, 64 * MB, 1) == 128 * MB
    assert reading(10 * MB, 16 * MB, 16 * MB, 4) == 32 * MB
    assert reading(8 * MB, 4 * MB, 4 * MB, 16) == 16 * MB


def test_a_block_that_is_read_and_kept_rows_that_wait_are_counted():
    sizes = Sizes(**SIZES)
    (part,) = {sizes.rows}  # 41 MB are one part
    assert part == 102_400 * 400
    assert sizes.part_rows == 102_400
    tasks = project(sizes, on_disk=True).tasks
    assert tasks["sample"] == int(1.05 * (40 * MB + 60 * MB + 2 * part)) + 16 * MB
    held = project(sizes, on_disk=False)
    assert held.held == part
    assert held.tasks["sample"] == int(1.05 * 100 * MB) + 16 * MB


@pytest.mark.parametrize("stage", ["coarse", "partition", "fine", "label"])
def test_larger_shapes_take_more_and_no_stage_takes_less_than_its_arrays(stage):
    small = project(Sizes(**SIZES), on_disk=True).tasks[stage]
    larger = SIZES | {"n_samples": 150, "block_bytes": 60 * MB, "read_bytes": 90 * MB}
    assert project(Sizes(**larger), on_disk=True).tasks[stage] > small
    least = {
        "coarse": 40_000 * 400,  # 2000 rows of each big cluster
        "partition": 102_400 * 400,
        "fine": 102_400 * 400,
        "label": 100 * MB,
    }
    assert small > least[stage]


def test_caps_bound_what_rows_take_however_many_there_are():
    many = SIZES | {"n_features": 10**8, "n_clusters": 10**4, "n_rows": 2_560_000}
    more = many | {"n_rows": 100 * 2_560_000}
    for stage in ("coarse", "fine"):
        tasks = [project(Sizes(**s), on_disk=True).tasks[stage] for s in (many, more)]
        assert tasks[0] == tasks[1]


def test_rows_of_this_process_are_not_counted():
    in_place = Sizes(**SIZES | {"copied": False, "read_bytes": 0})
    assert project(in_place, on_disk=False).held == 0


def test_coordinates_of_few_rows_are_counted_where_they_are_held():
    few = {"n_rows": 10_000, "beyond": True, "here": True}  # 400 bytes each
    held = project(Sizes(**SIZES | few), on_disk=False)
    assert held.coordinates == 10_000 * 200, "half as many axes as dimensions"
    training = held._replace(tasks={"rows": 500 * MB})
    without = training._replace(coordinates=0)
    assert training.peak() - without.peak() == held.coordinates
    for other in (
        {"beyond": False},
        {"here": False},
        {"evens": True},
        {"n_samples": 1025},
        {"n_rows": 10_000_000},
    ):
        sizes = Sizes(**SIZES | few | other)
        assert project(sizes, on_disk=False).coordinates == 0, other
    assert project(Sizes(**SIZES | few), on_disk=True).coordinates == 0


def test_threads_share_what_is_held():
    projected = Projection(50, {"sample": 100, "fine": 80, "label": 500})
    assert projected.peak(1) == 500
    assert projected.peak(2) == int(1.15 * 1000)
    shared = projected._replace(model=30)
    assert shared.peak(1) == 530
    assert shared.peak(2) == int(1.15 * 1030), "threads share the centers"
    projected = Projection(50, {"sample": 100, "label": 10})
    assert projected.peak(1) == 150


def test_a_worker_of_the_least_limit_is_just_enough():
    projected = Projection(0, {"sample": 400 * MB, "label": 0})
    limit = projected.least_limit()
    assert usable(limit) >= 400 * MB > usable(limit - 10)
    assert usable(IDLE) == 0


# Fits


def written(path, shape, chunks, dtype=np.float32, skew=False):
    """Write noise about blobs that follow each other, or most of them about one."""
    array = zarr.create_array(path, shape=shape, chunks=chunks, dtype=dtype)
    n_features, n_samples = shape
    centers = np.random.default_rng(0).normal(size=(500, n_samples)) * 2
    if skew:
        centers[50:] *= 0.02
    for start in range(0, n_features, chunks[0]):
        stop = min(start + chunks[0], n_features)
        rng = np.random.default_rng([1, start])
        values = rng.standard_normal((stop - start, n_samples), dtype=np.float32)
        values *= 0.3 if skew else 1
        values += centers[np.arange(start, stop) * 500 // n_features]
        if np.dtype(dtype).kind == "i":
            values *= 1000
        array[start:stop] = values.astype(dtype)
    return zarr.open_array(path, mode="r")


def test_what_no_worker_can_hold_is_refused_before_it_is_read(tmp_path):
    X = written(tmp_path / "x.zarr", (300_000, 100), (300_000, 100))
    with (
        local_cluster(1, memory_limit="512MiB") as cluster,
        Client(cluster),
        pytest.raises(MemoryError) as refused,
    ):
        HierarchicalKMeans(9, work_dir=tmp_path / "work").fit(X)
    said = str(refused.value)
    assert "a worker of 512 MiB can give it 72 MiB" in said
    assert "Store X in smaller chunks (16 to 64 MB), or give it at least" in said
    assert not (tmp_path / "work").exists()


def test_few_threads_run_where_memory_is_short(monkeypatch):
    X = np.random.default_rng(0).normal(size=(4000, 5))
    expected = HierarchicalKMeans(9).fit(X)
    ran = []
    original = Runner.limit_threads

    def limited(runner, most):
        ran.append(most)
        return original(runner, most)

    free = type("Free", (), {"available": 40 * MB})
    monkeypatch.setattr(Runner, "limit_threads", limited)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with dask.config.set(num_workers=2):  # also where there is one core
        again = HierarchicalKMeans(9).fit(X)
    assert np.array_equal(again.labels_, expected.labels_)
    assert ran == [1]
    free.available = MB
    with pytest.raises(MemoryError, match="but this machine can give it 0 MiB"):
        HierarchicalKMeans(9).fit(X)


SHAPES = {
    "float32": ((1_000_000, 128), (32_768, 128), np.float32, 1024, 1),
    "float64": ((500_000, 100), (20_000, 100), np.float64, 500, 1),
    "int16": ((1_500_000, 100), (100_000, 100), np.int16, 1000, 1),
    "large chunks": ((600_000, 128), (262_144, 128), np.float32, 1000, 1),
    "joined chunks": ((500_000, 128), (65_536, 64), np.float32, 500, 1),
    "skew": ((1_000_000, 100), (50_000, 100), np.float32, 1200, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_projected_memory_is_that_measured(name, tmp_path):
    shape, chunks, dtype, n_clusters, n_workers = SHAPES[name]
    X = written(tmp_path / "x.zarr", shape, chunks, dtype, skew=name == "skew")
    assert 1 <= projected_to_measured(X, n_clusters, n_workers) <= 1.5


@pytest.mark.slow
def test_projected_memory_of_threads_is_enough(tmp_path):
    """How far their reads overlap is chance, so no less can be promised."""
    X = written(tmp_path / "x.zarr", (500_000, 128), (32_768, 128))
    assert 1 <= projected_to_measured(X, 500, 0)


def warm():
    """Import what tasks need, and begin to watch the peak of this process."""
    import sklearn.cluster  # noqa: F401

    import hkmeans_dask.storage.source  # noqa: F401

    Path("/proc/self/clear_refs").write_text("5")
    return os.getpid(), psutil.Process().memory_info().rss


def peak(pid):
    """Highest resident memory since `warm`."""
    (line,) = re.findall(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(line) * 1024


def fit_in_threads(path, n_clusters):
    """Fit in this process; print what it took."""
    X = zarr.open_array(path, mode="r")
    model = HierarchicalKMeans(int(n_clusters))
    projected = model.plan(X).process_bytes
    pid, idle = warm()
    model.fit(X)
    print(projected, peak(pid) - idle)


def projected_to_measured(X, n_clusters, n_workers):
    """Projected peak of the process that computes, divided by the measured one."""
    if not n_workers:
        path = X.store.root / X.path
        code = (
            "import sys; from tests.planning.test_memory import fit_in_threads; "
            "fit_in_threads(*sys.argv[1:])"
        )
        command = [sys.executable, "-c", code, path, str(n_clusters)]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        projected, measured = map(int, ran.stdout.split())
        return projected / measured
    model = HierarchicalKMeans(n_clusters)
    with local_cluster(n_workers, memory_limit="8GiB") as cluster, Client(cluster) as c:
        idle = dict(c.run(warm).values())
        projected = model.plan(X).process_bytes
        model.fit(X)
        measured = max(peak(pid) - before for pid, before in idle.items())
    return projected / measured


def peak_of(function):
    """Peak of what NumPy holds while a function runs."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        function()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def sizes_like(n_rows, n_dims, n_clusters):
    """Sizes of a fit that trains on all of so many float32 rows."""
    shape = {"n_features": n_rows, "n_rows": n_rows, "n_samples": n_dims}
    n_big = int(np.sqrt(n_clusters))
    return Sizes(**SIZES | shape | {"n_clusters": n_clusters, "n_big": n_big})


@pytest.mark.parametrize(
    ("n_points", "n_dims", "n_clusters"),
    [(2000, 40, 32), (2000, 4000, 5), (1200, 4000, 130), (1200, 400, 130)],
)
def test_seeding_holds_no_more_than_projected(n_points, n_dims, n_clusters):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(n_points, n_dims)).astype("f4")
    held = peak_of(lambda: seeding.seed_kmeans_plusplus(points, n_clusters, 10, rng))
    projected = memory.training(n_points, n_clusters, sizes_like(*points.shape, 900))
    assert held <= memory.SPARE * projected


@pytest.mark.parametrize(("n_points", "n_dims"), [(2500, 3000), (16_000, 160)])
@pytest.mark.parametrize("along", [True, False])
def test_the_coarse_stage_holds_no_more_than_projected(n_points, n_dims, along):
    rng = np.random.default_rng(0)
    spread = np.where(np.arange(n_dims) < 10, 5, 0.1) if along else 1
    points = (rng.normal(size=(n_points, n_dims)) * spread).astype("f4")
    order, starts = np.arange(n_points), np.array([0, n_points])
    rows = Rows(points, order, order.astype(np.uint64), starts, 0)
    schedule, found = Schedule("k-means++", 1000, 10, 10), []
    most = partial(coarse_rows, 36)
    how = ([rows], [rows], most, 36, schedule, 0, None, False, InMemory(), "coarse")
    held = peak_of(lambda: found.append(coarse._train(*how)))
    assert bool(found[0]["axes"].size) == (along and n_dims == 160)
    projected = project(sizes_like(*points.shape, 36 * 36), on_disk=False)
    assert held <= projected.tasks["coarse"]
