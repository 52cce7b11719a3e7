"""The nearest of all centers, seen from origins, against the definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from hkmeans_dask.kmeans import crew, kernels, origins
from hkmeans_dask.kmeans.groups import group_by_label
from tests.strategies import FLOATS, nearest, quick, whole_points

dtypes = pytest.mark.parametrize("dtype", FLOATS)


@dtypes
def test_by_hand(dtype):
    points = np.array([[4], [11], [6], [0]], dtype)
    centers = np.array([[0], [5], [12]], dtype)
    of_groups, starts = np.array([[0], [10]], dtype), np.array([0, 2, 4])
    what = (points, centers, np.array([3], dtype), of_groups, starts)
    assert origins.assign(*what).tolist() == [1, 2, 1, 0]
    order = np.array([3, 0, 2, 1])
    assert origins.assign(*what, order=order).tolist() == [1, 2, 1, 0]
    # 16 + 0 and 1 + 16; 121 + 0, 36 + 16 and 1 + 99: dear centers lose points.
    prices = np.array([0, 16, 99], dtype)
    assert origins.assign(*what, prices=prices).tolist() == [0, 1, 1, 0]


@st.composite
def cases(draw):
    dtype, n_dims = draw(st.sampled_from(FLOATS)), draw(st.integers(1, 3))

    def whole(least, most):
        return draw(whole_points((least, most), (n_dims, n_dims), 9, dtype))

    points, centers, of_groups = whole(0, 40), whole(1, 9), whole(1, 5)
    groups = draw(
        st.lists(
            st.integers(0, len(of_groups) - 1),
            min_size=len(points),
            max_size=len(points),
        )
    )
    order, starts = group_by_label(np.array(groups, np.int64), len(of_groups))
    return points, centers, whole(1, 1)[0], of_groups, starts, order


@quick
@given(cases())
def test_the_nearest_is_that_of_the_definition(case):
    *what, order = case
    points, centers = what[:2]
    found = origins.assign(*what, order=order)
    assert found.dtype == np.int64
    assert_array_equal(found, nearest(points, centers))
    in_order = origins.assign(points[order], *what[1:])
    assert_array_equal(in_order, nearest(points[order], centers))


@quick
@given(cases(), st.data())
def test_prices_are_added_to_squared_distances(case, data):
    *what, order = case
    points, centers = (array.astype(float) for array in what[:2])
    prices = data.draw(
        st.lists(
            st.integers(0, 99).map(float),
            min_size=len(centers),
            max_size=len(centers),
        )
    )
    prices = np.array(prices, what[0].dtype)
    found = origins.assign(*what, order=order, prices=prices)
    costs = ((points[:, None] - centers) ** 2).sum(axis=2) + prices
    lowest = costs.min(axis=1, initial=np.inf)
    assert_array_equal(costs[np.arange(len(points)), found], lowest)


def many(dtype, n_points=9000, n_dims=40, n_groups=12):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(n_points, n_dims)).astype(dtype)
    centers = rng.normal(size=(50, n_dims)).astype(dtype)
    order, starts = group_by_label(rng.integers(0, n_groups, n_points), n_groups)
    offset, of_groups = points[0], points[:n_groups]
    return (points, centers, offset, of_groups, starts), order


@dtypes
def test_along_axes_only_they_count(dtype):
    what, order = many(dtype)
    points, centers = what[:2]
    axes = np.linalg.qr(np.random.default_rng(1).normal(size=(40, 8)))[0].astype(dtype)
    found = origins.assign(*what, order=order, axes=axes)
    assert_array_equal(found, nearest(points @ axes, centers @ axes))
    assert np.mean(found != nearest(points, centers)) > 0.5


@dtypes
def test_threads_and_biases_held_at_once_change_nothing(dtype, monkeypatch):
    what, order = many(dtype)
    expected = nearest(*what[:2])
    monkeypatch.setattr(kernels, "WORTH_SHARING", 0)
    monkeypatch.setattr(origins, "WORTH_SHARING", 0)
    for n_threads, biases in [(1, 2**21), (3, 2**21), (8, 1), (2, 170)]:
        monkeypatch.setattr(origins, "BIASES", biases)
        with crew.shared_tiles(n_threads):
            assert_array_equal(origins.assign(*what, order=order), expected)


@pytest.mark.parametrize("axes", [None, np.eye(24)[:, ::-1]])
@pytest.mark.parametrize(
    ("dtype", "how_far"), [(np.float32, 1e3), (np.float64, 1e3), (np.float64, 1e9)]
)
def test_points_near_each_other_keep_the_digits_that_the_offset_loses(
    dtype, how_far, axes
):
    rng = np.random.default_rng(0)
    far = np.zeros(24)
    far[0] = how_far
    centers = (far + 0.05 * rng.normal(size=(10, 24))).astype(dtype)
    points = np.repeat(centers.astype(float), 300, axis=0)
    points = (points + 0.02 * rng.normal(size=points.shape)).astype(dtype)
    offset, starts = np.zeros(24, dtype), np.array([0, len(points)])
    expected = nearest(points, centers)
    axes = None if axes is None else np.ascontiguousarray(axes, dtype)
    how = (points, centers, offset)
    found = origins.assign(*how, far[None].astype(dtype), starts, axes=axes)
    assert np.mean(found != expected) < 0.002
    if (dtype, how_far) != (np.float64, 1e3):
        lost = origins.assign(*how, offset[None], starts, axes=axes)
        assert np.mean(lost != expected) > 0.2


def test_equal_centers_share_no_points():
    what, order = many(np.float32)
    centers = np.repeat(what[1], 2, axis=0)
    found = origins.assign(what[0], centers, *what[2:], order=order)
    assert set((found % 2).tolist()) == {0}
