"""Workers unlike the client: of other versions, late, elsewhere, without the mount."""

import importlib
import os
import pickle
import subprocess
import sys
import sysconfig
import threading
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client
from numpy.testing import assert_array_equal
from zarr.storage import LocalStore

import hkmeans_dask
from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.storage import outputs
from tests.conftest import local_cluster

VALUES = np.random.default_rng(0).normal(size=(3000, 8))
EXPECTED = HierarchicalKMeans(20).fit(VALUES)
PACKAGE = Path(hkmeans_dask.__file__).parent


def put(path):
    zarr.create_array(path, data=VALUES, chunks=(250, 8))
    return path


@pytest.fixture
def cluster():
    """Start a scheduler without workers, and connect."""
    with local_cluster(0) as cluster, Client(cluster) as client:
        yield client


@contextmanager
def worker(client, folder, *, before=(), python=(sys.executable,), path=PACKAGE.parent):
    """Start a worker process in a folder."""
    command = ["-m", "distributed.cli.dask_worker", client.scheduler.address]
    options = ["--no-nanny", "--no-dashboard", "--nthreads", "1"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*before, *python, *command, *options],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(path)},
            stderr=log,
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:  # how workers end is not what is tested
                process.kill()
                process.wait()


# Versions


def packages(folder, version):
    """Make a folder of all packages, but this one in a version of its own, if any."""
    folder.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        ours = path.name.startswith(("hkmeans_dask", "_hkmeans_dask", "__editable__"))
        if not ours and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    if version:
        (folder / "hkmeans_dask").symlink_to(PACKAGE)
        known = folder / f"hkmeans_dask-{version}.dist-info"
        known.mkdir()
        (known / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: hkmeans_dask\nVersion: {version}\n"
        )
    return folder


def worker_of(client, folder, version):
    """Start a worker that finds another version of this package."""
    path = packages(folder / "packages", version)
    return worker(client, folder, python=(sys.executable, "-S"), path=path)


@pytest.mark.parametrize("version", ["0.0.9", None])
def test_workers_of_another_version_are_refused(cluster, tmp_path, version):
    X = da.from_array(VALUES, chunks=(250, 8))
    with worker_of(cluster, tmp_path, version):
        cluster.wait_for_workers(1, timeout=30)
        theirs = version or "no version"
        message = (
            rf"^Worker tcp://127.0.0.1:\d+ has .*{theirs} of hkmeans_dask, but the "
            rf"client has version {hkmeans_dask.__version__}\. Install that version"
        )
        with pytest.raises(ImportError, match=message):
            HierarchicalKMeans(20).fit(X)


def test_workers_of_another_version_that_come_later_are_refused(cluster, tmp_path):
    """As those of a batch system do: at the time of the call there is none."""
    X = da.from_array(VALUES, chunks=(250, 8))
    # It may also come just before the client asks for versions.
    who = r"(Process \d+ on .*|Worker .*)"
    message = f"^{who} has version 0.0.9 of hkmeans_dask, but the client"
    with worker_of(cluster, tmp_path, "0.0.9"):
        assert not cluster.scheduler_info()["workers"]
        with pytest.raises(ImportError, match=message):
            HierarchicalKMeans(20).fit(X)
        for lazy in (EXPECTED.transform(X), EXPECTED.predict(X)):
            with pytest.raises(ImportError, match=message):
                lazy.compute()


# Late, and elsewhere


def noted_when_open(block, folder):
    """Note who reads a block, and wait for the gate to be opened."""
    (folder / f"{os.getpid()}").touch()
    deadline = time.monotonic() + 60
    while not (folder / "gate").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return block


def open_gate(client, n_workers, folder):
    """Open the gate when so many workers have come, the first one while it reads."""
    while not any(folder.iterdir()):
        time.sleep(0.01)
    client.cluster.scale(n_workers)
    client.wait_for_workers(n_workers, timeout=60)
    (folder / "gate").touch()


def fit_with_late_workers(client, n_workers, source, folder):
    """Fit, and give the model and the processes that read X."""
    folder.mkdir()
    X = da.from_zarr(zarr.open_array(source, mode="r"), chunks=(250, 8))
    X = X.map_blocks(noted_when_open, folder, meta=X._meta)
    opener = threading.Thread(
        target=open_gate, args=(client, n_workers, folder), daemon=True
    )
    opener.start()
    model = HierarchicalKMeans(20, work_dir="work").fit(X)
    opener.join()
    return model, {path.name for path in folder.iterdir()} - {"gate"}


def test_workers_that_come_during_the_fit_help(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = put(tmp_path / "x.zarr")
    with local_cluster(1) as cluster, Client(cluster) as client:
        model, readers = fit_with_late_workers(client, 3, source, tmp_path / "notes")
        processes = {str(pid) for pid in client.run(os.getpid).values()}
    assert len(readers) > 1
    assert readers <= processes
    assert_array_equal(model.labels_, EXPECTED.labels_)
    assert_array_equal(model.cluster_centers_, EXPECTED.cluster_centers_)


def test_a_worker_in_another_folder_finds_relative_paths(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    put(Path("x.zarr"))
    (tmp_path / "elsewhere").mkdir()
    with worker(cluster, tmp_path / "elsewhere"):
        cluster.wait_for_workers(1, timeout=30)
        (seen,) = cluster.run(os.getcwd).values()
        assert seen == str(tmp_path / "elsewhere")
        X = zarr.open_array("x.zarr", mode="r")
        model = HierarchicalKMeans(20, work_dir="work").fit(X)
        assert_array_equal(model.labels_, EXPECTED.labels_)
    assert os.listdir("elsewhere") == ["log"]


# Without a package


@pytest.fixture
def stores_of_the_client(tmp_path, monkeypatch):
    """Give a kind of stores from a module that workers do not find."""
    module = tmp_path / "modules" / "only_the_client_has_it.py"
    module.parent.mkdir()
    module.write_text(
        "from tests.strategies import Wrapped\nclass Store(Wrapped): pass\n"
    )
    monkeypatch.syspath_prepend(module.parent)
    return importlib.import_module(module.stem).Store


def test_a_package_that_workers_lack_is_named(cluster, tmp_path, stores_of_the_client):
    """They would end where they take the task apart, and the client would wait."""
    (tmp_path / "here").mkdir()
    put(tmp_path / "x.zarr")
    X = zarr.open_array(stores_of_the_client(LocalStore(tmp_path / "x.zarr")), mode="r")
    out = zarr.create_array(
        stores_of_the_client(LocalStore(tmp_path / "out")), shape=(3000, 8), dtype="f8"
    )
    message = r"cannot be used by process \d+ on .*: No module named 'only_the_client"
    with worker(cluster, tmp_path / "here"):
        with pytest.raises(ImportError, match=message):
            HierarchicalKMeans(20).fit(X)
        with pytest.raises(ImportError, match=message):
            EXPECTED.transform(X).compute()
        writes = outputs._writes(da.from_array(VALUES, chunks=(250, 8)), out)
        with pytest.raises(ImportError, match=message):
            dask.compute(*writes)


# Without the mount


def hiding(folder):
    """Command that hides a folder from what it runs, as if it was not mounted."""
    script = f"mount -t tmpfs none '{folder}' && exec \"$@\""
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


@pytest.fixture
def needs_mounts(tmp_path):
    tried = subprocess.run([*hiding(tmp_path), "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"cannot hide a folder from a process here: {tried.stderr}")


@pytest.mark.usefixtures("needs_mounts")
@pytest.mark.parametrize("hidden", ["data", "work"])
def test_a_worker_without_the_mount_is_an_error_not_zeros(cluster, tmp_path, hidden):
    for name in ("data", "work", "here"):
        (tmp_path / name).mkdir()
    X = zarr.open_array(put(tmp_path / "data/x.zarr"), mode="r")
    message = {
        "data": r"data/x\.zarr cannot be seen by process \d+ on .* Use a path or URL",
        "work": r"work/\w+ as seen by process \d+ on .* is not that of the client",
    }[hidden]
    with worker(cluster, tmp_path / "here", before=hiding(tmp_path / hidden)):
        cluster.wait_for_workers(1, timeout=30)
        with pytest.raises(OSError, match=message):
            HierarchicalKMeans(20, work_dir=tmp_path / "work").fit(X)
        if hidden == "data":
            for lazy in (EXPECTED.transform(X), EXPECTED.predict(X)):
                with pytest.raises(FileNotFoundError, match=message):
                    lazy.compute()
    with dask.config.set(scheduler="threads"):
        model = HierarchicalKMeans(20, work_dir=tmp_path / "work").fit(X)
        assert_array_equal(model.labels_, EXPECTED.labels_)


def test_labels_do_not_make_a_graph_large(two_processes):
    """3.6 million of them, of a fit in memory and of a lazy one."""
    n = 3_600_000
    values = np.repeat(np.arange(12.0, dtype="f4"), n // 12)[:, None]
    lazy = da.from_array(np.arange(12.0, dtype="f4"), 1).repeat(n // 12)[:, None]
    for X in (values, lazy):
        model = HierarchicalKMeans(12).fit(X)
        means = model.transform(lazy)
        back = model.inverse_transform(means)
        assert len(pickle.dumps(back.dask)) < 10 * 2**20
        assert back.sum().compute() == values.sum(dtype="f8")  # warnings are errors
        assert model.labels_.dtype == np.int32


def test_a_store_in_the_memory_of_one_process_is_called_so(two_processes):
    place = f"memory://{uuid.uuid4().hex}/x"
    X = zarr.create_array(place, data=np.arange(40.0).reshape(20, 2))
    with pytest.raises(FileNotFoundError, match="is in the memory of one process"):
        HierarchicalKMeans(3).fit(X)
