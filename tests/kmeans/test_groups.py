"""Positions by label, and distinct rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hkmeans_dask.kmeans import groups
from tests.strategies import FLOATS, n_distinct, quick, whole_points

dtypes = pytest.mark.parametrize("dtype", FLOATS)


def test_groups_by_hand():
    order, starts = groups.group_by_label(np.array([2, 0, 2, 0, 3]), 5)
    assert order.tolist() == [1, 3, 0, 2, 4]
    assert starts.tolist() == [0, 2, 2, 4, 5, 5]


@quick
@given(st.integers(1, 7), st.data())
def test_groups_keep_every_position_in_its_old_order(n_clusters, data):
    labels = np.array(data.draw(st.lists(st.integers(0, n_clusters - 1))), np.int64)
    order, starts = groups.group_by_label(labels, n_clusters)
    assert len(starts) == n_clusters + 1
    assert (starts[0], starts[-1]) == (0, len(labels))
    for label in range(n_clusters):
        group = order[starts[label] : starts[label + 1]]
        assert group.tolist() == np.flatnonzero(labels == label).tolist()


# distinct rows


@quick
@given(whole_points(span=2))
def test_distinct_rows_are_counted(points):
    assert groups.count_distinct(points) == n_distinct(points)


@dtypes
def test_minus_zero_equals_zero(dtype):
    points = np.array([[0.0, 1.0], [-0.0, 1.0], [0.0, -1.0]], dtype)
    kept = points.copy()
    assert groups.count_distinct(points) == 2
    assert np.array_equal(np.signbit(points), np.signbit(kept)), "changed in place"


@pytest.mark.parametrize("step", [1, 2])
def test_distinct_rows_of_strided_and_equal_rows(step):
    points = np.repeat(np.arange(5.0), 600)[:, None] * np.ones(4)
    assert groups.count_distinct(points[::step, ::step]) == 5


def test_rows_that_differ_in_the_last_bit_are_distinct():
    value = np.float32(1e4)
    points = np.array([[value], [np.nextafter(value, np.float32(2e4))], [value]])
    assert groups.count_distinct(points) == 2
