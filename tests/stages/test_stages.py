"""The stages of a fit one by one, each against a plain NumPy version of itself."""

import itertools
import weakref
from typing import NamedTuple

import dask
import dask.array as da
import numpy as np
import pytest
from dask import delayed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.inputs import arrays
from hkmeans_dask.kmeans import sampling
from hkmeans_dask.kmeans.hierarchy import Hierarchy
from hkmeans_dask.kmeans.kernels import assign, inertia
from hkmeans_dask.kmeans.minibatch import Schedule
from hkmeans_dask.kmeans.sampling import key_limit, keys
from hkmeans_dask.runtime.execution import Runner
from hkmeans_dask.stages import label
from hkmeans_dask.stages import partition as partition_stage
from hkmeans_dask.stages.coarse import train_coarse
from hkmeans_dask.stages.fine import train_fine
from hkmeans_dask.stages.label import as_array, label_features
from hkmeans_dask.stages.partition import partition
from hkmeans_dask.stages.sample import keep_training_rows
from hkmeans_dask.workspace import rows as rows_module
from hkmeans_dask.workspace import spread
from hkmeans_dask.workspace.files import InMemory, OnDisk
from hkmeans_dask.workspace.records import Coarse
from hkmeans_dask.workspace.rows import Rows, coarse_rows, gather
from tests.strategies import FLOATS, blobs, cuts, n_distinct, nearest, quick, unread

SCHEDULE = Schedule("k-means++", 1000, 10, 10)
KINDS = ("in memory", "spread", "on disk")
UNLIMITED = 2**40
dtypes = pytest.mark.parametrize("dtype", FLOATS)
# The fixtures below only set constants and make empty workspaces, in any example.
shared = [HealthCheck.function_scoped_fixture]
few = settings(quick, max_examples=25, suppress_health_check=shared)
rng = np.random.default_rng(0)
VALUES = rng.integers(-(2**15), 2**15, size=(97, 3)).astype(np.int16)


@pytest.fixture
def new_workspace(tmp_path):
    """Make an empty workspace of the kind that is asked for."""
    folders = (tmp_path / str(number) for number in itertools.count())

    def make(kind):
        if kind == "on disk":
            return OnDisk(next(folders))
        return InMemory(spread=kind == "spread")

    return make


@pytest.fixture(params=KINDS)
def new(request, new_workspace):
    """Make an empty workspace, of one kind per test."""
    return lambda: new_workspace(request.param)


def cut_into_parts(monkeypatch):
    """Cut training rows into parts of 300 bytes, and labels by 30."""
    monkeypatch.setattr(sampling, "ONE_PART_BYTES", 300)
    monkeypatch.setattr(sampling, "PART_BYTES", 300)
    monkeypatch.setattr(label, "LABELS_TOGETHER", 30)
    monkeypatch.setattr(spread, "BUNDLE_BYTES", 300)


@pytest.fixture(params=["one part", "several parts"])
def several(request, monkeypatch):
    """Whether there are several parts."""
    if request.param == "several parts":
        cut_into_parts(monkeypatch)
    return request.param == "several parts"


def taken(X, chunks=None):
    """X as the stages see it, and what runs them."""
    lazy = X if chunks is None else da.from_array(X, chunks=chunks)
    features = arrays.read_features(lazy, 0)
    return features, Runner.find(features.blocks, in_memory=features.in_memory)


def sampled(X, n_rows, workspace, seed=0, chunks=None):
    """Parts of the training rows of X."""
    features, runner = taken(X, chunks)
    parts = keep_training_rows(features, n_rows, seed, workspace, runner)
    return [part.load() for part in runner.compute(*parts)]


def by_rank(parts):
    return gather(parts, 0, None, UNLIMITED)


def here():
    return Runner.find(da.zeros(1), in_memory=True)


class Place(NamedTuple):
    """Where the training rows are, and in how many parts."""

    workspace: InMemory | OnDisk
    n_parts: int

    def parts(self, rows, order=None):
        """Training rows as the first stage leaves them, in the given rank order."""
        order = np.arange(len(rows)) if order is None else order
        row_keys = np.argsort(order).astype(np.uint64)
        found = []
        for number, some in enumerate(
            np.array_split(np.arange(len(rows)), self.n_parts)
        ):
            starts, total = np.array([0, len(some)]), number + 2**63
            part = Rows(rows, some, row_keys[some], starts, total)
            saved = self.workspace.save_rows(f"training-{number}", part)
            found.append(saved if self.workspace.on_disk else lazily(saved))
        return found


def lazily(value):
    return delayed(value, pure=False, traverse=False)


@pytest.fixture(params=[1, 3], ids=["one part", "three parts"])
def place(request, new):
    return Place(new(), request.param)


# sample


@few
@given(st.integers(1, 120), st.integers(0, 5), cuts(97), st.booleans())
def test_the_same_rows_are_kept_in_the_same_order_for_any_chunks_and_parts(
    new, several, n_rows, seed, heights, lazy
):
    chunks = (heights, (2, 1)) if lazy else None
    parts = sampled(VALUES, n_rows, new(), seed, chunks)
    lowest = np.argsort(keys(seed, 0, 97))[:n_rows]
    assert np.array_equal(by_rank(parts), VALUES[lowest])
    n_bytes = len(lowest) * 3 * 4
    many = several and n_bytes > 300
    assert len(parts) == (4 * -(-n_bytes // 1200) if many else 1)
    for part in parts:
        assert part.array.dtype == np.float32
        assert len(part.array) == len(part.order), "more rows are held than are kept"
    total = sum(part.total for part in parts) % 2**64
    rows = VALUES[lowest].astype(np.float32)
    assert total == sampling.checksum(rows, np.sort(keys(seed, 0, 97))[:n_rows])


@pytest.mark.parametrize("chunks", [None, (10, 3)], ids=["numpy", "dask"])
@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_parts_may_be_empty(new, monkeypatch, chunks, dtype):
    """A row of some MiB nearly fills a part: here 97 parts share 20 rows."""
    cut_into_parts(monkeypatch)
    monkeypatch.setattr(sampling, "PART_BYTES", 1)
    monkeypatch.setattr(sampling, "ONE_PART_BYTES", 1)
    X = VALUES.astype(dtype)
    found = run_all(X, new(), n_rows=20, chunks=chunks)
    assert np.array_equal(found["training rows"], X[np.argsort(keys(0, 0, 97))[:20]])


@pytest.mark.parametrize(
    ("dtype", "arithmetic"),
    [("f2", "f4"), ("f4", "f4"), (">f4", "f4"), ("f8", "f8"), ("i4", "f8")],
)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n_rows", [5, 97])
@pytest.mark.usefixtures("several")
def test_kept_rows_are_cast_and_x_is_left_alone(new, dtype, arithmetic, order, n_rows):
    X = (VALUES // 100).astype(dtype, order=order)
    X.flags.writeable = False
    parts = sampled(X, n_rows, new())
    for part in parts:
        assert part.array.dtype == np.dtype(arithmetic)
        assert part.array.flags.c_contiguous
    lowest = np.argsort(keys(0, 0, 97))[:n_rows]
    assert np.array_equal(by_rank(parts), X[lowest])


@pytest.mark.parametrize("n_rows", [5, 97])
@pytest.mark.usefixtures("several")
def test_an_array_in_memory_is_not_copied(n_rows):
    X = VALUES.astype(np.float32)
    assert all(part.array is X for part in sampled(X, n_rows, InMemory()))


def test_an_array_in_memory_needs_no_checksum(new):
    """Nobody else can change it between the passes."""
    (part,) = sampled(VALUES.astype(np.float32), 5, new())
    assert part.total == 0


def test_every_feature_is_kept_equally_often(new):
    X = np.arange(60.0)[:, None]
    kept = np.zeros(60)
    for seed in range(400):
        order = np.argsort(keys(seed, 0, 60))[:12]
        kept[order] += 1
        if seed % 100 == 0:
            parts = sampled(X, 12, new(), seed, chunks=(17, 1))
            assert by_rank(parts).ravel().tolist() == order.tolist()
    # 80 times each, with a standard deviation of 8.
    assert abs(kept - 80).max() < 32
    assert 4 < kept.std() < 12


def test_kept_rows_spread_evenly_over_the_feature_axis(new):
    X = np.arange(40_000, dtype=np.float32)[:, None]
    for seed in range(3):
        (part,) = sampled(X, 4000, new(), seed, (3000, 1))
        counts, _ = np.histogram(part.array, 40, (0, 40_000))
        assert ((counts - 100.0) ** 2 / 100).sum() < 80  # 39 degrees of freedom


@pytest.mark.parametrize("chunks", [None, (130, 6)], ids=["numpy", "dask"])
def test_several_parts_hold_the_rows_of_one_part_in_the_same_order(
    new, several, chunks
):
    lowest = np.argsort(keys(0, 0, 500))[:200]
    parts = sampled(noise(), 200, new(), chunks=chunks)
    assert len(parts) == (16 if several else 1)
    assert np.array_equal(by_rank(parts), noise()[lowest])


@few
@given(
    st.dictionaries(
        st.integers(0, 96), st.sampled_from([np.nan, np.inf, -np.inf]), min_size=1
    ),
    cuts(97),
    st.booleans(),
    st.sampled_from([1, 97]),
)
@pytest.mark.usefixtures("several")
def test_the_lowest_bad_feature_of_all_blocks_is_named(new, bad, heights, lazy, n_rows):
    X = VALUES.astype(np.float32)
    for feature, value in bad.items():
        X[feature, feature % 3] = value
    first = min(bad)
    said = "NaN" if np.isnan(bad[first]) else "inf"
    words = rf"contains {said}: the first is in feature {first}\."
    workspace, chunks = new(), (heights, (2, 1)) if lazy else None
    for _ in range(2):  # what the first try left does not hide it
        with pytest.raises(ValueError, match=words):
            sampled(X, n_rows, workspace, chunks=chunks)


# coarse


@pytest.mark.parametrize(
    ("n_big", "row_bytes", "beyond", "n_rows"),
    [
        (1, 4, False, 2048),  # as many as the offset needs
        (16, 4, False, 32_000),  # 2000 each
        (50, 4, False, 2**15),  # in all
        (1000, 4, False, 512_000),  # 512 each
        (10, 4, True, 10_240),  # 1024 each
        (50, 4, True, 2**15),
        (3, 2**20, False, 160),  # what fits
        (1000, 2**20, False, 1000),  # one each
    ],
)
def test_big_clusters_are_trained_on_fewer_rows_each_where_they_are_many(
    n_big, row_bytes, beyond, n_rows
):
    assert coarse_rows(n_big, row_bytes, beyond=beyond) == n_rows


@dtypes
def test_big_clusters_are_found_around_the_offset(place, dtype):
    points, truth = blobs(9, 3000, 3)
    points = (points + 1e3).astype(dtype)
    order = np.random.default_rng(0).permutation(3000)
    parts = place.parts(points, order)
    coarse = train_coarse(parts, 9, SCHEDULE, 0, None, place.workspace, here())
    assert (coarse.centers.dtype, coarse.offset.dtype) == (dtype, dtype)
    labels = nearest(points, coarse.centers)
    assert len(set(zip(labels, truth, strict=True))) == 9
    means = [points[labels == label].mean(axis=0, dtype=float) for label in range(9)]
    np.testing.assert_allclose(coarse.centers, means, rtol=1e-4)
    assert np.linalg.norm(coarse.offset - points.mean(axis=0)) < 5
    left = points.astype(float) - coarse.centers.astype(float)[labels]
    assert coarse.spread == pytest.approx((left**2).sum(axis=1).mean(), rel=1e-4)


def test_the_offset_is_the_mean_of_the_rows_of_lowest_rank(place):
    points, _ = blobs(4, 3000, 3)
    order = np.random.default_rng(0).permutation(3000)
    parts = place.parts(points, order)
    coarse = train_coarse(parts, 2, SCHEDULE, 0, None, place.workspace, here())
    assert np.array_equal(coarse.offset, points[order[:2048]].mean(axis=0))


def test_big_clusters_of_given_centers_come_from_the_centers(place):
    points, _ = blobs(4, 800, 3)
    init = np.repeat([[1e3, 0, 0], [0, 1e3, 0]], 3, axis=0) + np.eye(6)[:, :3]
    parts = place.parts(points)
    coarse = train_coarse(parts, 2, SCHEDULE, 0, init, place.workspace, here())
    means = [init[:3].mean(axis=0), init[3:].mean(axis=0)]
    found = coarse.centers[np.argsort(-coarse.centers[:, 0])]
    np.testing.assert_allclose(found, means, atol=1e-6)


def test_one_big_cluster_is_the_mean(place):
    points = np.random.default_rng(0).normal(7, 2, size=(1500, 4))
    parts = place.parts(points)
    coarse = train_coarse(parts, 1, SCHEDULE, 0, None, place.workspace, here())
    np.testing.assert_allclose(coarse.centers, [points.mean(axis=0)], rtol=1e-9)


# partition


def partitioned(
    place, points, coarse, n_clusters, init=None, order=None, allocation="size"
):
    parts = place.parts(points, order)
    shares = (n_clusters, allocation, init)
    return partition(parts, coarse, *shares, place.workspace, here())


def rows_of(partitions):
    """Gather the rows of each big cluster."""
    centers = partitions.coarse.centers
    return [
        rows_module.gather_partition(rows.compute(), group, centers[big])[0]
        for rows, group, big in partitions.each()
    ]


@dtypes
def test_partitions_hold_the_rows_of_big_clusters_in_rank_order(place, dtype):
    rng = np.random.default_rng(0)
    points = rng.integers(-50, 50, size=(400, 2)).astype(dtype)
    order = rng.permutation(400)
    centers = np.array([[-40, 0], [1e3, 1e3], [0, 0], [40, 0]], dtype)
    offset = np.array([3, 1], dtype)
    parts = partitioned(place, points, Coarse(offset, centers), 20, order=order)
    kept = centers[[0, 2, 3]]  # no row is near [1000, 1000]
    assert np.array_equal(parts.coarse.centers, kept)
    assert np.array_equal(parts.coarse.offset, offset)
    labels = nearest(points[order], kept)
    for big, rows in enumerate(rows_of(parts)):
        assert np.array_equal(rows, points[order][labels == big] - kept[big])
    sizes = np.bincount(labels)
    assert parts.shares.sum() == 20
    assert abs(parts.shares - 20 * sizes / 400).max() < 1


def test_checksums_of_parts_are_added(place):
    coarse = Coarse(np.zeros(3), np.zeros((1, 3)))
    parts = partitioned(place, np.eye(9, 3), coarse, 2)
    added = sum(number + 2**63 for number in range(place.n_parts)) % 2**64
    assert (parts.total, parts.total.dtype) == (added, np.uint64)


@pytest.mark.parametrize("n_clusters", [2, 50, 100, 301])
def test_equal_rows_get_no_more_clusters_than_they_can_fill(place, n_clusters):
    rng = np.random.default_rng(0)
    points = np.full((3300, 4), -30.0)
    points[rng.permutation(3300)[:300]] = rng.normal(size=(300, 4))
    centers = np.array([[-30.0] * 4, [0.0] * 4])
    parts = partitioned(place, points, Coarse(centers[1], centers), n_clusters)
    assert parts.shares.tolist() == [1, n_clusters - 1]


def test_shares_are_cut_where_distinct_rows_run_out(place):
    points = np.repeat([[0.0], [1.0], [9.0], [10.0], [11.0]], 20, axis=0)
    coarse = Coarse(np.zeros(1), np.array([[0.5], [10.0]]))
    parts = partitioned(place, points, coarse, 50)
    assert parts.shares.tolist() == [2, 3]


def test_shares_follow_the_given_centers(place):
    points = np.random.default_rng(0).normal(-50, size=(300, 1))
    points[:30] += 100
    coarse = Coarse(np.zeros(1), np.array([[-50.0], [50.0]]))
    init = np.array([[-50.0], [50.0], [51.0], [49.0], [52.0], [48.0]])
    parts = partitioned(place, points, coarse, 6, init)
    assert parts.shares.tolist() == [1, 5]


@pytest.mark.parametrize(("n_clusters", "shares"), [(11, [1, 10]), (60, [50, 10])])
def test_shares_follow_the_sums_of_squares(place, n_clusters, shares):
    # 90 rows at distance 1 of one center, 10 rows at distance 30 of the other.
    points = np.concatenate([np.full(90, -99.0), np.full(10, 100.0)])[:, None]
    points[::2] += np.where(points[::2] < 0, -2, 60)
    points += np.linspace(0, 1e-6, 100)[:, None]  # no two are equal
    order = np.random.default_rng(0).permutation(100)
    coarse = Coarse(np.zeros(1), np.array([[-100.0], [130.0]]))
    how = {"order": order, "allocation": "inertia"}
    parts = partitioned(place, points, coarse, n_clusters, **how)
    # 11 * (90, 9000)**0.75 / sum is 0.3 and 10.7; by numbers it were 9.9 and 1.1.
    # Of 60 the second cluster would get 58, but has 10 rows.
    assert parts.shares.tolist() == shares


def test_a_part_without_rows_of_a_big_cluster_is_no_trouble(place):
    points = np.repeat([[-9.0], [0.0], [9.0]], 10, axis=0)  # one each in three parts
    coarse = Coarse(np.zeros(1), np.array([[-9.0], [0.0], [9.0]]))
    parts = partitioned(place, points, coarse, 3)
    assert [rows.shape for rows in rows_of(parts)] == [(10, 1)] * 3
    assert parts.shares.tolist() == [1, 1, 1]


def test_too_large_partitions_keep_their_rows_of_lowest_rank(place, monkeypatch):
    monkeypatch.setattr(rows_module, "PARTITION_BYTES", 50 * 8)
    monkeypatch.setattr(partition_stage, "PARTITION_BYTES", 50 * 8)
    monkeypatch.setattr(spread, "PARTITION_BYTES", 50 * 8)
    points = np.arange(300.0)[:, None]
    order = np.random.default_rng(0).permutation(300)
    coarse = Coarse(np.zeros(1), np.array([[-1e3], [150.0]]))
    parts = partitioned(place, points, coarse, 400, order=order)
    (rows,) = rows_of(parts)
    assert np.array_equal(rows, points[order[:50]] - 150)
    assert parts.shares.tolist() == [50], "clusters that no row can fill"


# fine


def fitted(
    place, points, centers, n_clusters, init=None, schedule=SCHEDULE, beyond=False
):
    coarse = Coarse(centers.mean(axis=0), centers)
    parts = partitioned(place, points, coarse, n_clusters, init)
    how = (parts, schedule, 0, init, place.workspace, here())
    model = train_fine(*how, beyond=beyond)
    (found,) = here().compute(model)
    assert found["total"] == parts.total
    return Hierarchy.of(found), parts.shares


@dtypes
@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("n_clusters", [3, 40, 400])
def test_every_small_cluster_has_training_rows(place, dtype, init, n_clusters):
    rng = np.random.default_rng(0)
    points = rng.integers(-50, 50, size=(900, 2)).astype(dtype)
    centers = np.array([[-40, 0], [0, 0], [40, 0]], dtype)
    schedule = SCHEDULE._replace(init=init)
    hierarchy, shares = fitted(place, points, centers, n_clusters, schedule=schedule)
    assert hierarchy.fine.shape == (n_clusters, 2)
    assert hierarchy.fine.dtype == dtype
    assert np.array_equal(hierarchy.parents, np.repeat(np.arange(3), shares))
    labels = hierarchy.label(points)
    assert np.bincount(labels, minlength=n_clusters).all()
    assert np.array_equal(hierarchy.parents[labels], nearest(points, centers))


def test_a_small_cluster_on_each_distinct_row(place):
    rng = np.random.default_rng(0)
    points = rng.integers(0, 9, size=(800, 2)).astype(np.float32)
    centers = np.array([[1, 1], [7, 7]], np.float32)
    hierarchy, _ = fitted(place, points, centers, n_distinct(points))
    assert np.array_equal(np.unique(hierarchy.fine, axis=0), np.unique(points, axis=0))


def test_given_centers_start_in_their_big_cluster(place):
    points, truth = blobs(6, 900, 3)
    means = np.array([points[truth == label].mean(axis=0) for label in range(6)])
    init = means + 1
    far = np.array([means[:3].mean(axis=0), means[3:].mean(axis=0)])
    parents = nearest(init, far)
    hierarchy, shares = fitted(place, points, far, 6, init)
    assert np.array_equal(shares, np.bincount(parents))
    expected = np.concatenate([means[parents == big] for big in range(2)])
    np.testing.assert_allclose(hierarchy.fine, expected, atol=1e-6)


# label


def labelled(X, n_rows, hierarchy, workspace, chunks=None):
    """Labels of X, and the same as an array."""
    features, runner = taken(X, chunks)
    limit = np.array(key_limit(0, len(X), n_rows), np.uint64)
    model = workspace.save("model", limit=limit, **hierarchy._asdict())
    held = model if workspace.on_disk else lazily(model)
    found = label_features(features, 0, held, workspace, runner)
    numbers = np.arange(len(hierarchy.fine), dtype=np.int32)
    return found, as_array(found, numbers, features, None)


@few
@given(cuts(97), st.sampled_from(["f4", "f8", "i2"]), st.booleans())
def test_labels_sizes_and_inertia_of_all_blocks(new, several, heights, dtype, lazy):
    X = (VALUES // 200).astype(dtype)
    chunks = (heights, (2, 1)) if lazy else None
    arithmetic = taken(X)[0].dtype
    coarse = X[[3, 50]].astype(arithmetic)
    fine = X[[3, 20, 50, 70, 96]].astype(arithmetic)
    fine = np.concatenate([fine, fine[:1] + 10_000])  # nobody is near this one
    parents = np.array([0, 0, 1, 1, 1, 1])
    hierarchy = Hierarchy(coarse[0], coarse, fine, parents)
    found, labels = labelled(X, 40, hierarchy, new(), chunks)
    big = nearest(X, coarse)
    expected = np.where(big == 0, nearest(X, fine[:2]), 2 + nearest(X, fine[2:]))
    assert isinstance(labels, da.Array if lazy else np.ndarray)
    assert labels.dtype == np.int32
    assert np.array_equal(np.asarray(labels), expected)
    assert np.array_equal(found.sizes, np.bincount(expected, minlength=6))
    assert found.sizes[5] == 0
    squared = ((X.astype(float) - fine.astype(float)[expected]) ** 2).sum(axis=1)
    inertia = np.bincount(expected, squared, minlength=6)
    assert found.inertia == pytest.approx(inertia, rel=1e-6)
    in_groups = np.diff(found.bounds)
    assert in_groups.sum() == 97
    assert (in_groups[:-1] >= 30).all() if several else len(in_groups) == 1


def test_sizes_and_inertia_of_groups_are_added_one_after_the_other():
    """With 100,000 clusters those of 10^9 features would be 6 GB."""
    alive, most = set(), [0]

    class Group:
        """Arrays, read anew each time."""

        def __init__(self, values):
            self.values = values

        def __getitem__(self, name):
            if name == "total":
                return 1
            found = self.values.copy()
            alive.add(id(self))
            weakref.finalize(found, alive.discard, id(self))
            most[0] = max(most[0], len(alive))
            return found

    values = np.random.default_rng(0).normal(size=(50, 7))
    sums = label._added([Group(row) for row in values], InMemory())
    for found in sums[:2]:
        assert np.array_equal(found, np.sum(values, axis=0)), "the same bits"
    assert sums[2] == len(values)
    assert most[0] <= 3


@pytest.mark.usefixtures("several")
def test_stored_labels_are_numbered_and_cut_as_any_labels(new):
    fine = VALUES[[3, 20, 50]].astype(np.float32)
    hierarchy = Hierarchy(fine[0], fine, fine, np.arange(3))
    found, labels = labelled(VALUES, 40, hierarchy, new(), (10, 3))
    features, _ = taken(VALUES, (10, 3))
    turned = as_array(found, np.array([2, 1, 0], np.int32), features, None)
    expected = nearest(VALUES, fine)
    assert np.array_equal(turned.compute(), 2 - expected)
    for start, stop in itertools.combinations(range(0, 98, 13), 2):
        assert np.array_equal(labels[start:stop].compute(), expected[start:stop])


@few
@given(st.integers(1, 120), cuts(97), st.sampled_from(["f4", "f8", "i2"]))
@pytest.mark.usefixtures("several")
def test_both_passes_find_the_same_checksum(new, n_rows, heights, dtype):
    X = VALUES.astype(dtype)
    points = X[[3, 50]].astype(taken(X)[0].dtype)
    hierarchy = Hierarchy(points[0], points, points, np.arange(2))
    parts = sampled(X, n_rows, new(), chunks=(heights, (2, 1)))
    found, _ = labelled(X, n_rows, hierarchy, new(), (heights[::-1], (3,)))
    assert found.total == sum(part.total for part in parts) % 2**64
    assert found.total != 0


@dtypes
def test_inertia_at_a_large_mean_equals_float64(new, dtype):
    rng = np.random.default_rng(0)
    X = rng.normal(1e4, 50, size=(5000, 20)).astype(dtype)
    fine = X[:9].copy()
    hierarchy = Hierarchy(fine.mean(axis=0), fine[:3], fine, np.repeat([0, 1, 2], 3))
    found, labels = labelled(X, 5000, hierarchy, new(), (700, 20))
    chosen = fine.astype(float)[labels.compute()]
    inertia = ((X.astype(float) - chosen) ** 2).sum()
    assert found.inertia.sum() == pytest.approx(inertia, rel=1e-6)


def test_no_patience_is_spent_on_what_later_passes_find():
    points = np.random.default_rng(0).normal(size=(3000, 5))
    schedule = SCHEDULE._replace(max_no_improvement=1)

    def left(beyond):
        what = (Place(InMemory(), 1), points, np.zeros((1, 5)), 40, None, schedule)
        centers = fitted(*what, beyond=beyond)[0].fine
        return inertia(points, centers, assign(points, centers))

    assert left(beyond=False) < left(beyond=True) < 1.05 * left(beyond=False)


# all stages


def run_all(X, workspace, n_rows=200, chunks=None, init=None):
    """Run all stages; give all that they found as named arrays."""
    features, runner = taken(X, chunks)
    parts = keep_training_rows(features, n_rows, 0, workspace, runner)
    coarse = train_coarse(parts, 4, SCHEDULE, 0, init, workspace, runner)
    found = {"training rows": by_rank(runner.compute(*parts))}
    split = partition(parts, coarse, 16, "size", init, workspace, runner)
    model = train_fine(split, SCHEDULE, 0, init, workspace, runner)
    labels = label_features(features, 0, model, workspace, runner)
    found |= {f"coarse {name}": value for name, value in coarse._asdict().items()}
    found |= {f"rows of {big}": some for big, some in enumerate(rows_of(split))}
    found |= {"shares": split.shares, "total of the first pass": split.total}
    found |= Hierarchy.of(*runner.compute(model))._asdict()
    numbers = np.arange(16, dtype=np.int32)
    found["labels"] = np.asarray(as_array(labels, numbers, features, None))
    found |= {"sizes": labels.sizes, "inertia": labels.inertia, "total": labels.total}
    return found


def same_bits(one, other):
    def bits(value):
        array = np.asarray(value)
        return array.dtype, array.shape, array.tobytes()

    return {k: bits(v) for k, v in one.items()} == {
        k: bits(v) for k, v in other.items()
    }


def noise(dtype=np.float32):
    return np.random.default_rng(1).normal(5, 2, size=(500, 6)).astype(dtype)


@dtypes
@pytest.mark.parametrize("chunks", [None, (130, 6)], ids=["numpy", "dask"])
@pytest.mark.parametrize("init", [None, noise(float)[:16]], ids=["drawn", "given"])
@pytest.mark.usefixtures("several")
def test_all_stages_give_the_same_bits_in_memory_and_on_disk(
    new_workspace, chunks, init, dtype
):
    X = noise(dtype)
    memory, spread, disk = (
        run_all(X, new_workspace(kind), chunks=chunks, init=init) for kind in KINDS
    )
    assert same_bits(memory, disk)
    assert same_bits(memory, spread)


@pytest.mark.usefixtures("several")
def test_finished_stages_are_not_run_again(tmp_path):
    """The second time X cannot be read, and no file but the model is written."""

    def written():
        files = (path for path in tmp_path.glob("*.npz") if path.stem != "model")
        return {path.name: path.stat().st_mtime_ns for path in files}

    first = run_all(noise(), OnDisk(tmp_path), chunks=(130, 6))
    before = written()
    again = run_all(unread((500, 6), np.float32, (130, 6)), OnDisk(tmp_path))
    assert same_bits(first, again)
    assert written() == before
    assert {name.split("-")[0] for name in before} == {
        *("coarse.npz", "partition", "shares.npz", "fine", "labels")
    }


# a whole fit


FOUND = ("labels_", "cluster_centers_", "coarse_centers_", "sizes_", "inertia_")


def fit(X, folder=None):
    """Fit on half of the rows, on disk where there is a folder."""
    model = HierarchicalKMeans(10, max_features_per_cluster=25, work_dir=folder)
    with dask.config.set(scheduler="threads"):
        model.fit(X)
    return {name: np.asarray(getattr(model, name)) for name in FOUND}


@pytest.mark.parametrize("chunks", [None, (130, 6)], ids=["numpy", "dask"])
def test_a_fit_with_several_parts_gives_the_same_bits_in_memory_and_on_disk(
    tmp_path, monkeypatch, chunks
):
    X = noise()
    X = X if chunks is None else da.from_array(X, chunks)
    # X has no ties, so that in parts its rows are labelled alike.
    whole = fit(X)
    cut_into_parts(monkeypatch)
    memory, disk = fit(X), fit(X, tmp_path)
    assert len(sampling.part_bounds(500, 250 * 6 * 4)) == 20
    assert same_bits(memory, disk)
    assert same_bits(memory, whole)
