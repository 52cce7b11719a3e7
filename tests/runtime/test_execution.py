"""The same bits on every scheduler, and who reads, computes and limits what."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, SchedulerPlugin
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import threadpool_info, threadpool_limits

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.inputs import arrays
from hkmeans_dask.runtime.blas import one_blas_thread
from hkmeans_dask.runtime.tasks import _keep_freed_pages, task
from tests.conftest import local_cluster
from tests.strategies import nothing_computed

ROWS = 700
"""Features of a chunk; the last chunk is shorter."""

BITS = ("labels_", "cluster_centers_", "inertia_", "coarse_centers_", "sizes_")

GRID, CUBE = (12, 2), (2, 10)
"""Steps along each of so many axes."""

CASES = [
    (GRID, 60, "float32", None),
    (GRID, 60, "float64", None),
    (GRID, 60, "float32", 32),
    (GRID, 60, "float64", 32),
    (CUBE, 900, "float64", None),
]
"""Lattice, n_clusters, dtype, max_features_per_cluster (32 keeps 1920 of 4000).

The shapes make BLAS round by its threads, with Haswell and with SkylakeX kernels.
"""


def ties(lattice, dtype):
    """Features on a lattice: many are as near to one center as to another.

    What rounding decides there would be decided otherwise by other BLAS threads or
    other tiles. 400 samples, so that a product of a tile is worth several threads.
    """
    n_steps, n_axes = lattice
    rng = np.random.default_rng(0)
    steps = rng.integers(n_steps, size=(4000, n_axes)).astype(np.float64)
    return (steps @ rng.normal(size=(n_axes, 400))).astype(dtype)


def blocks_of(X, rows=ROWS):
    return da.from_array(X, chunks=(rows, -1))


def on_disk(folder, lattice, dtype):
    path = folder / f"{lattice[0]}-{dtype}.zarr"
    if not path.exists():
        zarr.create_array(path, data=ties(lattice, dtype), chunks=(ROWS, 400))
    return blocks_of(zarr.open_array(path, mode="r"))


def digest(model):
    """Hash what must not differ in a single bit."""
    found = {name: np.asarray(getattr(model, name)) for name in BITS}
    return {
        name: f"{values.dtype} {hashlib.sha256(values.tobytes()).hexdigest()}"
        for name, values in found.items()
    }


def fit_case(folder, case):
    lattice, n_clusters, dtype, most = case
    model = HierarchicalKMeans(n_clusters, max_features_per_cluster=most)
    return model.fit(on_disk(folder, lattice, dtype))


def noise(n_features=3000, n_samples=30, seed=0):
    return np.random.default_rng(seed).normal(size=(n_features, n_samples))


def transitions(client):
    """Count what the scheduler of a cluster in this process has been doing."""
    return client.cluster.scheduler.transition_counter


# The same bits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lattices")


@pytest.fixture(scope="module")
def expected(folder):
    """Fit with one thread, one task after the other."""
    with dask.config.set(scheduler="synchronous"):
        return [digest(fit_case(folder, case)) for case in CASES]


THREADS = {
    "threads": {"scheduler": "threads"},
    "one thread": {"scheduler": "threads", "num_workers": 1},
    "five threads": {"scheduler": "threads", "num_workers": 5},
}
PROCESSES = {"two processes": 2, "four processes": 4, "one process": 1}
PAIRS_OF_THREADS = {"two processes of two threads": True, "no other process": False}


@pytest.fixture(scope="class", params=[*THREADS, *PROCESSES, *PAIRS_OF_THREADS])
def scheduler(request, cluster_of_two):
    """Use each scheduler in turn, all cases on one cluster."""
    if request.param in THREADS:
        with dask.config.set(THREADS[request.param]):
            yield
    elif request.param in PROCESSES:
        with Client(cluster_of_two):
            scale(cluster_of_two, PROCESSES[request.param])
            yield
            scale(cluster_of_two, 2)
    else:
        processes = PAIRS_OF_THREADS[request.param]
        with local_cluster(2, 2, processes=processes) as cluster, Client(cluster):
            yield


def scale(cluster, n_workers):
    """Start or end workers, and wait until so many are there."""
    cluster.scale(n_workers)
    while len(cluster.scheduler.workers) != n_workers:
        time.sleep(0.05)


@pytest.mark.usefixtures("scheduler")
class TestEveryScheduler:
    """A class, so that its last scheduler ends with it."""

    @pytest.mark.parametrize("index", range(len(CASES)), ids=map(str, CASES))
    def test_gives_the_same_bits(self, index, folder, expected):  # noqa: D102
        assert digest(fit_case(folder, CASES[index])) == expected[index]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rounding_decides_in_the_data_of_these_tests(case):
    """With the samples backwards sums round differently, and labels differ.

    So would they with other BLAS threads: else the same bits would prove little.
    """
    lattice, n_clusters, dtype, most = case
    X = ties(lattice, dtype)
    model = HierarchicalKMeans(n_clusters, max_features_per_cluster=most)
    forwards, backwards = model.fit_predict(X), model.fit_predict(X[:, ::-1])
    assert (forwards != backwards).mean() > 0.001


def print_digests(folder):
    """Print what this process' kernels find, with each kind of scheduler."""
    folder = Path(folder)

    def digests():
        return [digest(fit_case(folder, case)) for case in CASES]

    found = []
    for name in ("threads", "synchronous"):
        with dask.config.set(scheduler=name):
            found.append(digests())
    with local_cluster(1, 2) as cluster, Client(cluster):
        found.append(digests())
    cores = [library.get("architecture") for library in threadpool_info()]
    print(json.dumps([cores[0], *found]))


@pytest.mark.slow
def test_the_same_bits_with_other_kernels(folder):
    """In another process: OpenBLAS chooses its kernels when it is loaded.

    Haswell's, unless that is what all the tests run with: then the processor's own.
    Those of OpenBLAS 0.3.34 overrun their stack where they are forced on AMD's Zen 4
    and 5 (OpenMathLib/OpenBLAS#6021), so older ones stand in for them.
    """
    environment = os.environ.copy()
    forced = environment.pop("OPENBLAS_CORETYPE", None)
    versions = [library["version"] or "" for library in threadpool_info()]
    broken = any(version.startswith("0.3.34") for version in versions)
    wanted = "Sandybridge" if broken else "Haswell"
    if forced is None:
        environment["OPENBLAS_CORETYPE"] = wanted
    module = "tests.runtime.test_execution"
    call = f"from {module} import print_digests; print_digests({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", call],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    core, one, *others = json.loads(done.stdout.splitlines()[-1])
    assert forced or core in (wanted, None), "None: this is not OpenBLAS on x86"
    assert others == [one] * 2


def test_what_is_in_memory_is_fitted_without_importing_distributed():
    call = (
        "import sys, numpy, hkmeans_dask\n"
        "hkmeans_dask.HierarchicalKMeans(3).fit(numpy.eye(20))\n"
        "assert 'distributed' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_inertia_and_sums_do_not_depend_on_the_order_of_arrival(folder):
    """Blocks that arrive late, at random, in five threads."""

    def late(block):
        time.sleep(np.random.default_rng().uniform(0, 0.01))
        return block

    X = on_disk(folder, GRID, "float32")[:, :50].rechunk((100, -1))
    slow = X.map_blocks(late, meta=np.empty((0, 0), np.float32))
    with dask.config.set(scheduler="synchronous"):
        plain = HierarchicalKMeans(60).fit(X)
        reduced = plain.transform(X).compute()
    with dask.config.set(scheduler="threads", num_workers=5):
        model = HierarchicalKMeans(60).fit(slow)
        assert digest(model) == digest(plain)
        assert_array_equal(model.transform(slow), reduced)


def test_fits_at_the_same_time_do_not_disturb_each_other():
    X = noise()

    def fit(prepare):
        return digest(HierarchicalKMeans(60).fit(prepare(X)))

    alone = [fit(blocks_of), fit(np.asarray)]  # inertia is added up by block
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fit, [blocks_of, np.asarray] * 4)) == alone * 4


OTHER_CHUNKS = [(3000, -1), (250, -1), ((1, 2999), -1), (60, -1), (900, 7)]


@pytest.mark.parametrize("chunks", OTHER_CHUNKS, ids=str)
@pytest.mark.parametrize("most", [None, 32])
def test_other_chunks_give_the_same_centers(chunks, most):
    X = noise()
    plain = HierarchicalKMeans(60, max_features_per_cluster=most).fit(blocks_of(X))
    model = HierarchicalKMeans(60, max_features_per_cluster=most)
    model.fit(da.from_array(X, chunks=chunks))
    assert_array_equal(model.cluster_centers_, plain.cluster_centers_)
    assert_array_equal(model.coarse_centers_, plain.coarse_centers_)
    assert (model.labels_.compute() == plain.labels_.compute()).mean() >= 0.999
    assert_allclose(model.inertia_, plain.inertia_, rtol=1e-9)


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_other_chunks_give_the_same_centers_where_rounding_decides(case, folder):
    plain = fit_case(folder, case)
    lattice, n_clusters, dtype, most = case
    model = HierarchicalKMeans(n_clusters, max_features_per_cluster=most)
    model.fit(blocks_of(ties(lattice, dtype), rows=450))
    assert_array_equal(model.cluster_centers_, plain.cluster_centers_)


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_predict_repeats_the_labels_where_rounding_decides(case, folder):
    model, X = fit_case(folder, case), on_disk(folder, *case[::2])
    for scheduler in ("threads", "synchronous"):
        labels = model.predict(X).compute(scheduler=scheduler)
        assert_array_equal(labels, model.labels_)


# Who reads X, and how often


def noted(block, folder, block_info=None):
    """Return a block, and write who read it into a file of its own."""
    place = "-".join(map(str, block_info[0]["chunk-location"]))
    with (Path(folder) / place).open("a") as file:
        file.write(f"{os.getpid()} {threading.get_ident()}\n")
    return block


def watched(X, folder):
    """Note every read of the blocks of a dask array."""
    folder.mkdir()
    return X.map_blocks(noted, str(folder), meta=np.empty((0, 0), X.dtype))


def reads(folder):
    """Give process and thread of each read, by block."""
    return {
        path.name: [
            tuple(map(int, line.split())) for line in path.read_text().splitlines()
        ]
        for path in folder.iterdir()
    }


class Computed(SchedulerPlugin):
    """Remember which worker computed which task."""

    def __init__(self):
        self.tasks = set()

    def transition(self, key, start, finish, *args, worker=None, **kwargs):
        """Note a task that a worker has just ended."""
        if start == "processing" and finish == "memory":
            self.tasks.add((str(key), worker))


def test_the_tasks_run_on_the_workers(two_processes, tmp_path):
    client, plugin = two_processes, Computed()
    client.cluster.scheduler.add_plugin(plugin, name="computed")
    try:
        X = watched(blocks_of(noise()), tmp_path / "reads")
        model = HierarchicalKMeans(60).fit(X)
    finally:
        client.cluster.scheduler.remove_plugin("computed")
    pids = client.run(os.getpid)
    for stage in ("sample", "coarse", "partition", "fine", "label"):
        ran = {worker for key, worker in plugin.tasks if f"hkmeans-{stage}" in key}
        assert ran, stage
        assert ran <= pids.keys()
    assert {worker for _, worker in plugin.tasks} == pids.keys()
    found = reads(tmp_path / "reads")
    assert len(found) == 5
    for readers in found.values():
        assert len(readers) == 2
        assert {pid for pid, _ in readers} <= set(pids.values())
    assert os.getpid() not in pids.values()
    assert digest(model) == digest(HierarchicalKMeans(60).fit(blocks_of(noise())))


def test_fit_leaves_nothing_on_a_cluster(two_processes):
    model = HierarchicalKMeans(60).fit(blocks_of(noise()))
    assert model.n_clusters_ == 60
    for _ in range(100):  # workers are told in the background
        if not two_processes.cluster.scheduler.tasks:
            break
        time.sleep(0.05)
    assert not two_processes.cluster.scheduler.tasks


def test_lazy_results_are_computed_on_the_workers(two_processes, tmp_path):
    X = noise()
    model = HierarchicalKMeans(60).fit(X)
    lazy_x = watched(blocks_of(X), tmp_path / "reads")
    before = transitions(two_processes)
    lazy = [model.transform(lazy_x), model.predict(lazy_x)]
    lazy.append(model.inverse_transform(lazy[0]))
    assert transitions(two_processes) == before, "a graph was computed"
    reduced, labels, back = dask.compute(*lazy)
    assert_allclose(reduced, model.transform(X), rtol=1e-12)
    assert_array_equal(labels, model.labels_)
    assert_allclose(back, reduced[labels])
    found = [
        pid for readers in reads(tmp_path / "reads").values() for pid, _ in readers
    ]
    assert set(found) <= set(two_processes.run(os.getpid).values())


def test_arrays_of_this_process_stay_in_it(two_processes):
    before = transitions(two_processes)
    X = noise()
    model = HierarchicalKMeans(60).fit(X)
    model.predict(X)
    model.inverse_transform(model.transform(X))
    HierarchicalKMeans(5, feature_axis=1).fit_transform(X)
    assert transitions(two_processes) == before


@pytest.mark.parametrize("name", ["synchronous", "threads"])
def test_a_scheduler_of_this_process_goes_before_an_active_client(
    two_processes, tmp_path, name
):
    X = watched(blocks_of(noise()), tmp_path / "reads")
    before = transitions(two_processes)
    with dask.config.set(scheduler=name):
        HierarchicalKMeans(60).fit(X)
    assert transitions(two_processes) == before
    found = {who for readers in reads(tmp_path / "reads").values() for who in readers}
    assert {pid for pid, _ in found} == {os.getpid()}
    main = threading.main_thread().ident
    assert ({thread for _, thread in found} == {main}) == (name == "synchronous")


@pytest.mark.parametrize("block_bytes", [64 * 2**20, 50_000])
@pytest.mark.parametrize("chunks", [(100, 30), (70, 30), (1000, 30), (100, 7)])
@pytest.mark.parametrize("feature_axis", [0, 1])
def test_every_chunk_is_read_twice_by_fit_and_once_by_each_method(
    counting_store, monkeypatch, feature_axis, chunks, block_bytes
):
    """Many chunks a block, one chunk a block, and chunks along samples to join."""
    monkeypatch.setattr(arrays, "BLOCK_BYTES", block_bytes)
    store, counted = counting_store
    X = noise(1000)
    turned = slice(None, None, 1 if feature_axis == 0 else -1)
    values = X if feature_axis == 0 else X.T
    z = zarr.create_array(store, data=values, chunks=chunks[turned])
    counted.clear()
    model = HierarchicalKMeans(20, feature_axis=feature_axis)
    with dask.config.set(scheduler="threads"):
        model.fit(z)
        assert len(counted) == z.nchunks
        assert set(counted.values()) == {2}
        assert model.n_passes_ == 2
        counted.clear()
        with nothing_computed():
            lazy = [model.transform(z)]
            lazy.append(model.inverse_transform(lazy[0]))
            if feature_axis == 0:
                lazy.append(model.predict(z))
        assert not counted, "a graph was only built"
        for result in lazy:
            counted.clear()
            result.compute()
            assert len(counted) == z.nchunks
            assert set(counted.values()) == {1}
    assert_array_equal(
        model.cluster_centers_, HierarchicalKMeans(20).fit(X).cluster_centers_
    )


def test_shards_are_read_whole_and_twice(counting_store):
    store, counted = counting_store
    X = noise(1000)
    layout = {"shape": X.shape, "chunks": (10, 30), "shards": (200, 30)}
    z = zarr.create_array(store, dtype=X.dtype, **layout)
    z[...] = X
    counted.clear()
    with dask.config.set(scheduler="threads"):
        model = HierarchicalKMeans(20).fit(z)
    assert len(counted) == 5
    assert set(counted.values()) == {2}
    assert_array_equal(
        model.cluster_centers_, HierarchicalKMeans(20).fit(X).cluster_centers_
    )


# What goes wrong on a cluster


def troubled(block, folder, what, block_info=None):
    """At the first and the second read of one block: die, or fail once."""
    if block_info[0]["chunk-location"][0] != 3:
        return block
    if what == "always fails":
        raise OSError("the disk is gone")
    for read in ("first", "second"):
        trouble, ended = Path(folder, f"{read} trouble"), Path(folder, f"{read} ended")
        if not trouble.exists():
            trouble.touch()
            if what == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError("the network is slow")
        if not ended.exists():
            ended.touch()
            break
    return block


def in_trouble(X, folder, what):
    return blocks_of(X).map_blocks(troubled, str(folder), what, meta=X[:0])


ALL_TROUBLE = {
    f"{read} {what}" for read in ("first", "second") for what in ("trouble", "ended")
}


def test_passing_read_errors_are_tried_again(two_processes, tmp_path):
    X = noise()
    model = HierarchicalKMeans(60).fit(in_trouble(X, tmp_path, "fails"))
    assert {path.name for path in tmp_path.iterdir()} == ALL_TROUBLE
    with dask.config.set(scheduler="threads"):
        assert digest(model) == digest(HierarchicalKMeans(60).fit(blocks_of(X)))


def test_lasting_read_errors_are_raised(two_processes, tmp_path):
    X = in_trouble(noise(), tmp_path, "always fails")
    with pytest.raises(OSError, match="the disk is gone"):
        HierarchicalKMeans(60).fit(X)
    with dask.config.set(scheduler="threads"), two_blas_threads():
        with pytest.raises(OSError, match="the disk is gone"):
            HierarchicalKMeans(60).fit(X)
        assert blas_threads() == {2}, "the limit ends with the error"


def test_killed_workers_do_not_change_a_bit(two_processes, tmp_path):
    """One dies in the first read of X, one in the second."""
    X = noise()
    before = set(two_processes.run(os.getpid).values())
    model = HierarchicalKMeans(60).fit(in_trouble(X, tmp_path, "dies"))
    after = set(two_processes.run(os.getpid).values())
    assert {path.name for path in tmp_path.iterdir()} == ALL_TROUBLE
    assert before - after, "nobody died"
    with dask.config.set(scheduler="threads"):
        assert digest(model) == digest(HierarchicalKMeans(60).fit(blocks_of(X)))


# One BLAS thread


def blas_threads():
    """Threads that the BLAS libraries of this process would use."""
    return {
        lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"
    }


def two_blas_threads():
    """Give BLAS something to limit, on a machine of one core too."""
    return threadpool_limits(2, user_api="blas")


def test_one_blas_thread_nests_and_restores():
    with two_blas_threads():
        with one_blas_thread:
            assert blas_threads() == {1}
            with one_blas_thread:
                assert blas_threads() == {1}
            assert blas_threads() == {1}
        assert blas_threads() == {2}
        with pytest.raises(ZeroDivisionError), one_blas_thread:
            raise ZeroDivisionError
        assert blas_threads() == {2}
        assert one_blas_thread(blas_threads)() == {1}
        assert blas_threads() == {2}


@pytest.mark.parametrize("limit", [None, 2])
def test_one_blas_thread_lasts_until_the_last_thread_leaves(limit):
    """Also where the application holds a limit of its own, in another thread."""
    first_is_in, first_is_out = threading.Event(), threading.Event()
    second_is_in = threading.Event()

    def first():
        with one_blas_thread:
            first_is_in.set()
            assert second_is_in.wait(10)
            found = blas_threads()
        first_is_out.set()
        return found

    def second():
        assert first_is_in.wait(10)
        with one_blas_thread:
            second_is_in.set()
            assert first_is_out.wait(10)
            return blas_threads()

    with threadpool_limits(limit, user_api="blas"), ThreadPoolExecutor(2) as pool:
        before = blas_threads()
        found = [task.result() for task in (pool.submit(first), pool.submit(second))]
        assert found == [{1}, {1}]
        assert blas_threads() == before


def test_one_blas_thread_leaves_the_control_of_blas_to_others():
    """Threads of dask that computed something lazy live on when it is done."""
    with ThreadPoolExecutor(2) as pool:
        first_is_in, second_is_in = threading.Event(), threading.Event()
        first_is_out = threading.Event()

        def first():
            with one_blas_thread:
                first_is_in.set()
                assert second_is_in.wait(10)
            first_is_out.set()
            return threading.get_ident()

        def second():
            assert first_is_in.wait(10)
            with one_blas_thread:
                second_is_in.set()
                assert first_is_out.wait(10)
            return threading.get_ident()

        def limited():
            with threadpool_limits(3, user_api="blas"):
                return blas_threads()

        tasks = [pool.submit(first), pool.submit(second)]
        assert tasks[0].result() != tasks[1].result()
        assert limited() == {3}
        found = [pool.submit(limited).result() for _ in range(10)]
        assert found == [{3}] * 10
        assert limited() == {3}


def test_one_blas_thread_counts_many_threads():
    def often(_):
        found = set()
        for _ in range(20):
            with one_blas_thread:
                found |= blas_threads()
        return found

    with two_blas_threads(), ThreadPoolExecutor(8) as pool:
        assert set().union(*pool.map(often, range(8))) == {1}
        assert blas_threads() == {2}


@pytest.mark.parametrize("name", ["threads", "synchronous"])
def test_fit_limits_blas_and_lets_go(name):
    seen = []

    def look(block):
        seen.append(blas_threads())
        return block

    X = blocks_of(noise()).map_blocks(look, meta=np.empty((0, 0)))
    with two_blas_threads(), dask.config.set(scheduler=name):
        HierarchicalKMeans(60).fit(X)
        assert blas_threads() == {2}
    assert seen == [{1}] * 10


FAULTS = """
import resource
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from hkmeans_dask.runtime import tasks

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        np.ones(2**18, np.float32)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 100

with ThreadPoolExecutor(1) as pool:  # where workers run tasks
    before = pool.submit(faults).result()
    for _ in range(2):  # the pages of the first are new
        after = pool.submit(tasks._call, tasks.VERSION, faults).result()
print(before, after)
"""
TRIM = "MALLOC_TRIM_THRESHOLD_"


def faults_of_an_array(environment):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return map(float, done.stdout.split())


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are glibc's")
@pytest.mark.parametrize(("setting", "kept"), [("65536", True), ("70000", False)])
def test_tasks_use_pages_again_where_dask_would_give_them_back(setting, kept):
    given = dask.config.get("distributed.nanny.pre-spawn-environ")
    assert given[TRIM] == 65536
    before, after = faults_of_an_array({TRIM: setting})
    assert before > 200  # of 256 pages
    assert (after < 20) if kept else (after > 200)


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are glibc's")
def test_a_process_that_started_workers_is_left_alone(monkeypatch):
    done = []
    monkeypatch.setattr("ctypes.CDLL", lambda _: done.append(_))
    monkeypatch.setenv(TRIM, "65536")  # as distributed leaves it behind
    _keep_freed_pages.__wrapped__()
    assert not done


def test_the_tasks_of_highest_rank_begin_first():
    begun = []
    shared = task("parts", list, [1])
    ranks = np.random.default_rng(0).permutation(300).tolist()
    tasks = [
        task("fine", lambda _, rank: begun.append(rank), shared, rank, rank=rank)
        for rank in ranks
    ]
    with dask.config.set(scheduler="threads", num_workers=1):
        dask.compute(task("centers", len, tasks))
    assert begun == sorted(ranks, reverse=True)
