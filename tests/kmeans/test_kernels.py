"""The NumPy kernels against hand-computed values and slower definitions."""

import dask
import dask.array as da
import numpy as np
import pytest
from dask_ml.metrics import pairwise_distances_argmin_min
from hypothesis import given
from hypothesis import strategies as st

from hkmeans_dask.kmeans import crew, finite, groups, kernels, seeding
from hkmeans_dask.kmeans.sums import sum_by_label
from tests.strategies import (
    FLOATS,
    blobs,
    n_distinct,
    nearest,
    quick,
    whole_points,
)

dtypes = pytest.mark.parametrize("dtype", FLOATS)


def potential(points, centers):
    """Sum of squared distances to the nearest centers."""
    points, centers = points.astype(np.float64), centers.astype(np.float64)
    return ((points[:, None] - centers[None]) ** 2).sum(axis=2).min(axis=1).sum()


def are_rows_of(points, rows):
    return {tuple(row) for row in rows.tolist()} <= {tuple(p) for p in points.tolist()}


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


# groups


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


# values that are not finite


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8"])
@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "inf")]
)
@pytest.mark.parametrize("row", [0, 3, 9])
def test_the_first_bad_row_is_found(dtype, value, said, row):
    points = np.ones((10, 4), dtype)
    points[row, 2] = value
    points[row + 1 :, 0] = np.nan
    assert finite.first_bad(points) == (row, said)
    assert finite.first_bad(points, start=100) == (100 + row, said)
    assert f"{said}: the first is in feature {100 + row}." in finite.not_finite(
        finite.first_bad(points, 100)
    )


def test_infinities_of_both_signs_do_not_cancel():
    points = np.zeros((4, 2))
    points[1], points[2] = np.inf, -np.inf
    assert finite.first_bad(points) == (1, "inf")


@pytest.mark.parametrize(
    "points",
    [
        np.full((50, 50), 3e38, np.float32),
        np.full((50, 50), 6e4, np.float16),
        np.full((50, 50), -1.7e308),
        np.full((5, 5), np.iinfo(np.int64).max),
        np.full((5, 5), True),
        np.empty((0, 4)),
        np.zeros((3, 2)),
    ],
    ids=["f4", "f2", "f8", "i8", "bool", "empty", "zeros"],
)
def test_large_finite_values_are_not_bad(points):
    assert finite.first_bad(points) is None


# seeds


@quick
@given(st.data(), st.sampled_from(["k-means++", "random"]), st.integers(1, 4))
def test_seeds_are_rows_of_the_points(data, init, n_init):
    points = data.draw(whole_points())
    n_clusters = data.draw(st.integers(1, len(points)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    seed = seeding.seed_random if init == "random" else seeding.seed_kmeans_plusplus
    centers = seed(points, n_clusters, n_init, rng)
    assert centers.shape == (n_clusters, points.shape[1])
    assert centers.dtype == points.dtype
    assert are_rows_of(points, centers)
    if init == "k-means++":
        enough = min(n_clusters, n_distinct(points))
        assert n_distinct(centers) == enough
    elif n_distinct(points) == len(points):
        assert n_distinct(centers) == n_clusters


def test_random_seeds_are_different_rows():
    points = np.arange(12.0)[:, None]
    for entropy in range(20):
        rng = np.random.default_rng(entropy)
        centers = seeding.seed_random(points, 12, 1, rng)
        assert sorted(centers[:, 0]) == list(range(12))


@dtypes
def test_plusplus_seeds_one_center_in_each_far_blob(dtype):
    points, truth = blobs(30, 3000, 3)
    points = points.astype(dtype)
    centers = seeding.seed_kmeans_plusplus(points, 30, 1, np.random.default_rng(0))
    assert sorted(truth[nearest(centers, points)]) == list(range(30))


@dtypes
def test_plusplus_seeds_are_the_same_with_and_without_all_distances(monkeypatch, dtype):
    points = np.random.default_rng(0).integers(0, 50, (90, 3)).astype(dtype)
    args = (points, 12, 8)  # 96 draws among 90 points: all distances are held
    held = seeding.seed_kmeans_plusplus(*args, np.random.default_rng(1))
    monkeypatch.setattr(seeding, "MOST_AMONG", 89)
    not_held = seeding.seed_kmeans_plusplus(*args, np.random.default_rng(1))
    assert np.array_equal(held, not_held)


def test_plusplus_draws_in_proportion_to_squared_distance():
    points = np.array([[0.0], [1.0], [3.0]])
    rng, n_draws = np.random.default_rng(0), 2000
    drawn = {(0, 1): 0, (0, 3): 0, (1, 3): 0}
    for _ in range(n_draws):
        pair = seeding.seed_kmeans_plusplus(points, 2, 1, rng)
        drawn[tuple(sorted(pair[:, 0]))] += 1
    # The first center is uniform: {0, 1} = (1/10 + 1/5) / 3, and so on.
    expected = {(0, 1): 0.1, (0, 3): (9 / 10 + 9 / 13) / 3}
    expected[1, 3] = (4 / 5 + 4 / 13) / 3
    for pair, share in expected.items():
        assert drawn[pair] / n_draws == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize("seed", [seeding.seed_kmeans_plusplus, seeding.seed_random])
def test_the_best_initialisation_is_kept(seed):
    points = np.random.default_rng(0).random((400, 2))

    def left(n_init):
        rngs = map(np.random.default_rng, range(15))
        return [potential(points, seed(points, 6, n_init, rng)) for rng in rngs]

    one, ten = left(1), left(10)
    assert np.median(ten) < np.quantile(one, 0.25)
    assert max(ten) < max(one)


@pytest.mark.parametrize("seed", [seeding.seed_kmeans_plusplus, seeding.seed_random])
def test_seeds_depend_on_the_generator_alone(seed):
    points = np.random.default_rng(0).normal(size=(300, 2))
    first, again, other = (
        seed(points, 7, 3, np.random.default_rng(entropy)) for entropy in (5, 5, 6)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
