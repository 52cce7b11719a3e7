"""Prices that make sizes even: the rule by its definition, and what it comes to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from hkmeans_dask.kmeans import balance, heaps, kernels
from tests.strategies import FLOATS, quick, whole_points

dtypes = pytest.mark.parametrize("dtype", FLOATS)


def cheapest(points, centers, prices):
    """By the definition, in float64, ties to the lowest."""
    differences = points[:, None, :].astype(float) - centers[None].astype(float)
    return ((differences**2).sum(axis=2) + prices).argmin(axis=1)


def cloud(n_points=4000, n_dims=4, seed=0, dtype=np.float64):
    """Most points near the middle, few far out: plain clusters are very unequal."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n_points, n_dims))
    points *= rng.exponential(size=(n_points, 1))
    points[:, 0] += 1.0
    return points.astype(dtype)


@quick
@given(st.data())
def test_a_point_goes_where_distance_and_price_are_lowest(data):
    points = data.draw(whole_points((1, 60), (1, 4)))
    n_clusters = data.draw(st.integers(1, 6))
    like = (n_clusters,) * 2, (points.shape[1],) * 2, 8, points.dtype
    centers = data.draw(whole_points(*like))
    whole = st.integers(-40, 40)
    prices = data.draw(st.lists(whole, min_size=n_clusters, max_size=n_clusters))
    prices = np.array(prices, points.dtype)
    found = kernels.assign(points, centers, prices=prices)
    assert_array_equal(found, cheapest(points, centers, prices))


def test_of_equal_centers_the_cheaper_has_all_points():
    centers = np.array([[1.0], [1.0], [1.0], [5.0]])
    points = np.array([[1.0], [2.0], [6.0]])
    free = kernels.assign(points, centers, prices=np.zeros(4))
    assert free.tolist() == [0, 0, 3]
    prices = np.array([2.0, -1.0, -1.0, 0.0])
    assert kernels.assign(points, centers, prices=prices).tolist() == [1, 1, 3]


@dtypes
@pytest.mark.parametrize("amount", [0.25, 0.5, 0.75, 1.0])
def test_the_imbalance_falls_by_the_part_asked_for(amount, dtype):
    points = cloud(dtype=dtype)
    centers = points[:30]
    plain = balance.imbalance(np.bincount(kernels.assign(points, centers)))
    found, prices = balance.balanced(points, centers, amount)
    sizes = np.bincount(cheapest(points, found, prices), minlength=30)
    assert plain > 1.2
    assert found.dtype == prices.dtype == dtype
    assert balance.imbalance(sizes) - 1 <= 1.1 * (1 - amount) * (plain - 1) + 0.01


def test_sizes_are_equal_at_the_end_of_the_scale():
    points = cloud()
    found, prices = balance.balanced(points, points[:30], 1.0)
    sizes = np.bincount(cheapest(points, found, prices), minlength=30)
    assert 0.9 * 4000 / 30 < sizes.min() <= sizes.max() < 1.1 * 4000 / 30


def test_weights_are_counted():
    points = cloud()
    weights = np.random.default_rng(1).integers(1, 5, len(points)).astype(float)
    found, prices = balance.balanced(points, points[:30], 1.0, weights)
    labels = cheapest(points, found, prices)
    sums = np.bincount(labels, weights, minlength=30)
    assert balance.imbalance(sums) <= 1 + balance.CLOSE


@pytest.mark.parametrize("n_distinct", [1, 3, 10])
def test_no_center_loses_its_points_where_points_are_equal(n_distinct):
    distinct = np.random.default_rng(0).normal(size=(n_distinct, 3))
    points = distinct[np.random.default_rng(1).integers(n_distinct, size=500)]
    centers = distinct.copy()
    found, prices = balance.balanced(points, centers, 1.0)
    assert_array_equal(np.unique(cheapest(points, found, prices)), range(n_distinct))


def test_few_of_many_centers_are_near(monkeypatch):
    points = cloud(6000)
    centers = points[:60]
    monkeypatch.setattr(balance, "NEAREST", 32)
    prices = balance.learn(points, centers, np.zeros(60), np.ones(60))
    sizes = np.bincount(cheapest(points, centers, prices), minlength=60)
    plain = np.bincount(cheapest(points, centers, 0), minlength=60)
    assert balance.imbalance(plain) > 1.2
    assert balance.imbalance(sizes) < 1.1


@quick
@given(st.lists(st.integers(0, 100), min_size=1, max_size=20), st.floats(1, 20))
def test_evened_sizes_have_the_imbalance_wanted(sizes, factor):
    sizes = np.array([*sizes, 1], float)
    wanted = balance.evened(sizes, factor)
    assert wanted.sum() == pytest.approx(sizes.sum())
    lower = min(factor, balance.imbalance(sizes))
    assert balance.imbalance(wanted) == pytest.approx(lower)


@pytest.mark.parametrize("seed", range(8))
def test_sizes_never_end_further_from_those_wanted(seed, monkeypatch):
    monkeypatch.setattr(balance, "NEAREST", 4)
    points, wanted = cloud(2000, seed=seed), np.ones(60)
    start = np.random.default_rng(seed).normal(size=60)
    prices = balance.learn(points, points[:60], start, wanted)
    before, after = (
        np.bincount(cheapest(points, points[:60], paid), minlength=60)
        for paid in (start, prices)
    )
    assert np.abs(after - 2000 / 60).sum() <= np.abs(before - 2000 / 60).sum()


@pytest.mark.parametrize("n_clusters", range(2, 60))
def test_even_sizes_are_even_up_to_rounding(n_clusters):
    sizes = np.full(n_clusters, 3.0)
    for factor in (1.0, np.nextafter(1.0, 0), balance.imbalance(sizes)):
        assert_array_equal(balance.evened(sizes, factor), sizes)


def test_room_is_made_for_the_heaviest_of_the_equal_points():
    """Of cluster 0, with 7 of weight, 5 are equal; 1 and 2 give what it takes more."""
    points = np.array([[0.0], [0.0], [0.1], [5.0], [9.0], [9.5]])
    labels, weights = np.array([0, 0, 0, 1, 2, 2]), np.array([2.0, 3, 2, 1, 1, 1])
    found = heaps.with_room(np.full(3, 2.5), points, labels, weights)
    assert_array_equal(found, [5, 1.25, 1.25])
    less = heaps.with_room(np.array([5.0, 2, 2]), points, labels, weights)
    assert_array_equal(less, [5, 2, 2])
