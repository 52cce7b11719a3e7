"""The stages of a fit one by one, each against a plain NumPy version of itself."""

from itertools import accumulate, pairwise

import dask.array as da
import numpy as np
import pytest
from dask import delayed
from hypothesis import given, settings
from hypothesis import strategies as st

from hkmeans_dask import inputs
from hkmeans_dask.execution import Runner
from hkmeans_dask.hierarchy import Hierarchy
from hkmeans_dask.minibatch import Schedule
from hkmeans_dask.stages.coarse import Coarse, train_coarse
from hkmeans_dask.stages.fine import train_fine
from hkmeans_dask.stages.label import label_features
from hkmeans_dask.stages.partition import partition
from hkmeans_dask.stages.sample import Training, keep_training_rows, key_limit, keys
from tests.strategies import FLOATS, blobs, cuts, n_distinct, nearest, quick

SCHEDULE = Schedule("k-means++", 1000, 10, 10)
dtypes = pytest.mark.parametrize("dtype", FLOATS)
few = settings(quick, max_examples=25)
rng = np.random.default_rng(0)
VALUES = rng.integers(-(2**15), 2**15, size=(97, 3)).astype(np.int16)


def taken(X, chunks=None):
    """X as the stages see it, and what runs them."""
    lazy = X if chunks is None else da.from_array(X, chunks=chunks)
    features = inputs.read_features(lazy, 0)
    return features, Runner.find(features.blocks, in_memory=features.in_memory)


def sampled(X, n_rows, seed=0, chunks=None):
    features, runner = taken(X, chunks)
    return keep_training_rows(features, n_rows, seed, runner).compute()


def training_of(rows, order=None):
    order = np.arange(len(rows)) if order is None else order
    return delayed(Training(rows, order, None), traverse=False)


def here():
    return Runner.find(da.zeros(1), in_memory=True)


# sample: random keys


@quick
@given(st.integers(0, 2**31 - 2), st.integers(0, 200), cuts(100))
def test_keys_hang_on_the_seed_and_the_index_alone(seed, start, heights):
    whole = keys(seed, start, start + 100)
    assert (whole.shape, whole.dtype) == ((100,), np.uint64)
    ends = accumulate((start, *heights))
    parts = [keys(seed, a, b) for a, b in pairwise(ends)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(keys(seed, 0, start + 100)[start:], whole)


def test_keys_of_any_feature_are_found_at_once():
    start = 10**12 + 3
    parts = [keys(1, start, start + 5), keys(1, start + 5, start + 9)]
    assert np.array_equal(np.concatenate(parts), keys(1, start, start + 9))


def test_keys_are_uniform_and_differ_between_seeds():
    drawn = np.array([keys(seed, 0, 20_000) for seed in range(3)])
    assert len(np.unique(drawn)) == drawn.size
    uniform = drawn / 2.0**64
    counts = np.array([np.histogram(u, 50, (0, 1))[0] for u in uniform])
    chi2 = ((counts - 400.0) ** 2 / 400).sum(axis=1)  # 49 degrees of freedom
    assert ((chi2 > 20) & (chi2 < 95)).all()
    neighbours = np.corrcoef([uniform[0, :-1], uniform[0, 1:], uniform[1, 1:]])
    assert abs(neighbours - np.eye(3)).max() < 0.03


@pytest.mark.parametrize("n_features", [1, 10, 4000, 2**20 + 17, 2**21 + 3])
@pytest.mark.parametrize("n_rows", [1, 7, 3999])
def test_the_limit_lets_exactly_the_lowest_keys_in(n_features, n_rows):
    limit = key_limit(3, n_features, n_rows)
    kept = (keys(3, 0, n_features) <= limit).sum()
    assert kept == min(n_rows, n_features)


# sample: kept rows


@few
@given(st.integers(1, 120), st.integers(0, 5), cuts(97), st.booleans())
def test_the_same_rows_are_kept_in_the_same_order_for_any_chunks(
    n_rows, seed, heights, lazy
):
    training = sampled(VALUES, n_rows, seed, (heights, (2, 1)) if lazy else None)
    lowest = np.argsort(keys(seed, 0, 97))[:n_rows]
    assert np.array_equal(training.rows[training.order], VALUES[lowest])
    assert len(training.rows) == min(n_rows, 97), "more rows are held than are kept"
    assert training.rows.dtype == np.float32
    assert training.bad is None


@pytest.mark.parametrize(
    ("dtype", "arithmetic"),
    [("f2", "f4"), ("f4", "f4"), (">f4", "f4"), ("f8", "f8"), ("i4", "f8")],
)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n_rows", [5, 97])
def test_kept_rows_are_cast_and_x_is_left_alone(dtype, arithmetic, order, n_rows):
    X = (VALUES // 100).astype(dtype, order=order)
    X.flags.writeable = False
    training = sampled(X, n_rows)
    assert training.rows.dtype == np.dtype(arithmetic)
    assert training.rows.flags.c_contiguous
    lowest = np.argsort(keys(0, 0, 97))[:n_rows]
    assert np.array_equal(training.rows[training.order], X[lowest])


@pytest.mark.parametrize("n_rows", [5, 97])
def test_an_array_in_memory_is_not_copied(n_rows):
    X = VALUES.astype(np.float32)
    assert sampled(X, n_rows).rows is X


def test_every_feature_is_kept_equally_often():
    X = np.arange(60.0)[:, None]
    kept = np.zeros(60)
    for seed in range(400):
        order = np.argsort(keys(seed, 0, 60))[:12]
        kept[order] += 1
        if seed % 100 == 0:
            training = sampled(X, 12, seed, chunks=(17, 1))
            assert training.rows[training.order].ravel().tolist() == order.tolist()
    # 80 times each, with a standard deviation of 8.
    assert abs(kept - 80).max() < 32
    assert 4 < kept.std() < 12


def test_kept_rows_spread_evenly_over_the_feature_axis():
    X = np.arange(40_000, dtype=np.float32)[:, None]
    for seed in range(3):
        rows = sampled(X, 4000, seed, (3000, 1)).rows
        counts, _ = np.histogram(rows, 40, (0, 40_000))
        assert ((counts - 100.0) ** 2 / 100).sum() < 80  # 39 degrees of freedom


@few
@given(
    st.dictionaries(
        st.integers(0, 96), st.sampled_from([np.nan, np.inf, -np.inf]), min_size=1
    ),
    cuts(97),
    st.booleans(),
    st.sampled_from([1, 97]),
)
def test_the_lowest_bad_feature_of_all_blocks_is_named(bad, heights, lazy, n_rows):
    X = VALUES.astype(np.float32)
    for feature, value in bad.items():
        X[feature, feature % 3] = value
    first = min(bad)
    said = "NaN" if np.isnan(bad[first]) else "inf"
    words = rf"contains {said}: the first is in feature {first}\."
    with pytest.raises(ValueError, match=words):
        sampled(X, n_rows, chunks=(heights, (2, 1)) if lazy else None)


# coarse


@dtypes
def test_big_clusters_are_found_around_the_offset(dtype):
    points, truth = blobs(9, 3000, 3)
    points = (points + 1e3).astype(dtype)
    order = np.random.default_rng(0).permutation(3000)
    training = training_of(points, order)
    coarse = train_coarse(training, 9, SCHEDULE, 0, None, here())
    assert (coarse.centers.dtype, coarse.offset.dtype) == (dtype, dtype)
    labels = nearest(points, coarse.centers)
    assert len(set(zip(labels, truth, strict=True))) == 9
    means = [points[labels == label].mean(axis=0, dtype=float) for label in range(9)]
    np.testing.assert_allclose(coarse.centers, means, rtol=1e-4)
    assert np.linalg.norm(coarse.offset - points.mean(axis=0)) < 5


def test_big_clusters_of_given_centers_come_from_the_centers():
    points, _ = blobs(4, 800, 3)
    init = np.repeat([[1e3, 0, 0], [0, 1e3, 0]], 3, axis=0) + np.eye(6)[:, :3]
    coarse = train_coarse(training_of(points), 2, SCHEDULE, 0, init, here())
    means = [init[:3].mean(axis=0), init[3:].mean(axis=0)]
    found = coarse.centers[np.argsort(-coarse.centers[:, 0])]
    np.testing.assert_allclose(found, means, atol=1e-6)


def test_one_big_cluster_is_the_mean():
    points = np.random.default_rng(0).normal(7, 2, size=(1500, 4))
    coarse = train_coarse(training_of(points), 1, SCHEDULE, 0, None, here())
    np.testing.assert_allclose(coarse.centers, [points.mean(axis=0)], rtol=1e-9)


# partition


@dtypes
def test_partitions_hold_the_rows_of_big_clusters_in_rank_order(dtype):
    rng = np.random.default_rng(0)
    points = rng.integers(-50, 50, size=(400, 2)).astype(dtype)
    order = rng.permutation(400)
    centers = np.array([[-40, 0], [1e3, 1e3], [0, 0], [40, 0]], dtype)
    offset = np.array([3, 1], dtype)
    parts = partition(
        training_of(points, order), Coarse(offset, centers), 20, None, here()
    )
    kept = centers[[0, 2, 3]]  # no row is near [1000, 1000]
    assert np.array_equal(parts.coarse.centers, kept)
    assert np.array_equal(parts.coarse.offset, offset)
    labels = nearest(points[order], kept)
    for big, rows in enumerate(parts.rows):
        assert np.array_equal(rows.compute(), points[order][labels == big] - kept[big])
    sizes = np.bincount(labels)
    assert parts.shares.sum() == 20
    assert abs(parts.shares - 20 * sizes / 400).max() < 1


@pytest.mark.parametrize("n_clusters", [2, 50, 100, 301])
def test_equal_rows_get_no_more_clusters_than_they_can_fill(n_clusters):
    rng = np.random.default_rng(0)
    points = np.full((3300, 4), -30.0)
    points[rng.permutation(3300)[:300]] = rng.normal(size=(300, 4))
    centers = np.array([[-30.0] * 4, [0.0] * 4])
    parts = partition(
        training_of(points), Coarse(centers[1], centers), n_clusters, None, here()
    )
    assert parts.shares.tolist() == [1, n_clusters - 1]


def test_shares_are_cut_where_distinct_rows_run_out():
    points = np.repeat([[0.0], [1.0], [9.0], [10.0], [11.0]], 20, axis=0)
    coarse = Coarse(np.zeros(1), np.array([[0.5], [10.0]]))
    parts = partition(training_of(points), coarse, 50, None, here())
    assert parts.shares.tolist() == [2, 3]


def test_shares_follow_the_given_centers():
    points = np.random.default_rng(0).normal(-50, size=(300, 1))
    points[:30] += 100
    coarse = Coarse(np.zeros(1), np.array([[-50.0], [50.0]]))
    init = np.array([[-50.0], [50.0], [51.0], [49.0], [52.0], [48.0]])
    parts = partition(training_of(points), coarse, 6, init, here())
    assert parts.shares.tolist() == [1, 5]


# fine


def fitted(points, centers, n_clusters, init=None, schedule=SCHEDULE):
    coarse = Coarse(centers.mean(axis=0), centers)
    parts = partition(training_of(points), coarse, n_clusters, init, here())
    hierarchy, held = train_fine(parts, schedule, 0, init, here())
    assert all(
        np.array_equal(a, b) for a, b in zip(hierarchy, held.compute(), strict=True)
    )
    return hierarchy, parts.shares


@dtypes
@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("n_clusters", [3, 40, 400])
def test_every_small_cluster_has_training_rows(dtype, init, n_clusters):
    rng = np.random.default_rng(0)
    points = rng.integers(-50, 50, size=(900, 2)).astype(dtype)
    centers = np.array([[-40, 0], [0, 0], [40, 0]], dtype)
    schedule = SCHEDULE._replace(init=init)
    hierarchy, shares = fitted(points, centers, n_clusters, schedule=schedule)
    assert hierarchy.fine.shape == (n_clusters, 2)
    assert hierarchy.fine.dtype == dtype
    assert np.array_equal(hierarchy.parents, np.repeat(np.arange(3), shares))
    labels = hierarchy.label(points)
    assert np.bincount(labels, minlength=n_clusters).all()
    assert np.array_equal(hierarchy.parents[labels], nearest(points, centers))


def test_a_small_cluster_on_each_distinct_row():
    rng = np.random.default_rng(0)
    points = rng.integers(0, 9, size=(800, 2)).astype(np.float32)
    centers = np.array([[1, 1], [7, 7]], np.float32)
    hierarchy, _ = fitted(points, centers, n_distinct(points))
    assert np.array_equal(np.unique(hierarchy.fine, axis=0), np.unique(points, axis=0))


def test_given_centers_start_in_their_big_cluster():
    points, truth = blobs(6, 900, 3)
    means = np.array([points[truth == label].mean(axis=0) for label in range(6)])
    init = means + 1
    far = np.array([means[:3].mean(axis=0), means[3:].mean(axis=0)])
    parents = nearest(init, far)
    hierarchy, shares = fitted(points, far, 6, init)
    assert np.array_equal(shares, np.bincount(parents))
    expected = np.concatenate([means[parents == big] for big in range(2)])
    np.testing.assert_allclose(hierarchy.fine, expected, atol=1e-6)


# label


@few
@given(cuts(97), st.sampled_from(["f4", "f8", "i2"]), st.booleans())
def test_labels_sizes_and_inertia_of_all_blocks(heights, dtype, lazy):
    X = (VALUES // 200).astype(dtype)
    features, runner = taken(X, (heights, (2, 1)) if lazy else None)
    coarse = X[[3, 50]].astype(features.dtype)
    fine = X[[3, 20, 50, 70, 96]].astype(features.dtype)
    fine = np.concatenate([fine, fine[:1] + 10_000])  # nobody is near this one
    parents = np.array([0, 0, 1, 1, 1, 1])
    hierarchy = Hierarchy(coarse[0], coarse, fine, parents)
    held = delayed(hierarchy, traverse=False)
    found = label_features(features, hierarchy, held, runner)
    big = nearest(X, coarse)
    expected = np.where(big == 0, nearest(X, fine[:2]), 2 + nearest(X, fine[2:]))
    assert np.array_equal(found.labels, expected)
    assert found.labels.dtype == np.int32
    assert np.array_equal(found.sizes, np.bincount(expected, minlength=6))
    assert found.sizes[5] == 0
    inertia = ((X.astype(float) - fine.astype(float)[expected]) ** 2).sum()
    assert found.inertia == pytest.approx(inertia, rel=1e-6)


@dtypes
def test_inertia_at_a_large_mean_equals_float64(dtype):
    rng = np.random.default_rng(0)
    X = rng.normal(1e4, 50, size=(5000, 20)).astype(dtype)
    fine = X[:9].copy()
    hierarchy = Hierarchy(fine.mean(axis=0), fine[:3], fine, np.repeat([0, 1, 2], 3))
    features, runner = taken(X, (700, 20))
    held = delayed(hierarchy, traverse=False)
    found = label_features(features, hierarchy, held, runner)
    inertia = ((X.astype(float) - fine.astype(float)[found.labels]) ** 2).sum()
    assert found.inertia == pytest.approx(inertia, rel=1e-6)
