"""The NumPy kernels against hand-computed values and slower definitions."""

import dask
import dask.array as da
import numpy as np
import pytest
from dask_ml.metrics import pairwise_distances_argmin_min
from hypothesis import given
from hypothesis import strategies as st

from hkmeans_dask.kmeans import crew, kernels
from hkmeans_dask.kmeans.sums import sum_by_label
from tests.strategies import FLOATS, nearest, quick, whole_points

dtypes = pytest.mark.parametrize("dtype", FLOATS)


# assign


@dtypes
def test_assign_finds_the_nearest_center(dtype):
    points = np.array([[0, 0], [10, 0], [4, 0], [6, 1], [-3, 9]], dtype)
    centers = np.array([[0, 0], [10, 0]], dtype)
    labels = kernels.assign(points, centers)
    assert labels.tolist() == [0, 1, 0, 1, 0]
    assert labels.dtype == np.int64


@dtypes
@pytest.mark.parametrize("n_equal", [2, 3, 17, 65])
def test_ties_go_to_the_lowest_index(dtype, n_equal):
    equal = np.repeat(np.array([[3, 4]], dtype), n_equal, axis=0)
    centers = np.concatenate([np.array([[-50, 0]], dtype), equal, -equal])
    points = np.array([[3, 4], [0, 0], [-3, -4], [4, -3]], dtype)
    labels = kernels.assign(points, centers)
    assert labels.tolist() == [1, 1, 1 + n_equal, 1]


@dtypes
@pytest.mark.parametrize("n_centers", [17, 40, 100])
def test_of_equal_centers_the_first_gets_all_their_points(dtype, n_centers):
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(n_centers, 20)).astype(dtype)
    chosen = [3, 7, n_centers - 9, n_centers - 1]
    centers[chosen] = centers[3]
    points = np.repeat(centers[3:4], 3000, axis=0)
    points += rng.normal(scale=1e-3, size=(3000, 1)).astype(dtype)
    assert (kernels.assign(points, centers) == 3).all()


@quick
@given(st.data())
def test_assign_agrees_with_the_definition(data):
    points = data.draw(whole_points())
    shape = (1, 9), (points.shape[1],) * 2
    centers = data.draw(whole_points(*shape, dtype=points.dtype))
    assert np.array_equal(kernels.assign(points, centers), nearest(points, centers))


@dtypes
@pytest.mark.parametrize("n_points", [1, 191, 192, 193, 1537, 6143, 6144, 6145])
@pytest.mark.parametrize("n_centers", [2, 3, 16, 101])
def test_assign_agrees_with_dask_ml_at_any_height(dtype, n_points, n_centers):
    rng = np.random.default_rng(n_points * n_centers)
    points = rng.normal(size=(n_points, 21)).astype(dtype)
    centers = rng.normal(size=(n_centers, 21)).astype(dtype)
    labels = kernels.assign(points, centers)
    lazy = da.from_array(points.astype(float), chunks=(1000, 21))
    expected, lowest = dask.compute(
        *pairwise_distances_argmin_min(lazy, centers.astype(float))
    )
    reached = np.linalg.norm(points.astype(float) - centers[labels], axis=1)
    np.testing.assert_allclose(reached, lowest, rtol=1e-5)
    assert (labels != expected).mean() < 0.01


@dtypes
def test_centers_are_relative_to_the_origin(dtype):
    origin = np.array([100, 0], dtype)
    points = np.array([[90, 0], [109, 0], [0, 0]], dtype)
    centers = np.array([[-10, 0], [10, 0]], dtype)  # 90 and 110
    labels = kernels.assign(points, centers, origin=origin)
    assert labels.tolist() == [0, 1, 0]
    assert points[0, 0] == 90, "points were changed in place"


@quick
@given(st.data())
def test_rows_are_assigned_in_the_order_asked(data):
    points = data.draw(whole_points(n_points=(1, 300)))
    shape = (1, 5), (points.shape[1],) * 2
    centers = data.draw(whole_points(*shape, dtype=points.dtype))
    row = st.integers(0, len(points) - 1)
    rows = np.array(data.draw(st.lists(row, max_size=500)), np.int64)
    labels = kernels.assign(points, centers, rows=rows)
    assert np.array_equal(labels, nearest(points, centers)[rows])


@dtypes
def test_rows_and_origin_together(dtype):
    points = np.array([[7], [99], [1], [4]], dtype)
    centers, origin = np.array([[-3], [3]], dtype), np.array([4], dtype)
    labels = kernels.assign(points, centers, origin=origin, rows=np.array([2, 0, 2]))
    assert labels.tolist() == [0, 1, 0]


@dtypes
@pytest.mark.parametrize("n_points", [0, 1, 1000])
def test_one_center_takes_all(dtype, n_points):
    points = np.random.default_rng(0).normal(size=(n_points, 3)).astype(dtype)
    assert not kernels.assign(points, points[:1] if n_points else points + 1).any()
    labels = kernels.assign(points, np.ones((1, 3), dtype))
    assert labels.shape == (n_points,)
    assert not labels.any()


@pytest.mark.parametrize("n_centers", [1, 2, 5])
def test_no_points_get_no_labels(n_centers):
    assert kernels.assign(np.empty((0, 2)), np.ones((n_centers, 2))).shape == (0,)


def test_a_large_common_mean_does_not_spoil_float32_labels():
    rng = np.random.default_rng(0)
    points = rng.normal(1e4, 50, size=(5000, 100)).astype(np.float32)
    origin = points.mean(axis=0)
    centers = (rng.normal(1e4, 50, size=(50, 100)) - origin).astype(np.float32)
    labels = kernels.assign(points, centers, origin=origin)
    far, exact = points.astype(float) - origin, centers.astype(float)
    squared = ((far**2).sum(1)[:, None] - 2 * far @ exact.T) + (exact**2).sum(1)
    excess = squared[np.arange(5000), labels] / squared.min(axis=1) - 1
    assert excess.max() < 1e-5


@dtypes
def test_labels_do_not_depend_on_the_number_of_threads(dtype, monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_SHARING", 0)
    rng = np.random.default_rng(0)
    points = rng.normal(size=(10_000, 33)).astype(dtype)
    centers = rng.normal(size=(40, 33)).astype(dtype)
    rows = rng.permutation(10_000)[:7001]
    found = []
    for n_threads in (1, 2, 3, 8):
        with crew.shared_tiles(n_threads):
            whole = kernels.assign(points, centers, origin=centers[0])
            some = kernels.assign(points, centers, rows=rows)
        found.append(np.concatenate([whole, some]))
    assert all(np.array_equal(found[0], other) for other in found)


@dtypes
def test_nothing_depends_on_the_number_of_threads(dtype, monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_SHARING", 0)
    monkeypatch.setattr(kernels, "VALUES_WORTH_SHARING", 0)
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20_000, 200)).astype(dtype)
    centers = rng.normal(size=(40, 200)).astype(dtype)
    labels = rng.integers(0, 40, 20_000)
    weights = rng.uniform(size=20_000)
    rows = rng.permutation(20_000)[:7001]
    level = kernels.project(points, centers.T)
    found = []
    for n_threads in (1, 2, 3, 8):
        with crew.shared_tiles(n_threads):
            results = [
                kernels.project(points, centers.T),
                kernels.assign(points, centers),
                kernels.assign(level, level[:40], homogeneous=True),
                kernels.take(points, rows),
                kernels.squared_distances(points, centers, labels),
                kernels.squared_distances(points, centers, labels[:7001], rows=rows),
                sum_by_label(points, labels, 40, weights),
                sum_by_label(points, labels, 40, rough=True),
            ]
        found.append(b"".join(result.tobytes() for result in results))
    assert len(set(found)) == 1
    np.testing.assert_allclose(results[0][:, :-1], points @ centers.T, atol=1e-4)
    np.testing.assert_array_equal(results[3], points[rows])


# homogeneous coordinates


@dtypes
def test_homogeneous_coordinates_by_hand(dtype):
    points = np.array([[3, 4, 0], [0, -5, 12]], dtype)
    axes = np.array([[0, 1], [1, 0], [0, 0]], dtype)
    found = kernels.project(points, axes)
    assert found.dtype == dtype
    # The mean square of 4, 3, 0, -5, 0, 0 is 50 / 6, its root 2.9, and 2 comes before.
    small = 2 / kernels.SMALL_PART
    assert found.tolist() == [[4, 3, small], [-5, 0, small]]
    assert kernels.project(np.zeros_like(points), axes)[:, -1].tolist() == [1, 1]
    late = np.concatenate([np.zeros((kernels.TILE, 3), dtype), points * dtype(2**-30)])
    assert kernels.project(late, axes)[0, -1] <= 2**-30 * small


@dtypes
@pytest.mark.parametrize("scale", [1e-17, 1e17])
def test_homogeneous_coordinates_of_any_size(dtype, scale):
    points = np.random.default_rng(0).normal(size=(2000, 40)) * scale
    constant = kernels.project(points.astype(dtype), np.eye(40, dtype=dtype))[0, -1]
    assert scale / 4 < constant * kernels.SMALL_PART < scale


@dtypes
@pytest.mark.parametrize("scale", [2.0**-40, 1.0, 2.0**40])
@pytest.mark.parametrize("n_clusters", [3, 37, 40])
def test_labels_from_homogeneous_coordinates_are_the_same(dtype, scale, n_clusters):
    rng = np.random.default_rng(0)
    points = rng.integers(-50, 50, (5000, 40)).astype(dtype) * dtype(scale)
    seen = kernels.project(points, np.eye(40, 31, dtype=dtype))
    centers = seen[rng.permutation(5000)[:n_clusters]]
    centers[-1] = centers[0]  # which gets its points
    for rows in (None, rng.permutation(5000)[:1234]):
        expected = kernels.assign(seen, centers, rows=rows)
        found = kernels.assign(seen, centers, rows=rows, homogeneous=True)
        assert np.array_equal(found, expected)
        assert found.max() == n_clusters - 2


@pytest.mark.parametrize("how_far", [1e7, 1e10])
def test_a_far_point_does_not_blur_labels_from_homogeneous_coordinates(how_far):
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(20, 128)).astype(np.float32)
    points = np.repeat(centers, 200, axis=0)
    points += 0.1 * rng.normal(size=points.shape).astype(np.float32)
    points[7] *= how_far
    axes = np.eye(128, 31, dtype=np.float32)
    seen = kernels.project(points, axes)
    found = kernels.assign(seen, seen[::200], homogeneous=True)
    expected = kernels.assign(seen[:, :-1], seen[::200, :-1])
    assert np.mean(found != expected) < 0.01


# squared distances


@dtypes
def test_squared_distances_by_hand(dtype):
    points = np.array([[1, 2], [4, 6], [0, 0]], dtype)
    centers = np.array([[1, 2], [1, 1]], dtype)
    labels = np.array([0, 0, 1])
    squared = kernels.squared_distances(points, centers, labels)
    assert squared.tolist() == [0, 25, 2]
    assert squared.dtype == dtype
    assert kernels.inertia(points, centers, labels) == 27.0


@pytest.mark.parametrize("height", [1, 1000])
def test_a_tiny_distance_far_from_zero_is_not_lost(height):
    points = np.full((height, 3), [100.0, 1.0002, 7.0], np.float32)
    centers = np.array([[100.0, 1.0, 7.0]], np.float32)
    labels = np.zeros(height, np.int64)
    exact = (float(points[0, 1]) - 1.0) ** 2
    assert exact == pytest.approx(4e-8, rel=0.01)
    found = kernels.inertia(points, centers, labels)
    assert found == pytest.approx(height * exact, rel=1e-6)


@dtypes
def test_inertia_is_summed_in_float64(dtype):
    rng = np.random.default_rng(1)
    points = rng.normal(100, 1, size=(20_001, 7)).astype(dtype)
    centers = rng.normal(100, 1, size=(11, 7)).astype(dtype)
    labels = rng.integers(11, size=len(points))
    exact = ((points.astype(float) - centers.astype(float)[labels]) ** 2).sum()
    found = kernels.inertia(points, centers, labels)
    assert isinstance(found, float)
    assert found == pytest.approx(exact, rel=1e-7)
