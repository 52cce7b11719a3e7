"""Sums by label against plain loops, in any dtype and order."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hkmeans_dask.kmeans.sums import sum_by_label
from tests.strategies import quick, whole_points


@quick
@given(whole_points(n_points=(0, 60)), st.integers(1, 9), st.data())
def test_sums_equal_a_plain_loop(points, n_clusters, data):
    label = st.integers(0, n_clusters - 1)
    size = {"min_size": len(points), "max_size": len(points)}
    labels = np.array(data.draw(st.lists(label, **size)), np.int64)
    expected = np.zeros((n_clusters, points.shape[1]))
    np.add.at(expected, labels, points.astype(float))
    sums = sum_by_label(points, labels, n_clusters)
    assert sums.dtype == np.float64
    assert np.array_equal(sums, expected)


@pytest.mark.parametrize("dtype", ["i2", "u1", "?", "f2", ">f4", ">i4", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_sums_of_any_dtype_and_order_do_not_overflow(dtype, order):
    n = 10_001
    most = {"i2": 32767, "u1": 255, "?": 1, "f2": 65504}.get(dtype, 2**30)
    points = np.full((n, 2), most).astype(dtype, order=order)
    labels = np.arange(n) % 3
    sums = sum_by_label(points, labels, 4)
    expected = np.bincount(labels, minlength=4)[:, None] * np.full(2, float(most))
    assert np.array_equal(sums, expected)


@quick
@given(whole_points(), st.data())
def test_sums_follow_points_that_get_another_label(points, data):
    label, n_points = st.integers(0, 4), len(points)
    labels = st.lists(label, min_size=n_points, max_size=n_points)
    before, now = (np.array(data.draw(labels), np.int64) for _ in range(2))
    weights = np.arange(n_points) % 3.0
    sums = sum_by_label(points, before, 5, weights)
    sums += sum_by_label(points, now, 5, weights, before)
    assert np.array_equal(sums, sum_by_label(points, now, 5, weights))


@pytest.mark.parametrize("weighted", [False, True])
def test_rough_sums_are_nearly_exact(weighted):
    rng = np.random.default_rng(0)
    points = rng.normal(3, 1, (9001, 5)).astype(np.float32)
    labels, before = rng.integers(0, 3, (2, 9001))
    weights = rng.uniform(1, 2, 9001).astype(np.float32) if weighted else None
    for then in (None, before):
        exact = sum_by_label(points, labels, 3, weights, then)
        found = sum_by_label(points, labels, 3, weights, then, rough=True)
        error = np.abs(found - exact).max() / np.bincount(labels).min()
        assert found.dtype == np.float64
        assert 0 < error < 2e-5


def test_clusters_without_points_sum_to_zero():
    sums = sum_by_label(np.ones((2, 3)), np.array([4, 1]), 6)
    assert sums.tolist() == [[0] * 3, [1] * 3, [0] * 3, [0] * 3, [1] * 3, [0] * 3]
    assert not sum_by_label(np.empty((0, 3)), np.empty(0, int), 2).any()


def test_float32_sums_at_mean_100_keep_12_digits():
    rng = np.random.default_rng(2)
    points = rng.normal(100, 1, size=(30_000, 2)).astype(np.float32)
    labels = rng.integers(2, size=len(points))
    exact = [
        [math.fsum(column) for column in points[labels == label].T.tolist()]
        for label in range(2)
    ]
    sums = sum_by_label(points, labels, 2)
    np.testing.assert_allclose(sums, exact, rtol=1e-12)


def test_sums_do_not_depend_on_empty_clusters_around():
    rng = np.random.default_rng(3)
    points, labels = rng.normal(size=(9000, 3)), rng.integers(5, size=9000)
    few = sum_by_label(points, labels, 5)
    many = sum_by_label(points, labels + 7, 20)
    assert np.array_equal(many[7:12], few)
