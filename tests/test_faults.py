"""Fits that are killed, in real processes: what a second run makes of what is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

from hkmeans_dask import HierarchicalKMeans

COMMAND = [str(Path(sys.executable).parent / "hkmeans-dask"), "fit"]
# What is in the folder of a fit tells which phase it is in.
PHASES = {
    "sample": "nonce",
    "coarse": "training-0.npz",
    "partition": "coarse.npz",
    "fine": "shares.npz",
    "label": "model.npz",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Write an array that takes seconds to cluster, in spatial order."""
    place = tmp_path_factory.mktemp("faults") / "x.zarr"
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(size=(600_000, 48)), axis=0) / 50
    values = (walk + rng.normal(size=walk.shape)).astype(np.float32)
    zarr.create_array(place, data=values, chunks=(20_000, 48))
    return place


def arguments(source, model, work_dir, *more):
    return [*COMMAND, source, model, "-k", "900", "--work-dir", work_dir, *more]


def run(*args):
    subprocess.run(arguments(*args), check=True, capture_output=True, timeout=200)


def result(model):
    group = zarr.open_group(model, mode="r")
    return group["labels"][:], group["cluster_centers"][:], group.attrs["fitted"]


def same(one, other):
    return all(
        np.array_equal(a, b) for a, b in zip(one[:2], other[:2], strict=True)
    ) and (one[2]["inertia"] == other[2]["inertia"])


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    """Fit without interruption."""
    folder = tmp_path_factory.mktemp("expected")
    run(source, folder / "model.zarr", folder / "work")
    return result(folder / "model.zarr")


def stop_in(phase, process, work_dir, how=signal.SIGKILL):
    """Send a signal a moment after the first sign of a phase."""
    deadline = time.monotonic() + 60
    while not list(work_dir.glob(f"*/{PHASES[phase]}")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(0.02)
    assert process.poll() is None, f"it ended before it could be stopped in {phase}"
    process.send_signal(how)
    process.wait(timeout=60)


def start(*args):
    return subprocess.Popen(
        arguments(*args), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_fit_goes_on_and_gives_the_same_bits(
    phase, source, expected, tmp_path
):
    work_dir, model = tmp_path / "work", tmp_path / "model.zarr"
    process = start(source, model, work_dir)
    stop_in(phase, process, work_dir)
    process.stderr.close()
    process.stdout.close()
    assert not model.exists()
    (folder,) = work_dir.iterdir()
    finished = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    run(source, model, work_dir)
    assert same(result(model), expected)
    for path in folder.glob("*.npz"):
        if path.name in finished:  # what was finished is not written again
            assert path.stat().st_mtime_ns == finished[path.name]
    left = {path.name.split("-")[0] for path in folder.iterdir()}
    assert left == {"manifest.json", "nonce", "model.npz", "labels"}


def test_a_terminated_fit_says_so_and_can_go_on(source, expected, tmp_path):
    work_dir, model = tmp_path / "work", tmp_path / "model.zarr"
    process = start(source, model, work_dir)
    stop_in("fine", process, work_dir, signal.SIGTERM)
    assert process.returncode == 143
    assert "terminated" in process.stderr.read()
    process.stderr.close()
    process.stdout.close()
    assert os.listdir(tmp_path) == ["work"]
    run(source, model, work_dir)
    assert same(result(model), expected)


@pytest.mark.parametrize("first", ["1", "2"])
def test_a_fit_goes_on_with_other_workers(first, source, expected, tmp_path):
    work_dir, model = tmp_path / "work", tmp_path / "model.zarr"
    process = start(source, model, work_dir, "--workers", first)
    stop_in("fine", process, work_dir, signal.SIGTERM)
    process.stderr.close()
    process.stdout.close()
    more = ["--workers", "2", "--memory-limit", "1GB"] if first == "1" else []
    run(source, model, work_dir, *more)
    assert same(result(model), expected)


def kill_once(block, sentinel):
    """Kill the process that reads the first block after the sentinel appeared."""
    if sentinel.exists():
        sentinel.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return block


@pytest.mark.parametrize("phase", ["sample", "label"])
def test_a_killed_worker_costs_a_retry(phase, source, expected, tmp_path):
    sentinel = tmp_path / "kill"
    X = da.from_zarr(zarr.open_array(source, mode="r"), chunks=(100_000, 48))
    X = X.map_blocks(kill_once, sentinel, meta=X._meta)
    model = HierarchicalKMeans(n_clusters=900, work_dir=tmp_path / "work")
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            host="127.0.0.1",
            silence_logs=50,
        ) as cluster,
        Client(cluster),
    ):
        if phase == "sample":
            sentinel.touch()
            model.fit(X)
        else:
            fit_until_model(model, X, sentinel)
    assert not sentinel.exists()
    assert np.array_equal(model.labels_.compute(scheduler="threads"), expected[0])
    assert model.inertia_ == pytest.approx(expected[2]["inertia"], rel=1e-12)


def fit_until_model(model, X, sentinel):
    """Fit, leave the labels undone, and fit again with a worker to be killed."""
    model.fit(X)
    (folder,) = Path(model.work_dir).iterdir()
    for path in folder.glob("labels-*.npz"):
        path.unlink()
    sentinel.touch()
    model.fit(X)


def altered_after(block, sentinel, flag):
    """Give other values in the last read: the first one leaves a sentinel per block."""
    place = sentinel / f"{block[0, 0]}"
    if flag and place.exists():
        return block + 1
    place.touch()
    return block


@pytest.mark.parametrize("changes", [True, False])
def test_x_that_changes_between_the_reads_is_an_error(changes, tmp_path):
    values = np.random.default_rng(0).normal(size=(4000, 5)).astype(np.float32)
    X = da.from_array(values, chunks=(1000, 5))
    X = X.map_blocks(altered_after, tmp_path, changes, meta=X._meta)
    model = HierarchicalKMeans(n_clusters=20)
    if not changes:
        assert model.fit(X).n_clusters_ == 20
        return
    with pytest.raises(ValueError, match="X changed while it was read"):
        model.fit(X)
