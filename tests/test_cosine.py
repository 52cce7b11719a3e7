"""Spherical k-means: directions instead of points."""

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import adjusted_rand_score

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.kmeans import kernels, minibatch
from hkmeans_dask.kmeans.kernels import to_unit
from hkmeans_dask.kmeans.minibatch import Schedule, State
from hkmeans_dask.kmeans.sums import sum_by_label
from tests.strategies import FLOATS, quick, whole_points

dtypes = pytest.mark.parametrize("dtype", FLOATS)


def directions(n_features=900, n_groups=6, n_samples=12, seed=0):
    """Features of any length around a few directions, some of zeros."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(n_groups, size=n_features)
    around = rng.normal(size=(n_groups, n_samples)) * 5
    X = around[truth] + rng.normal(size=(n_features, n_samples)) * 0.3
    X *= rng.lognormal(sigma=3, size=(n_features, 1))
    X[::100] = 0
    return X, truth


def cosines(X, model):
    """Cosine of the angle of each feature to its center."""
    lengths = np.linalg.norm(X, axis=1)
    products = (X * model.cluster_centers_[np.asarray(model.labels_)]).sum(axis=1)
    return products / np.where(lengths, lengths, 1)


@dtypes
@pytest.mark.parametrize("refine", [0, 2])
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_centers_have_unit_length_and_no_offset_is_removed(dtype, refine, init):
    X, truth = directions()
    options = {"init": init, "refine": refine, "metric": "cosine"}
    model = HierarchicalKMeans(6, **options).fit(X.astype(dtype))
    for centers in (model.cluster_centers_, model.coarse_centers_):
        assert centers.dtype == dtype
        assert_allclose(np.linalg.norm(centers, axis=1), 1, rtol=1e-6)
    assert not model.offset_.any()
    some = X.any(axis=1)
    assert adjusted_rand_score(truth[some], model.labels_[some]) > 0.75
    assert model.inertia_ == pytest.approx(
        2 * (1 - cosines(X, model)).sum() - (~some).sum(), rel=1e-4
    )


def test_lengths_do_not_matter():
    X, _ = directions()
    factors = 2.0 ** np.random.default_rng(1).integers(-5, 5, size=(len(X), 1))
    one = HierarchicalKMeans(20, metric="cosine", refine=1).fit(X)
    other = HierarchicalKMeans(20, metric="cosine", refine=1).fit(X * factors)
    assert_array_equal(one.labels_, other.labels_)
    assert_array_equal(one.cluster_centers_, other.cluster_centers_)
    euclidean = HierarchicalKMeans(20).fit(X)
    assert adjusted_rand_score(one.labels_, euclidean.labels_) < 0.5


def test_labels_are_the_directions_of_largest_cosine():
    X, _ = directions()
    model = HierarchicalKMeans(20, metric="cosine", refine=1).fit(X)
    some = X.any(axis=1)
    best = (X @ model.cluster_centers_.T).argmax(axis=1)
    assert_array_equal(model.labels_[some], best[some])


def test_zeros_get_the_first_label_and_train_nothing():
    X, _ = directions()
    some = X.any(axis=1)
    model = HierarchicalKMeans(20, metric="cosine", refine=1).fit(X)
    assert not model.labels_[~some].any()
    lazy = HierarchicalKMeans(20, metric="cosine", refine=1)
    lazy.fit(da.from_array(X, (77, -1)))
    assert_array_equal(model.predict(X), model.labels_)
    assert_array_equal(lazy.predict(X), lazy.labels_)
    assert model.predict(np.zeros((2, 12))).tolist() == [0, 0]
    others = model.labels_ != 0
    sums = np.array(
        [
            (
                X[model.labels_ == i]
                / np.linalg.norm(X[model.labels_ == i], axis=1)[:, None]
            ).sum(axis=0)
            for i in range(1, 20)
        ]
    )
    moved = HierarchicalKMeans(
        20, init=model.cluster_centers_, metric="cosine", refine=1
    ).fit(X)
    expected = sums / np.linalg.norm(sums, axis=1)[:, None]
    assert others.any()
    best = moved.cluster_centers_ @ expected.T
    assert_allclose(best.max(axis=0), 1, atol=1e-12)


def test_zeros_only_are_refused():
    with pytest.raises(ValueError, match="zeros, and have no direction"):
        HierarchicalKMeans(2, metric="cosine").fit(np.zeros((9, 3)))
    X, _ = directions()
    init = X[:5]  # the first one is zeros
    with pytest.raises(ValueError, match="zeros only in row 0"):
        HierarchicalKMeans(5, init=init, metric="cosine").fit(X)


def test_fewer_directions_than_big_clusters():
    X = np.zeros((50, 3))
    X[7], X[9] = (1, 0, 0), (0, 5, 0)
    with pytest.warns(UserWarning, match="distinct clusters"):
        model = HierarchicalKMeans(30, metric="cosine").fit(X)
    assert model.n_clusters_ == 2
    assert model.labels_[7] != model.labels_[9]
    assert model.inertia_ == pytest.approx(48)


def test_the_sum_of_cosines_never_falls_from_pass_to_pass():
    X, _ = directions(n_groups=200)
    sums = [
        cosines(X, HierarchicalKMeans(40, refine=n, metric="cosine").fit(X)).sum()
        for n in range(5)
    ]
    assert (np.diff(sums) >= -1e-9).all()
    assert sums[-1] > sums[0]


@quick
@given(whole_points(n_points=(8, 40), dtype=np.float64), st.integers(2, 6))
def test_an_update_moves_to_the_direction_of_the_sum(points, n_clusters):
    points = kernels.to_unit(points[points.any(axis=1)])[0]
    if len(points) < n_clusters:
        return
    before = State.start(points[:n_clusters])
    after = minibatch.update(before, points, unit=True)
    for label in range(n_clusters):
        total = points[after.labels == label].sum(axis=0)
        length = np.linalg.norm(total)
        if length > 1e-9:
            assert_allclose(after.centers[label], total / length, atol=1e-9)
    squared = kernels.squared_distances(points, after.centers, after.labels)
    assert len(points) - after.explained == pytest.approx(squared.sum(), abs=1e-9)


def test_training_reaches_a_fixed_point_of_spherical_k_means():
    X, _ = directions(n_groups=60)
    points = kernels.to_unit(X[X.any(axis=1)])[0]
    schedule = Schedule("k-means++", 1000, 3, None, unit=True)
    centers = minibatch.train(points, 20, schedule, np.random.default_rng(0))
    labels = (points @ centers.T).argmax(axis=1)
    sums = sum_by_label(points, labels, 20)
    products = (kernels.to_unit(sums)[0] * centers).sum(axis=1)
    assert_allclose(products, 1, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_directions_of_any_length_are_told_apart(dtype):
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 20, 2000)
    directions = np.linalg.qr(rng.normal(size=(24, 24)))[0][:20]
    far = 28 if dtype == np.float32 else 200
    X = directions[kinds] + rng.normal(size=(2000, 24)) / 100
    X = (X * 10 ** rng.uniform(-far, far, (2000, 1))).astype(dtype)
    model = HierarchicalKMeans(20, metric="cosine").fit(X)
    assert adjusted_rand_score(model.labels_, kinds) > 0.99
    assert np.array_equal(model.predict(X), model.labels_)


def test_lengths_within_the_range_are_as_before():
    points = np.random.default_rng(0).normal(size=(500, 7)).astype(np.float32)
    units, lengths = to_unit(points)
    plain = np.sqrt(np.einsum("ij,ij->i", points, points))
    assert np.array_equal(lengths, plain)
    assert np.array_equal(units, points / plain[:, None])
