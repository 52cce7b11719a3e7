"""Ruling centers out along axes never changes which one is nearest."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hkmeans_dask.kmeans import crew, kernels, pruning
from tests.strategies import FLOATS, nearest, quick, whole_points

dtypes = pytest.mark.parametrize("dtype", FLOATS)


def orthonormal(n_dims, n_axes, dtype, seed=0):
    found = np.random.default_rng(seed).normal(size=(n_dims, n_axes))
    return np.ascontiguousarray(np.linalg.qr(found)[0][:, :n_axes], dtype)


def principal(centers, origin, n_axes):
    seen = (centers - origin).astype(float)
    found = np.linalg.eigh(seen.T @ seen)[1][:, ::-1][:, :n_axes]
    return np.ascontiguousarray(found, centers.dtype)


@quick
@given(st.data())
def test_the_nearest_center_is_found_along_any_axes(data):
    points = data.draw(whole_points())
    shape = (1, 9), (points.shape[1],) * 2
    centers = data.draw(whole_points(*shape, dtype=points.dtype))
    n_axes = data.draw(st.integers(1, points.shape[1]))
    axes = orthonormal(points.shape[1], n_axes, points.dtype)
    origin = data.draw(st.sampled_from([0 * centers[0], centers[0], centers.mean(0)]))
    found = pruning.assign(points, centers, axes, origin.astype(points.dtype))
    assert np.array_equal(found, nearest(points, centers))


@dtypes
@pytest.mark.parametrize("n_points", [0, 1, 191, 1537, 6145])
@pytest.mark.parametrize("n_centers", [1, 2, 101])
def test_as_the_definition_at_any_height(dtype, n_points, n_centers):
    rng = np.random.default_rng(n_points * n_centers)
    points = rng.normal(size=(n_points, 40)).astype(dtype)
    centers = rng.normal(size=(n_centers, 40)).astype(dtype)
    origin = centers.mean(axis=0)
    axes = principal(centers, origin, 12)
    found = pruning.assign(points, centers, axes, origin)
    assert found.dtype == np.int64
    measured = [((points - center) ** 2).sum(axis=1) for center in centers]
    lowest = np.min(measured, axis=0) if n_points else np.empty(0)
    reached = ((points - centers[found]) ** 2).sum(axis=1)
    np.testing.assert_allclose(reached, lowest, rtol=1e-6)


@dtypes
def test_equal_centers_tie_for_the_lowest_index(dtype):
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(100, 30)).astype(dtype)
    centers[[17, 40, 99]] = centers[3]
    points = np.repeat(centers[3:4], 3000, axis=0)
    points += rng.normal(scale=1e-3, size=(3000, 1)).astype(dtype)
    axes = principal(centers, centers[0], 8)
    assert (pruning.assign(points, centers, axes, centers[0]) == 3).all()


def test_a_label_is_that_of_the_row_alone():
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(60, 50)).astype(np.float32)
    pairs = rng.integers(60, size=(4000, 2))
    points = centers[pairs].mean(axis=1)  # as near to one as to the other, nearly
    axes = principal(centers, 0 * centers[0], 20)
    how = (centers, axes, 0 * centers[0])
    found = pruning.assign(points, *how)
    order = rng.permutation(len(points))
    assert np.array_equal(pruning.assign(points[order], *how), found[order])
    one_by_one = [pruning.assign(points[i : i + 1], *how)[0] for i in range(300)]
    assert np.array_equal(one_by_one, found[:300])
    others = orthonormal(50, 33, np.float32, seed=5)
    assert np.array_equal(pruning.assign(points, centers, others, how[2]), found)
    with crew.shared_tiles(3):
        assert np.array_equal(pruning.assign(points, *how), found)


def test_prices_are_added_to_the_squared_distances():
    rng = np.random.default_rng(2)
    points = rng.normal(size=(2000, 20))
    centers, prices = rng.normal(size=(50, 20)), rng.uniform(0, 9, size=50)
    axes = principal(centers, 0 * centers[0], 5)
    found = pruning.assign(points, centers, axes, 0 * centers[0], prices)
    costs = ((points[:, None] - centers) ** 2).sum(axis=2) + prices
    assert np.array_equal(found, costs.argmin(axis=1))
    assert not np.array_equal(found, nearest(points, centers))


def test_digits_are_kept_far_from_the_origin():
    rng = np.random.default_rng(3)
    there = rng.choice([-1, 1], size=(3000, 24)) * 1e4
    points = np.repeat(there[:1], 3000, axis=0) + rng.normal(size=(3000, 24))
    centers = np.concatenate([points[:30], there[:5]]).astype(np.float32)
    points = points.astype(np.float32)
    axes = principal(centers, 0 * centers[0], 6)
    found = pruning.assign(points, centers, axes, 0 * centers[0])
    assert np.array_equal(found, nearest(points.astype(float), centers.astype(float)))


@dtypes
@pytest.mark.parametrize("n_dims", [10, 50])
@pytest.mark.parametrize("far", [1e-3, 1e3, 1e5])
@pytest.mark.parametrize("priced", [False, True])
def test_what_rounding_hides_is_measured(dtype, n_dims, far, priced):
    """Costs of all centers are the same but for their last digits."""
    rng, tiny = np.random.default_rng(5), np.finfo(dtype).eps
    points = np.repeat(rng.normal(size=(1, n_dims)), 192, axis=0)
    points += tiny * max(1, far) * rng.normal(size=points.shape)
    away = rng.normal(size=(100, n_dims))
    away *= far / np.linalg.norm(away, axis=1, keepdims=True)
    nearly, prices = 1 + tiny * rng.normal(size=(100, 1)), None
    if priced:
        away *= rng.uniform(0.1, 3, size=(100, 1))
        prices = (-(away**2).sum(axis=1) * nearly[:, 0]).astype(dtype)
        nearly = 1
    points, centers = points.astype(dtype), (points[0] + away * nearly).astype(dtype)
    origin = np.zeros(n_dims, dtype)
    axes = principal(centers, origin, n_dims)
    found = pruning.assign(points, centers, axes, origin, prices)
    measure = partial(kernels.squared_distances, points, centers)
    costs = [measure(np.full(len(points), center)) for center in range(100)]
    costs = np.transpose(costs) + (0 if prices is None else prices)
    assert np.array_equal(found, costs.argmin(axis=1))


@dtypes
def test_centers_of_few_dimensions_are_seen_whole(dtype):
    """All 20 centers lie in a plane: nothing of them is left beside two axes."""
    rng = np.random.default_rng(4)
    centers = np.zeros((20, 40), dtype)
    centers[:, :2] = rng.normal(size=(20, 2))
    points = rng.normal(scale=3, size=(5000, 40)).astype(dtype)
    axes, origin = np.eye(40, 2, dtype=dtype), np.zeros(40, dtype)
    exact = kernels.assign(points, centers)
    assert (pruning.assign(points, centers, axes, origin) == exact).mean() > 0.999
    each = pruning.cost(points, centers, axes, origin)
    assert each < 40 * 2 + 20 * (2 + pruning.SCAN) + 1.5 * pruning.MEASURED * 88


def test_cost_counts_the_distances_that_are_measured():
    points = np.array([[0.0, 0, 1], [4, 0, 4]])
    centers = np.array([[0.0, 0, 0], [10, 0, 0], [0, 9, 0]])
    axes, origin = np.eye(3, 2), np.zeros(3)
    product = 3 * 2 + 3 * (2 + pruning.SCAN)
    one = pruning.MEASURED * (3 + pruning.EACH)
    assert pruning.cost(points, centers, axes, origin) == product + one
    other, product = axes[:, 1:], 3 + 3 * (1 + pruning.SCAN)
    # Along it the first two centers are one: for the second point both are measured.
    assert pruning.cost(points, centers, other, origin) == product + 1.5 * one


def test_as_many_axes_are_taken_as_cost_least(monkeypatch):
    rng = np.random.default_rng(0)
    spread = np.where(np.arange(64) < 6, 9, 0.01)
    centers, points = rng.normal(size=(300, 64)), rng.normal(size=(200, 64))
    what = (np.eye(64), np.zeros(64), np.empty(0))
    axes = pruning.choose_axes(points * spread, centers * spread, *what)
    assert axes.shape == (64, 6)
    tried, kept = [], pruning.cost

    def cost(points, centers, axes, *how):
        tried.append(axes.shape[1])
        return kept(points, centers, axes, *how)

    monkeypatch.setattr(pruning, "cost", cost)
    assert pruning.choose_axes(points, centers, *what).size == 0
    assert tried == [30], "fewer axes would rule out fewer centers"
