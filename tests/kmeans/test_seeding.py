"""Initial centers: rows of the points, drawn as they should be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hkmeans_dask.kmeans import seeding
from tests.strategies import FLOATS, blobs, n_distinct, nearest, quick, whole_points

dtypes = pytest.mark.parametrize("dtype", FLOATS)


def potential(points, centers):
    """Sum of squared distances to the nearest centers."""
    points, centers = points.astype(np.float64), centers.astype(np.float64)
    return ((points[:, None] - centers[None]) ** 2).sum(axis=2).min(axis=1).sum()


def are_rows_of(points, rows):
    return {tuple(row) for row in rows.tolist()} <= {tuple(p) for p in points.tolist()}


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


def test_the_best_candidate_of_each_step_is_kept():
    """Not of whole initialisations: each of these leaves out some of many groups."""
    points, truth = blobs(60, 1500, 3, spread=2)

    def n_seeded(n_init, entropy):
        rng = np.random.default_rng(entropy)
        centers = seeding.seed_kmeans_plusplus(points, 60, n_init, rng)
        return len(set(truth[nearest(centers, points)]))

    whole = [n_seeded(1, entropy) for entropy in range(20)]
    greedy = [n_seeded(10, entropy) for entropy in range(5)]
    assert max(whole) < min(greedy)


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
