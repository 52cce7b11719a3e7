"""The two-level rule that labels a feature, by brute force."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hkmeans_dask.kmeans import hierarchy as hierarchy_module
from hkmeans_dask.kmeans.hierarchy import NESTED, Hierarchy, label_coarse
from tests.strategies import FLOATS, nearest, quick, whole_points

few = settings(quick, suppress_health_check=[HealthCheck.function_scoped_fixture])
dtypes = pytest.mark.parametrize("dtype", FLOATS)


def two_level(points, coarse, fine, parents):
    """Nearest coarse center, then the nearest of its children."""
    big = nearest(points, coarse)
    return np.array(
        [
            children[nearest(point[None], fine[children])[0]]
            for point, parent in zip(points, big, strict=True)
            for children in [np.flatnonzero(parents == parent)]
        ],
        np.int64,
    )


@st.composite
def hierarchies(draw, dtype):
    n_dims = draw(st.integers(1, 3))
    shares = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))

    def whole(n_points):
        return draw(whole_points((n_points,) * 2, (n_dims,) * 2, 9, dtype))

    parents = np.repeat(np.arange(len(shares)), shares)
    offset, coarse, fine = whole(1)[0], whole(len(shares)), whole(sum(shares))
    return Hierarchy(offset, coarse, fine, parents)


@st.composite
def labelled(draw):
    """Draw a hierarchy, and points for it."""
    dtype = draw(st.sampled_from(FLOATS))
    hierarchy = draw(hierarchies(dtype))
    n_dims = hierarchy.fine.shape[1]
    return hierarchy, draw(whole_points((1, 60), (n_dims,) * 2, 9, dtype))


@dtypes
def test_a_feature_stays_below_its_nearest_coarse_center(dtype):
    coarse = np.array([[0], [10]], dtype)
    fine = np.array([[-2], [0], [6], [16]], dtype)
    hierarchy = Hierarchy(np.array([5], dtype), coarse, fine, np.array([0, 0, 1, 1]))
    # 4.5 is nearest to 6, but its coarse center 0 has the children -2 and 0 only.
    points = np.array([[4.5], [-1.5], [5.5], [11.5], [5.0]], dtype)
    assert hierarchy.label(points).tolist() == [1, 0, 2, 3, 1]
    assert label_coarse(points, coarse, hierarchy.offset).tolist() == [0, 0, 1, 1, 0]


@quick
@given(labelled())
def test_labels_obey_the_two_level_rule(case):
    hierarchy, points = case
    offset, coarse, fine, parents = hierarchy[:4]
    big = label_coarse(points, coarse, offset)
    assert np.array_equal(big, nearest(points, coarse))
    labels = hierarchy.label(points)
    assert labels.dtype == np.int64
    assert np.array_equal(labels, two_level(points, coarse, fine, parents))


@st.composite
def arranged(draw):
    """Draw centers in any order, arranged to compare all or some, and points."""
    hierarchy, points = draw(labelled())
    exact, order = draw(st.booleans()), draw(st.permutations(range(len(hierarchy[2]))))
    moved = (*hierarchy[:2], hierarchy.fine[order])
    return Hierarchy.arrange(*moved, exact=exact), exact, points


@pytest.fixture
def few_compared(monkeypatch):
    monkeypatch.setattr(hierarchy_module, "COMPARED", 3)
    monkeypatch.setattr(hierarchy_module, "BIGS_COMPARED", 0)
    monkeypatch.setattr(hierarchy_module, "SCORES", 8)


@few
@given(arranged())
def test_arranged_centers_lie_below_the_nearest_coarse_center(few_compared, case):
    hierarchy, exact, _ = case
    parents = nearest(hierarchy.fine, hierarchy.coarse)
    assert np.array_equal(hierarchy.parents, parents)
    assert (np.diff(parents) >= 0).all()
    n_clusters, largest = len(hierarchy.fine), np.bincount(parents).max()
    if exact or max(3, largest) >= n_clusters:
        assert np.array_equal(hierarchy.compared, [np.arange(n_clusters)])
        return
    assert hierarchy.compared.shape == (len(hierarchy.coarse), max(3, largest))
    for big, among in enumerate(hierarchy.compared):
        assert (np.diff(among) > 0).all()
        assert set(np.flatnonzero(parents == big)) <= set(among), "its own ones"
        differences = hierarchy.fine.astype(float) - hierarchy.coarse[big]
        squared = (differences**2).sum(axis=1)
        squared[parents == big] = -1
        others = np.setdiff1d(np.arange(n_clusters), among)
        assert squared[among].max() <= squared[others].min() * (1 + 1e-4) + 1e-4


@few
@given(arranged())
def test_features_compare_what_the_table_says(few_compared, case):
    hierarchy, _, points = case
    big = nearest(points, hierarchy.coarse)
    labels = hierarchy.label(points)
    for point, row, label in zip(points, big, labels, strict=True):
        among = hierarchy.compared[min(row, len(hierarchy.compared) - 1)]
        assert label == among[nearest(point[None], hierarchy.fine[among])[0]]


@few
@given(arranged())
def test_labels_stay_when_unused_clusters_of_a_refined_model_go(few_compared, case):
    hierarchy, _, points = case
    labels = hierarchy.label(points)
    for _ in range(2):
        used = np.isin(np.arange(len(hierarchy.fine)), labels)
        hierarchy = hierarchy.keep(used)
        _, labels = np.unique(labels, return_inverse=True)
        assert np.array_equal(hierarchy.label(points), labels)


@dtypes
def test_digits_survive_a_large_mean_and_distant_big_clusters(dtype):
    rng = np.random.default_rng(0)
    coarse = (1e4 + rng.normal(scale=500, size=(6, 30))).astype(dtype)
    fine = np.repeat(coarse, 4, axis=0) + rng.normal(size=(24, 30)).astype(dtype)
    parents = np.repeat(np.arange(6), 4)
    truth = rng.integers(24, size=2000)
    points = fine[truth] + rng.normal(scale=0.1, size=(2000, 30)).astype(dtype)
    offset = coarse.mean(axis=0)
    for compared in (NESTED, np.arange(24, dtype=np.int32)[None]):
        model = Hierarchy(offset, coarse, fine, parents, compared)
        assert np.array_equal(model.label(points.astype(dtype)), truth)


def test_digits_of_coarse_labels_survive_a_large_mean():
    rng = np.random.default_rng(0)
    coarse = (1e4 + rng.normal(size=(6, 30))).astype(np.float32)
    truth = rng.integers(6, size=2000)
    points = coarse[truth] + rng.normal(scale=0.1, size=(2000, 30)).astype(np.float32)
    offset = coarse.mean(axis=0)
    assert np.array_equal(label_coarse(points, coarse, offset), truth)


def test_no_points_get_no_labels():
    one = np.ones((1, 2))
    hierarchy = Hierarchy(one[0], one, one, np.array([0]))
    assert hierarchy.label(np.empty((0, 2))).shape == (0,)


def test_dropped_clusters_leave_the_others_in_order():
    coarse, fine = np.arange(3.0)[:, None], np.arange(6.0)[:, None]
    hierarchy = Hierarchy(np.zeros(1), coarse, fine, np.array([0, 0, 1, 1, 2, 2]))
    used = np.array([False, True, False, False, True, True])
    kept = hierarchy.keep(used)
    assert kept.fine.ravel().tolist() == [1, 4, 5]
    assert kept.coarse.ravel().tolist() == [0, 2]
    assert kept.parents.tolist() == [0, 1, 1]
    assert kept.offset is hierarchy.offset
    whole = hierarchy.keep(np.ones(6, bool))
    assert all(np.array_equal(a, b) for a, b in zip(whole, hierarchy, strict=True))


@quick
@given(labelled())
def test_dropping_unused_clusters_only_renumbers_labels(case):
    hierarchy, points = case
    labels = hierarchy.label(points)
    kept = hierarchy.keep(np.isin(np.arange(len(hierarchy.fine)), labels))
    _, renumbered = np.unique(labels, return_inverse=True)
    assert np.array_equal(kept.label(points), renumbered)
    assert set(kept.parents) == set(range(len(kept.coarse)))
