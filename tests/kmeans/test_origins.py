"""The nearest of all centers, seen from origins, against the definition."""

import tracemalloc

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
def test_threads_and_pairs_held_at_once_change_nothing(dtype, monkeypatch):
    what, order = many(dtype)
    expected = nearest(*what[:2])
    monkeypatch.setattr(kernels, "WORTH_SHARING", 0)
    monkeypatch.setattr(origins, "WORTH_SHARING", 0)
    for n_threads, pairs in [(1, 2**21), (3, 2**21), (8, 1), (2, 170)]:
        monkeypatch.setattr(origins, "PAIRS", pairs)
        with crew.shared_tiles(n_threads):
            assert_array_equal(origins.assign(*what, order=order), expected)


@pytest.mark.parametrize("n_dims", [4, 24])
@pytest.mark.parametrize(
    ("dtype", "how_far"), [(np.float32, 1e7), (np.float64, 1e3), (np.float64, 1e15)]
)
def test_small_values_keep_their_digits_beside_a_far_offset(
    dtype, how_far, n_dims, monkeypatch
):
    """As of values near 0 where some features are filled with -9999."""
    rng = np.random.default_rng(0)
    centers = 0.05 * rng.normal(size=(20, n_dims))
    points = np.repeat(centers, 150, axis=0)
    points = (points + 0.02 * rng.normal(size=points.shape)).astype(dtype)
    points[::3] -= dtype(2 * how_far)
    centers = np.concatenate([centers, centers[:1] - 2 * how_far]).astype(dtype)
    offset, of_groups = centers[-1] / 2, np.stack([centers[0] * 0, centers[-1]])
    order, starts = group_by_label((points[:, 0] < -how_far).astype(int), 2)
    prices = np.zeros(len(centers), dtype)
    how = {"order": order, "prices": prices}
    what = (points, centers, offset, of_groups, starts)
    expected = nearest(points, centers)
    alone = [
        origins.any_on_its_own(centers, offset, some)
        for some in (of_groups, of_groups[:1], of_groups[1:])
    ]
    assert alone == [True, True, False]
    assert_array_equal(origins.assign(*what, **how), expected)
    monkeypatch.setattr(origins, "NEAR", np.nan)
    if (dtype, how_far) != (np.float64, 1e3):
        assert np.mean(origins.assign(*what, **how) != expected) > 0.2, "or it is easy"


def test_points_near_each_other_keep_the_digits_that_the_offset_loses():
    rng = np.random.default_rng(0)
    far = np.zeros((1, 24), np.float32)
    far[:, 0] = 100
    centers = (far + 0.5 * rng.normal(size=(10, 24))).astype(np.float32)
    points = np.repeat(centers.astype(float), 300, axis=0)
    points = (points + 0.02 * rng.normal(size=points.shape)).astype(np.float32)
    what = (points, centers, np.zeros(24, np.float32))
    starts, expected = np.array([0, len(points)]), nearest(points, centers)
    assert_array_equal(origins.assign(*what, far, starts), expected)
    middle = (points + centers[expected - 1]) / 2  # as near to another center, nearly
    found = origins.assign(middle, *what[1:], far, starts)
    assert np.mean(found != nearest(middle, centers)) < 0.01


def test_few_dimensions_are_compared_in_float64():
    """As `kernels.assign` does: rounded to float32, most of these would tie."""
    centers = np.arange(50, dtype=np.float32)[:, None] / 64
    points = centers + np.float32(1 / 130)
    what = (points * 2**-8 + 40, centers * 2**-8 + 40, np.zeros(1, np.float32))
    found = origins.assign(*what, np.full((1, 1), 40.5, np.float32), np.array([0, 50]))
    assert_array_equal(found, nearest(*what[:2]))


@dtypes
def test_ties_do_not_hang_on_the_other_groups(dtype):
    rng = np.random.default_rng(0)
    points, centers = rng.integers(0, 3, (400, 6)), rng.integers(0, 3, (40, 6)) + 0.5
    offset, of_groups = points.mean(axis=0), rng.normal(1, 0.3, (7, 6))
    what = [x.astype(dtype) for x in (centers, offset, of_groups)]
    points = points.astype(dtype)
    order, starts = group_by_label(rng.integers(0, 7, 400), 7)
    whole = origins.assign(points[order], *what, starts)
    alone = [
        origins.assign(points[order][[row]], *what, np.clip(starts - row, 0, 1))
        for row in range(400)
    ]
    assert_array_equal(np.concatenate(alone), whole)


def test_threads_share_the_tiles(monkeypatch):
    monkeypatch.setattr(origins, "WORTH_SHARING", 0)
    seen, kept = [], origins._assign_tiles

    def counted(groups, centers, parts, labels):
        seen.append([(part.start, part.stop) for part in parts])
        kept(groups, centers, parts, labels)

    monkeypatch.setattr(origins, "_assign_tiles", counted)
    what, order = many(np.float32)
    with crew.shared_tiles(2):
        origins.assign(*what, order=order)
    assert len(seen) == 2
    cuts = sorted(cut for parts in seen for cut in parts)
    assert [start for start, _ in cuts] == [0, *(stop for _, stop in cuts[:-1])]
    assert cuts[-1][1] == len(order)


def test_equal_centers_share_no_points():
    what, order = many(np.float32)
    centers = np.repeat(what[1], 2, axis=0)
    found = origins.assign(what[0], centers, *what[2:], order=order)
    assert set((found % 2).tolist()) == {0}


def test_few_pairs_are_held_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    centers, of_groups = rng.normal(size=(5000, 3)), rng.normal(size=(800, 3))
    monkeypatch.setattr(origins, "PAIRS", 10 * len(centers))
    tracemalloc.start()
    try:
        assert not origins.any_on_its_own(centers, np.zeros(3), of_groups)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < 4 * 8 * origins.PAIRS < 8 * len(centers) * len(of_groups)
