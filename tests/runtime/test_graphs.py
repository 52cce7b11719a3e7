"""Graphs are written in linear time, and compute what dask's own would."""

import asyncio
import cProfile
import pstats
from collections import Counter

import dask
import dask.array as da
import numpy as np
import pytest
from dask.callbacks import Callback
from distributed import Client

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.inputs import arrays
from hkmeans_dask.planning.job import job_of
from hkmeans_dask.runtime.graphs import fused
from hkmeans_dask.runtime.tasks import map_blocks, task, tasks
from hkmeans_dask.stages import label
from tests.conftest import local_cluster

rng = np.random.default_rng(0)


class Stored:
    """An array that is read by slices."""

    ndim, dtype = 2, np.dtype(np.float32)

    def __init__(self, shape):
        self.shape = shape
        self.reads = 0

    def __getitem__(self, index):
        """Read rows of which only the last column is not their number."""
        self.reads += 1
        return np.arange(self.shape[0], dtype=self.dtype)[index[0], None] + [0, 0, 1]


def stored(n_blocks):
    return da.from_array(Stored((2 * n_blocks, 3)), chunks=(2, 3), asarray=False)


def plus(block, start, *others):
    """Give all that a task got."""
    return start, block.sum(), others


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("wide", [1, 2])
@pytest.mark.parametrize("kind", ["array", "sum", "read", "slice", "twice", "random"])
def test_blocks_come_with_their_first_row_and_what_is_beside_them(kind, wide, again):
    X = rng.normal(size=(10, 4))
    chunks = ((3, 4, 3), (4 // wide,) * wide)
    lazy = {
        "array": lambda: da.from_array(X, chunks=chunks),
        "sum": lambda: da.from_array(X, chunks=chunks) + 1,
        "read": lambda: da.from_array(X, chunks=chunks, asarray=False, lock=True),
        "slice": lambda: da.from_array(X, chunks=chunks)[:, ::-1],
        "twice": lambda: (lambda x: x + (x - 1) * x)(da.from_array(X, chunks=chunks)),
        "random": lambda: da.random.default_rng(0).normal(size=(10, 4), chunks=chunks),
    }[kind]()
    column = da.from_array(np.arange(10)[:, None], chunks=(chunks[0], 1))
    later = task("later", int, 7)
    if again:
        lazy = fused(lazy)
        map_blocks("sum", plus, lazy)
    rows = map_blocks("sum", plus, lazy, column, later, None, ("a", 1))
    found = dask.compute(*[one for row in rows for one in row])
    expected = [
        (start, lazy[part, cut].sum().compute(), np.arange(10)[part, None].tolist())
        for start, part in [(0, np.s_[:3]), (3, np.s_[3:7]), (7, np.s_[7:])]
        for cut in np.split(np.arange(4), wide)
    ]
    for (start, total, others), wanted in zip(found, expected, strict=True):
        assert start == wanted[0]
        assert total == pytest.approx(wanted[1])
        assert others[0].tolist() == wanted[2]
        assert others[1:] == (7, None, ("a", 1))


def test_an_array_that_is_asked_for_twice_is_read_once():
    array = Stored((6, 3))
    meta = np.empty((0, 0))
    X = da.from_array(array, chunks=(2, 3), asarray=False, meta=meta)
    rows = map_blocks("sum", plus, X, X[:, :1])
    dask.compute(*[row[0] for row in rows], scheduler="threads")
    assert array.reads == 3


@pytest.mark.parametrize("weighted", [False, True])
def test_tasks_of_an_array_are_fused_once_in_a_fit(weighted, monkeypatch):
    """Though it is read twice, and once more in each pass that refines."""
    fuse, fusing = da.Array.__dask_optimize__, []

    def counted(graph, keys, **options):
        fusing.extend(name for name, *_ in keys)
        return fuse(graph, keys, **options)

    monkeypatch.setattr(da.Array, "__dask_optimize__", staticmethod(counted))
    array = Stored((60, 3))
    X = da.from_array(array, chunks=(2, 3), asarray=False) + 1
    weights = np.arange(1, 61) if weighted else None
    HierarchicalKMeans(4, refine=1).fit(X.astype(np.float64), feature_weight=weights)
    assert fusing.count(fusing[0]) == 30
    assert array.reads >= 3 * 30


@pytest.mark.parametrize("kind", ["slice", "rows", "sum"])
def test_no_task_puts_a_read_in_order_again(kind):
    """As dask does where it fuses tasks, each time that they run."""
    lazy = da.from_array(rng.normal(size=(60, 4)), chunks=(2, 4))
    X = fused({"slice": lazy[3:], "rows": lazy[2:], "sum": lazy + 1}[kind])
    X = X.blocks[1:9] if kind == "rows" else X
    weights = da.from_array(np.ones((len(X), 1)), chunks=(X.chunks[0], 1))
    for given in ((), (weights,)):
        graph = map_blocks("sum", plus, X, *given)[0][0].dask
        assert "_execute_subgraph" not in str(list(map(called, graph.values())))


def called(task):
    """Give the functions that a task calls, and the tasks within it."""
    within = [called(one) for one in getattr(task, "args", ())]
    return getattr(getattr(task, "func", None), "__name__", ""), within


def test_lists_of_tasks_are_computed_first_whatever_they_are_made_of():
    first = tasks("first", int, [(1,), (2,), (3,)])
    (held,) = dask.persist(task("held", int, 4))
    second = tasks("second", list, [(first[:2],), ([*first[2:], held, 5],), ([6],)])
    assert dask.compute(*second) == ([1, 2], [3, 4, 5], [6])


def calls(work):
    """Count the calls that some work makes."""
    with cProfile.Profile() as profile:
        work()
    return pstats.Stats(profile).total_calls


@pytest.mark.parametrize("together", [1, 10**6])
def test_building_takes_linear_time(monkeypatch, together):
    """With all labels of a file from one block, or from all."""

    def build(n_blocks):
        X = stored(n_blocks)
        rows = [row[0] for row in map_blocks("label", plus, X)]
        step = min(together, n_blocks)
        several = [(rows[at : at + step],) for at in range(0, n_blocks, step)]
        graph = tasks("labels", list, several)[0].dask
        assert len(graph) <= 2 * n_blocks + 1
        return graph

    build(10)
    few, many = (calls(lambda n=n: build(n)) for n in (200, 1600))
    assert many < 10 * few
    assert many / 1600 < 400, "calls of Python for each block"


def test_a_fit_takes_linear_time(monkeypatch):
    monkeypatch.setattr(label, "LABELS_TOGETHER", 2)
    values = rng.normal(size=(3200, 2)).astype(np.float32)

    def fit(n_blocks):
        X = da.from_array(values[: 2 * n_blocks], chunks=(2, 2))
        with dask.config.set(scheduler="synchronous"):
            HierarchicalKMeans(4, max_features_per_cluster=20).fit(X)

    fit(10)
    few, many = (calls(lambda n=n: fit(n)) for n in (200, 1600))
    assert many < 10 * few


def test_distributed_does_not_warn_of_many_blocks():
    """It does where a graph has 10 MiB, as those of 50,000 blocks."""
    threshold = {"distributed.admin.large-graph-warning-threshold": 2**14}
    X = da.from_array(rng.normal(size=(600, 500)), chunks=(2, 500))
    with local_cluster(1, processes=False) as cluster, Client(cluster):
        with dask.config.set(threshold):
            HierarchicalKMeans(4).fit(stored(300))
            with pytest.warns(UserWarning, match="large graph"):
                HierarchicalKMeans(4).fit(X)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"refine": 2},
        {"nested": False},
        {"missing": "exclude"},
        {"allocation": "inertia"},
        {"balance": 0.5},
    ],
)
@pytest.mark.parametrize("durable", [False, True])
def test_a_phase_has_at_most_three_tasks_a_chunk(parameters, durable, tmp_path):
    """And as many as big clusters, or those that begin and end it."""
    n_blocks = 300
    X = rng.normal(size=(10 * n_blocks, 4))
    work_dir = tmp_path if durable else None
    model = HierarchicalKMeans(25, work_dir=work_dir, **parameters)
    found = Counter()

    def count(key, *_):
        name = key[0] if isinstance(key, tuple) else key
        found[name.split("-")[1]] += name.startswith("hkmeans-")

    with Callback(posttask=count), dask.config.set(scheduler="synchronous"):
        model.fit(da.from_array(X, chunks=(10, 4)))
        model.transform(da.from_array(X, chunks=(10, 4))).compute()
    passes = max(1, model.n_passes_ - 2)
    assert found["sample"] == found["label"] == n_blocks
    assert all(n <= (3 * n_blocks + 30) * passes for n in found.values()), found
    assert found.total() <= (3 + 2 * passes) * n_blocks + 600


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_thousand_blocks_are_sent_and_scheduled_without_a_warning():
    """By a scheduler without workers: nothing is done yet, all of it is known."""
    X = stored(100_000)
    with (
        local_cluster(0) as cluster,
        Client(cluster) as client,
    ):
        features = arrays.read_features(X, 0)
        parameters = HierarchicalKMeans(1000).get_params(deep=False)
        runner = job_of(parameters, features, None).runner
        labels = [row[0] for row in map_blocks("label", plus, features.blocks)]
        with runner._sending():
            future = client.compute(task("labels", len, labels))
        assert client.run_on_scheduler(_n_tasks, least=100_001) >= 100_001
        future.cancel()


async def _n_tasks(dask_scheduler, least):
    """Count the tasks that a scheduler knows when it has got a graph of so many."""
    while len(dask_scheduler.tasks) < least:
        await asyncio.sleep(0.1)
    return len(dask_scheduler.tasks)
