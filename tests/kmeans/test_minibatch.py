"""Mini-batch k-means: what one update does, and what training ends with."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from hkmeans_dask.kmeans import empty_clusters, kernels, minibatch
from hkmeans_dask.kmeans.empty_clusters import occupy
from hkmeans_dask.kmeans.minibatch import Schedule, State, train, update
from tests.strategies import FLOATS, blobs, n_distinct, nearest, quick, whole_points

DEFAULT = Schedule("k-means++", 1000, 10, 10)
dtypes = pytest.mark.parametrize("dtype", FLOATS)
schedules = st.builds(
    Schedule,
    st.sampled_from(["k-means++", "random"]),
    st.sampled_from([1, 2, 7, 1000]),
    st.integers(1, 3),
    st.sampled_from([None, 1, 10]),
    along=st.just(False),
)


def inertia(points, centers):
    return kernels.inertia(points, centers, kernels.assign(points, centers))


def sizes(points, centers):
    """Points of each center, by the kernel that training and labelling share."""
    labels = kernels.assign(points, centers)
    return np.bincount(labels, minlength=len(centers))


# one update


@dtypes
def test_an_update_by_hand(dtype):
    points = np.array([[0, 0], [2, 0], [10, 6], [1, 3]], dtype)
    state = update(State.start(np.array([[0, 1], [90, 90], [10, 10]], dtype)), points)
    assert state.centers.tolist() == [[1, 1], [90, 90], [10, 6]]
    assert state.centers.dtype == dtype
    assert state.counts.tolist() == [3, 0, 1]
    # Squared norms 0 + 4 + 136 + 10, minus the inertia 2 + 2 + 0 + 4.
    assert state.explained == pytest.approx(150 - 8)


@quick
@given(st.data())
def test_an_update_moves_centers_to_the_means_of_their_points(data):
    points = data.draw(whole_points())
    shape = (1, 6), (points.shape[1],) * 2
    centers = data.draw(whole_points(*shape, dtype=points.dtype))
    kept_points, kept_centers = points.copy(), centers.copy()
    points.flags.writeable = centers.flags.writeable = False
    state, again = (
        update(State.start(centers), points),
        update(State.start(centers), points),
    )
    labels = nearest(points, centers)
    expected = centers.astype(float)
    for label in np.unique(labels):
        expected[label] = points[labels == label].astype(float).mean(axis=0)
    np.testing.assert_allclose(state.centers, expected, rtol=1e-6)
    assert np.array_equal(state.counts, np.bincount(labels, minlength=len(centers)))
    left = ((points.astype(float) - expected[labels]) ** 2).sum()
    energy = (points.astype(float) ** 2).sum()
    assert state.explained == pytest.approx(energy - left, abs=1e-9 * (1 + energy))
    # Pure: nothing changed in place, and the same again.
    assert np.array_equal(points, kept_points)
    assert np.array_equal(centers, kept_centers)
    assert not np.shares_memory(state.centers, centers)
    assert all(np.array_equal(a, b) for a, b in zip(state, again, strict=True))


@dtypes
@pytest.mark.parametrize("entropy", range(3))
def test_inertia_never_rises_between_full_passes(dtype, entropy):
    rng = np.random.default_rng(entropy)
    points = rng.random((1500, 4)).astype(dtype)
    state, found = State.start(points[:12].copy()), []
    for _ in range(15):
        found.append(inertia(points, state.centers))
        state = update(state, points)
    found = np.array(found)
    assert (found[1:] <= found[:-1] * (1 + 1e-6)).all()
    assert found[-1] < 0.8 * found[0]


# training


def test_centers_are_means_though_passes_add_up_in_float32():
    """To what a mean can be in float32, which the sums of passes are not."""
    rng = np.random.default_rng(0)
    points = rng.normal(0.5, 1, (8000, 64)).astype(np.float32)
    state, centers = (
        find(points, 8, DEFAULT, np.random.default_rng(0))
        for find in (minibatch.descend, train)
    )
    assert state.rough
    means = [points[state.labels == label].mean(0, dtype=float) for label in range(8)]
    assert_allclose(centers, means, rtol=1.2e-7)


def test_far_from_the_origin_passes_add_up_in_float64():
    """Squared norms are 10^5 times what is left: sums in float32 would blur that."""
    rng = np.random.default_rng(0)
    near = (8 * rng.normal(size=(6000, 64))).round().astype(np.float32) / 8
    found = [
        minibatch.descend(points, 40, DEFAULT, rng, seeds=points[:40])
        for points in (near, near + 256)
    ]
    assert [state.rough for state in found] == [True, False]


@settings(quick, max_examples=150)
@given(whole_points(span=3), schedules, st.data())
def test_every_cluster_has_points_if_distinct_ones_suffice(points, schedule, data):
    n_clusters = data.draw(st.integers(1, n_distinct(points)))
    centers = train(points, n_clusters, schedule, np.random.default_rng(0))
    assert centers.shape == (n_clusters, points.shape[1])
    assert centers.dtype == points.dtype
    assert sizes(points, centers).all()


@settings(quick, max_examples=150)
@given(whole_points(span=3), schedules, st.data())
def test_every_cluster_has_points_whatever_the_seeds(points, schedule, data):
    n_clusters = data.draw(st.integers(1, n_distinct(points)))
    shape = (1, 10), (points.shape[1],) * 2
    seeds = data.draw(whole_points(*shape, span=5, dtype=points.dtype))
    centers = train(points, n_clusters, schedule, np.random.default_rng(0), seeds)
    assert centers.shape == (n_clusters, points.shape[1])
    assert sizes(points, centers).all()


@dtypes
@pytest.mark.parametrize("n_clusters", [2, 17, 100, 301])
@pytest.mark.parametrize("background", [0.0, 0.3])
def test_many_equal_points_beside_few_distinct_ones(dtype, n_clusters, background):
    rng = np.random.default_rng(0)
    points = np.full((3300, 20), background, dtype)
    points[rng.permutation(3300)[:300]] = rng.normal(size=(300, 20))
    centers = train(points, n_clusters, DEFAULT, rng)
    assert sizes(points, centers).all()
    assert n_distinct(centers) == n_clusters


@dtypes
def test_as_many_clusters_as_points_puts_a_center_on_each(dtype):
    points = np.random.default_rng(0).normal(size=(150, 5)).astype(dtype)
    centers = train(points, 150, DEFAULT, np.random.default_rng(1))
    assert np.array_equal(np.unique(centers, axis=0), np.unique(points, axis=0))


@dtypes
@pytest.mark.parametrize("momentum", [0.8, 1.9])
def test_without_a_limit_training_ends_at_a_fixed_point(dtype, momentum, monkeypatch):
    monkeypatch.setattr(minibatch, "MOMENTUM", momentum)  # 1.9: most go too far
    monkeypatch.setattr(minibatch, "MAX_PASSES", 10_000)
    rng = np.random.default_rng(0)
    points = rng.normal(size=(600, 3)).astype(dtype)
    schedule = DEFAULT._replace(max_no_improvement=None)
    centers = train(points, 12, schedule, rng)
    again = update(State.start(centers), points)
    assert_allclose(again.centers, centers, rtol=1e-5, atol=1e-6)


@dtypes
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("n_passes", [3, 4, 6])
def test_centers_go_on_from_their_means_by_their_momentum(
    dtype, unit, n_passes, monkeypatch
):
    monkeypatch.setattr(minibatch, "MAX_PASSES", n_passes)
    points = np.random.default_rng(0).normal(size=(900, 4)).astype(dtype)
    scaled = (lambda x: kernels.to_unit(x)[0]) if unit else np.asarray
    points = scaled(points)
    seeds = points[:8]
    schedule = DEFAULT._replace(max_no_improvement=None, unit=unit)
    found = train(points, 8, schedule, np.random.default_rng(0), seeds)
    means, ahead = None, seeds
    for _ in range(n_passes):
        before, labels = means, nearest(points, ahead)
        groups = (points[labels == label] for label in range(8))
        means = scaled(np.array([group.mean(axis=0) for group in groups]))
        ahead = means if before is None else scaled(means + 0.8 * (means - before))
    assert_allclose(found, means, rtol=1e-4, atol=1e-5)


def test_the_first_idle_pass_is_the_last_however_few_the_points():
    points = np.random.default_rng(0).random((900, 2))

    def n_passes(patience):
        watched = []
        schedule = DEFAULT._replace(max_no_improvement=patience)
        train(points, 5, schedule, np.random.default_rng(0), watch=watched.append)
        return len(watched)

    assert n_passes(1) == n_passes(10) < n_passes(11) == n_passes(20) < n_passes(21)


def test_too_few_distinct_points_still_end():
    points = np.repeat(np.eye(3), 50, axis=0)
    centers = train(points, 7, DEFAULT, np.random.default_rng(0))
    assert centers.shape == (7, 3)
    assert np.count_nonzero(sizes(points, centers)) == 3
    assert inertia(points, centers) == 0


@dtypes
@pytest.mark.parametrize("batch_size", [30, 100, 1200, 10_000])
@pytest.mark.parametrize("max_no_improvement", [None, 1, 10])
def test_well_separated_blobs_are_found(dtype, batch_size, max_no_improvement):
    points, truth = blobs(12, 1200, 3)
    schedule = Schedule("k-means++", batch_size, 3, max_no_improvement)
    centers = train(points.astype(dtype), 12, schedule, np.random.default_rng(0))
    assert adjusted_rand_score(truth, nearest(points, centers)) == 1
    for label in range(12):
        mean = points[truth == label].mean(axis=0)
        assert np.linalg.norm(centers - mean, axis=1).min() < 1e-3


@dtypes
@pytest.mark.parametrize("n_points", [32_768, 32_769, 150_000])
def test_growing_batches_end_with_the_means_of_all_points(dtype, n_points):
    points, truth = blobs(12, n_points, 3)
    points = points.astype(dtype)
    centers = train(points, 12, DEFAULT, np.random.default_rng(0))
    labels = nearest(points, centers)
    assert adjusted_rand_score(truth, labels) == 1
    means = [points[labels == label].mean(axis=0, dtype=float) for label in range(12)]
    np.testing.assert_allclose(centers, means, rtol=1e-6, atol=1e-6)


@dtypes
@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("batch_size", [50, 1000])
def test_inertia_is_near_that_of_scikit_learn(dtype, init, batch_size):
    points = np.random.default_rng(0).random((3000, 3)).astype(dtype)
    schedule = Schedule(init, batch_size, 10, 10)
    ours = [
        inertia(points, train(points, 8, schedule, np.random.default_rng(entropy)))
        for entropy in range(9)
    ]
    theirs = [
        KMeans(8, init=init, n_init=1, random_state=entropy).fit(points).inertia_
        for entropy in range(9)
    ]
    assert np.median(ours) < 1.02 * np.median(theirs)


def test_without_early_stop_training_ends_where_nothing_changes():
    points = np.random.default_rng(0).random((800, 2))
    schedule = Schedule("k-means++", 100, 1, None)
    centers = train(points, 5, schedule, np.random.default_rng(0))
    np.testing.assert_allclose(update(State.start(centers), points).centers, centers)
    early = train(
        points, 5, schedule._replace(max_no_improvement=1), np.random.default_rng(0)
    )
    assert inertia(points, centers) <= inertia(points, early)


def test_training_depends_on_its_arguments_alone_and_changes_none():
    points = np.random.default_rng(0).random((2500, 3))
    seeds = np.random.default_rng(1).random((4, 3))
    points.flags.writeable = seeds.flags.writeable = False
    for given_seeds in (None, seeds):
        one, two = (
            train(points, 6, DEFAULT, np.random.default_rng(7), given_seeds)
            for _ in range(2)
        )
        assert np.array_equal(one, two)


# given seeds


@dtypes
def test_centers_stay_in_the_blobs_of_their_seeds(dtype):
    points, truth = blobs(10, 1000, 3)
    order = np.random.default_rng(0).permutation(10)
    means = np.array([points[truth == label].mean(axis=0) for label in order])
    seeds = (means + 2).astype(dtype)
    points = points.astype(dtype)
    centers = train(points, 10, DEFAULT, np.random.default_rng(0), seeds)
    np.testing.assert_allclose(centers, means, atol=1e-3)


def test_missing_seeds_are_put_where_none_is_near():
    points, truth = blobs(6, 600, 3)
    means = np.array([points[truth == label].mean(axis=0) for label in range(6)])
    centers = train(points, 6, DEFAULT, np.random.default_rng(0), means[[4, 1]])
    np.testing.assert_allclose(centers[:2], means[[4, 1]], atol=1e-3)
    assert adjusted_rand_score(truth, nearest(points, centers)) == 1


def test_seeds_beyond_the_number_of_clusters_are_left_out():
    points, truth = blobs(3, 300, 3)
    means = np.array([points[truth == label].mean(axis=0) for label in range(3)])
    seeds = np.concatenate([means, means[:1] + 500])
    centers = train(points, 3, DEFAULT, np.random.default_rng(0), seeds)
    np.testing.assert_allclose(centers, means, atol=1e-3)


# centers without points


@pytest.mark.parametrize("n_gone", range(1, 12))
def test_a_center_whose_first_members_left_may_keep_another(n_gone):
    # The first members of center 1 are 4, which is nearer to center 0; 20 is not.
    points = np.array([[0.0], *[[4.0]] * n_gone, [20.0]])
    labels, centers = np.array([0] + [1] * (n_gone + 1)), np.array([[3.0], [11.5]])
    assert empty_clusters.settle(points, centers, labels) is centers
    # Without 20, nothing is left to center 1: it moves to the farthest point.
    moved = empty_clusters.settle(points[:-1], centers, labels[:-1])
    assert moved.tolist() == [[3.0], [0.0]]


def test_a_center_without_a_label_is_looked_after():
    points = np.array([[0.0], [4.0], [20.0]])
    moved = empty_clusters.settle(points, np.array([[2.0], [9.0]]), np.array([0, 0, 0]))
    assert moved.tolist() == [[2.0], [9.0]], "20 is nearer to it"
    moved = empty_clusters.settle(
        points, np.array([[2.0], [-9.0]]), np.array([0, 0, 0])
    )
    assert moved.tolist() == [[2.0], [20.0]]


def test_an_empty_center_moves_to_the_farthest_point():
    points = np.array([[0.0], [1.0], [9.0], [4.0]])
    centers = occupy(points, np.array([[0.0], [0.0], [100.0], [1.0]]))
    # 9 is farthest from {0, 1}; then 4 is.
    assert centers.tolist() == [[0.0], [9.0], [4.0], [1.0]]


def test_occupied_centers_stay_where_they_are():
    points = np.array([[0.0], [1.0], [9.0]])
    centers = np.array([[0.4], [8.0]])
    assert occupy(points, centers).tolist() == [[0.4], [8.0]]


@settings(quick, max_examples=150)
@given(whole_points(span=3), st.data())
def test_occupying_ends_with_points_for_all_if_there_are_enough(points, data):
    n_clusters = data.draw(st.integers(1, 10))
    shape = (n_clusters,) * 2, (points.shape[1],) * 2
    centers = data.draw(whole_points(*shape, span=5, dtype=points.dtype))
    kept = centers.copy()
    moved = occupy(points, centers)
    assert np.array_equal(centers, kept), "centers were changed in place"
    if n_clusters <= n_distinct(points):
        assert sizes(points, moved).all()


@pytest.mark.parametrize("n_points", [4000, 16000])
def test_many_small_gains_are_not_left_undone(n_points):
    rng = np.random.default_rng(0)  # words are like this: most of it is unexplained
    sources = rng.standard_normal((300, 64))
    points = sources[rng.integers(300, size=n_points)]
    points = (points + 1.5 * rng.standard_normal(points.shape)).astype("f4")
    total = inertia(points, points.mean(axis=0)[None])

    def explained(patience):
        schedule = DEFAULT._replace(max_no_improvement=patience)
        rngs = map(np.random.default_rng, range(4))
        found = [train(points, 40, schedule, rng) for rng in rngs]
        return total - np.mean([inertia(points, centers) for centers in found])

    assert explained(10) > 0.97 * explained(None)


def test_gains_are_extrapolated_by_hand():
    assert minibatch.left_to_gain(np.inf, np.inf) == np.inf
    assert minibatch.left_to_gain(3.0, np.inf) == 3.0  # 3/2 + 3/4 + ...
    assert minibatch.left_to_gain(1.0, 3.0) == pytest.approx(
        1 / 3 + 1 / 9 + 1 / 27, 0.04
    )
    assert minibatch.left_to_gain(5.0, 1.0) == pytest.approx(5 * 9)  # not for ever
    assert not minibatch.left_to_gain(np.nan, np.nan) > 0
