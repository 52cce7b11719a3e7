"""Refinement: steps of Lloyd's algorithm over all of X, out of core."""

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from hkmeans_dask import HierarchicalKMeans, fitting
from hkmeans_dask.kmeans import hierarchy, moves
from hkmeans_dask.stages import refine as stage
from tests.resuming import DONE
from tests.strategies import Watched, blobs, nearest, quick

NOISE = np.random.default_rng(0).normal(size=(600, 5))
FIELDS = ("cluster_centers_", "coarse_centers_", "parents_", "sizes_", "compared_")


def same(one, other):
    assert_array_equal(np.asarray(one.labels_), np.asarray(other.labels_))
    for name in FIELDS:
        assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.inertia_, one.n_passes_) == (other.inertia_, other.n_passes_)


def lazy(X, rows=100):
    array = Watched(X)
    return array, array.blocks((rows, -1))


@pytest.fixture(params=["all", "some"])
def compared(request, monkeypatch):
    """Whether all small clusters are compared, or those near big clusters."""
    if request.param == "some":
        monkeypatch.setattr(hierarchy, "COMPARED", 8)
        monkeypatch.setattr(hierarchy, "BIGS_COMPARED", 1)
    return request.param


def total_inertia(X, centers):
    return ((X - centers[nearest(X, centers)]) ** 2).sum()


def lloyd(X, centers, n_steps):
    """Plain steps, of centers that never lose all their points."""
    for _ in range(n_steps):
        labels = nearest(X, centers)
        centers = np.array([X[labels == i].mean(axis=0) for i in range(len(centers))])
    return centers


def test_passes_are_steps_of_lloyds_algorithm():
    begun = HierarchicalKMeans(20, random_state=1, nested=False).fit(NOISE)
    for passes in (1, 3):
        model = HierarchicalKMeans(20, random_state=1, refine=passes)
        model.fit(lazy(NOISE)[1])
        expected = lloyd(NOISE, begun.cluster_centers_, passes)
        found = model.cluster_centers_[nearest(expected, model.cluster_centers_)]
        assert_allclose(found, expected, atol=1e-12)
        assert_array_equal(
            np.asarray(model.labels_), nearest(NOISE, model.cluster_centers_)
        )
        assert model.n_passes_ == 2 + passes
        assert model.inertia_ == pytest.approx(total_inertia(NOISE, expected))


def test_small_clusters_hang_below_the_nearest_big_one(compared):
    model = HierarchicalKMeans(30, refine=2).fit(NOISE)
    parents = nearest(model.cluster_centers_, model.coarse_centers_)
    assert_array_equal(model.parents_, parents)
    assert model.compared_.shape[0] == (
        1 if compared == "all" else len(model.coarse_centers_)
    )


def test_a_nested_fit_stays_nested():
    model = HierarchicalKMeans(30).fit(NOISE)
    big = nearest(NOISE, model.coarse_centers_)
    assert_array_equal(model.parents_[model.labels_], big)
    assert model.compared_.size == 0
    refined = HierarchicalKMeans(30, refine=1).fit(NOISE)
    assert (refined.parents_[refined.labels_] != big).any(), "nothing to see"


def test_predict_labels_as_fit_did(compared, tmp_path):
    model = HierarchicalKMeans(30, refine=2, random_state=3).fit(NOISE)
    assert_array_equal(model.predict(NOISE), model.labels_)
    assert_array_equal(model.predict(da.from_array(NOISE, (77, 5))), model.labels_)
    model.to_zarr(tmp_path / "model")
    loaded = HierarchicalKMeans.from_zarr(tmp_path / "model")
    assert_array_equal(loaded.predict(NOISE), model.labels_)
    assert loaded.refine == 2


@pytest.mark.parametrize("refine", [0, 1, 3])
def test_every_pass_is_one_read(refine):
    array, X = lazy(NOISE)
    model = HierarchicalKMeans(20, refine=refine).fit(X)
    assert array.reads == 6 * model.n_passes_ == 6 * (2 + refine)


def test_passes_end_when_little_moves():
    X, truth = blobs(6, 600, 3)
    model = HierarchicalKMeans(6, refine=50).fit(X)
    assert model.n_passes_ <= 4
    means = np.array([X[truth == label].mean(axis=0) for label in range(6)])
    assert_allclose(np.sort(model.cluster_centers_, 0), np.sort(means, 0), atol=1e-9)


def test_inertia_never_rises_from_pass_to_pass(compared):
    inertias = np.array(
        [
            [
                HierarchicalKMeans(40, refine=n, random_state=seed).fit(NOISE).inertia_
                for n in range(5)
            ]
            for seed in range(8)
        ]
    )
    if compared == "all":
        assert (np.diff(inertias) <= 0).all()
    assert inertias[:, 4].mean() < 0.99 * inertias[:, 0].mean()


@pytest.mark.parametrize("kind", ["good", "poor", "equal"])
def test_given_centers_are_never_made_worse(compared, kind):
    init = NOISE[:30].copy()
    if kind == "good":
        init = lloyd(NOISE, init, 20)
    if kind == "equal":
        init[:20] = init[0]
    passes = 4 if kind == "equal" else 1
    model = HierarchicalKMeans(30, init=init, refine=passes).fit(NOISE)
    assert model.inertia_ <= total_inertia(NOISE, init) * (1 + 1e-12)
    assert model.n_clusters_ == 30, "centers without features have moved"
    if kind == "good":
        assert_allclose(np.sort(model.cluster_centers_, 0), np.sort(init, 0), atol=0.3)


def test_a_center_without_features_moves_to_the_farthest_one():
    X = np.array([[0.0], [1], [2], [10], [11], [12], [100], [104]])
    init = np.array([[1.0], [11], [99], [500], [600]])
    model = HierarchicalKMeans(5, init=init, refine=1, random_state=0).fit(X)
    # 104 is 5 away from 99. 12 and 10 are as near as 0 and 2: the first one counts.
    centers = sorted(model.cluster_centers_.ravel())
    assert centers[-2:] == [102, 104]
    assert centers[:3] in ([0, 1, 11], [1, 10, 11])


def test_centers_without_features_go_to_different_clusters():
    squared = np.array([4.0, 9, 9, 1, 0])
    local, rows = np.array([0, 1, 1, 2, 3]), np.arange(5.0)[:, None]
    far = moves._far(squared, np.array([2, 4, 6, 8]), local, rows)
    assert far.squared.tolist() == [9, 4, 1, 0]
    assert far.clusters.tolist() == [4, 2, 6, 8]
    assert far.rows.ravel().tolist() == [1, 0, 3, 4]


@quick
@drawn(
    st.lists(st.tuples(st.integers(-1, 6), st.integers(0, 4)), min_size=1),
    st.sampled_from([7, 10_000]),
)
def test_the_farthest_of_each_cluster_there_is(found, n_clusters):
    labels, squared = np.array(found).T
    clusters, local = moves._present(labels, n_clusters)
    assert clusters.tolist() == sorted(set(labels.tolist()))
    assert np.array_equal(clusters[local], labels)
    rows = np.arange(len(labels))[:, None]
    far = moves._far(squared.astype(float), clusters, local, rows)
    first = {}
    for row in sorted(range(len(labels)), key=lambda row: (-squared[row], row)):
        first.setdefault(labels[row], row)
    assert far.rows.ravel().tolist() == list(first.values())
    assert far.clusters.tolist() == list(first)


@pytest.mark.parametrize("given", [False, True])
def test_results_are_the_same_wherever_they_are_computed(
    two_processes, given, tmp_path
):
    init = NOISE[:30] if given else "k-means++"
    options = {"n_clusters": 30, "init": init, "refine": 3}
    with dask.config.set(scheduler="synchronous"):
        expected = HierarchicalKMeans(**options).fit(lazy(NOISE, 30)[1])
    with dask.config.set(scheduler="threads", num_workers=5):
        same(HierarchicalKMeans(**options).fit(lazy(NOISE, 30)[1]), expected)
    X = da.from_array(NOISE, (30, -1))
    same(HierarchicalKMeans(**options).fit(X), expected)
    durable = HierarchicalKMeans(**options, work_dir=tmp_path).fit(X)
    same(durable, expected)


class Interrupted(RuntimeError):
    """The fit stops here."""


def after(n_calls, function):
    """Give a function that calls `function` so often, and then stops."""
    left = [n_calls]

    def stopping(*args, **options):
        if not left[0]:
            raise Interrupted
        left[0] -= 1
        return function(*args, **options)

    return stopping


STOPS = {
    0: (stage, "_sums", 0),
    1: (stage, "_sums", 1),
    2: (stage, "_sums", 2),
    3: (fitting, "label_features", 0),
}


@pytest.mark.usefixtures("content_is_known")
@pytest.mark.parametrize("done", STOPS)
def test_an_interrupted_fit_goes_on_after_its_last_pass(tmp_path, monkeypatch, done):
    expected = HierarchicalKMeans(20, refine=3).fit(lazy(NOISE)[1])
    array, X = lazy(NOISE)
    model = HierarchicalKMeans(20, refine=3, work_dir=tmp_path)
    module, name, n_calls = STOPS[done]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, after(n_calls, getattr(module, name)))
        with pytest.raises(Interrupted):
            model.fit(X)
    assert array.reads == 6 * (1 + done)
    array.reads = 0
    same(model.fit(X), expected)
    assert array.reads == 6 * (4 - done)
    array.reads = 0
    same(model.fit(X), expected)
    assert array.reads == 0, "a finished fit reads nothing"
    (folder,) = tmp_path.iterdir()
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == DONE


@pytest.mark.parametrize("value", [-1, 1.5, None, True, "1"])
def test_a_number_of_passes_is_an_integer(value):
    with pytest.raises(ValueError, match="refine should be an integer of at least 0"):
        HierarchicalKMeans(3, refine=value).fit(NOISE)
