"""What a fit always gives, for any small X, chunks, axis and dtype."""

import warnings

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

from hkmeans_dask import HierarchicalKMeans
from tests.strategies import blobs, cuts, n_distinct, nearest, quick, whole_points

many = settings(quick, max_examples=60)
few = settings(quick, max_examples=30)
dtypes = st.sampled_from(["f2", "f4", "f8", "i2", "i8"])
inits = st.sampled_from(["k-means++", "random"])


@st.composite
def cases(draw, span=20):
    """X with features in rows, and a number of clusters that it can fill."""
    values = draw(whole_points((2, 60), (1, 4), span))
    n_clusters = draw(st.integers(1, n_distinct(values)))
    return values.astype(draw(dtypes)), n_clusters


def lazily(data, X):
    """X as a dask array in any chunks."""
    heights, widths = (data.draw(cuts(n, least=0)) for n in X.shape)
    return da.from_array(X, chunks=(heights, widths))


def check(model, X, n_clusters):
    """Check all that holds for the attributes of a fitted model."""
    labels = np.asarray(model.labels_)
    assert model.n_clusters_ == n_clusters
    assert (labels.shape, labels.dtype) == ((len(X),), np.int32)
    assert np.array_equal(np.bincount(labels, minlength=n_clusters), model.sizes_)
    assert len(model.sizes_) == n_clusters
    assert (model.sizes_ > 0).all()
    assert model.cluster_centers_.shape == (n_clusters, X.shape[1])
    assert np.isfinite(model.cluster_centers_).all()
    assert model.n_features_in_ == len(X)
    # Each feature is below its big cluster, and its center is the nearest there.
    big = model.parents_[labels]
    assert (np.diff(model.parents_) >= 0).all()
    assert set(model.parents_) == set(range(len(model.coarse_centers_)))
    far = X.astype(float)[:, None]
    coarse = ((far - model.coarse_centers_.astype(float)) ** 2).sum(axis=2)
    fine = ((far - model.cluster_centers_.astype(float)) ** 2).sum(axis=2)
    rows = np.arange(len(X))
    loose = 1e-3  # exact ties may be broken by rounding
    assert (coarse[rows, big] <= coarse.min(axis=1) + loose).all()
    children = np.where(model.parents_ == big[:, None], fine, np.inf)
    assert (fine[rows, labels] <= children.min(axis=1) + loose).all()
    assert model.inertia_ == pytest.approx(fine[rows, labels].sum(), rel=1e-6, abs=1e-6)


@many
@given(cases(), st.integers(0, 1), inits, st.sampled_from([1, 5, 1000]), st.data())
def test_every_cluster_is_found_and_has_features(case, axis, init, batch_size, data):
    X, n_clusters = case
    model = HierarchicalKMeans(
        n_clusters,
        init=init,
        n_init=2,
        batch_size=batch_size,
        feature_axis=axis,
        random_state=data.draw(st.integers(0, 9)),
    )
    model.fit(X.T if axis else X)
    check(model, X, n_clusters)
    if axis == 0:
        assert np.array_equal(model.predict(X), model.labels_)


@many
@given(cases(), st.integers(0, 1), st.data())
def test_any_chunks_give_the_same_centers(case, axis, data):
    X, n_clusters = case
    model = HierarchicalKMeans(n_clusters, n_init=2, feature_axis=axis)
    whole = model.fit(X.T if axis else X)
    centers, inertia = whole.cluster_centers_, whole.inertia_
    lazy = lazily(data, X)
    model.fit(lazy.T if axis else lazy)
    check(model, X, n_clusters)
    assert np.array_equal(model.cluster_centers_, centers)
    assert model.inertia_ == pytest.approx(inertia, rel=1e-6, abs=1e-6)
    if axis == 0:
        assert np.array_equal(model.predict(lazy).compute(), model.labels_.compute())


@few
@given(cases(), st.integers(1, 3), st.data())
def test_any_chunks_give_the_same_training_rows(case, most, data):
    X, n_clusters = case
    model = HierarchicalKMeans(n_clusters, n_init=2, max_features_per_cluster=most)
    found = []
    with warnings.catch_warnings():
        # The rows kept may be equal, though the others are not.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for array in (X, lazily(data, X), lazily(data, X)):
            found.append(model.fit(array).cluster_centers_)
            check(model, X, model.n_clusters_)
    assert all(np.array_equal(found[0], other) for other in found)


@few
@given(cases(span=2), st.integers(1, 30), st.data())
def test_fewer_distinct_features_give_fewer_clusters(case, more, data):
    X, _ = case
    X = np.repeat(X, 5, axis=0)
    n_clusters = min(n_distinct(X) + more, len(X))
    model = HierarchicalKMeans(n_clusters, n_init=2)
    array = lazily(data, X) if data.draw(st.booleans()) else X
    if n_clusters == n_distinct(X):
        model.fit(array)
    else:
        with pytest.warns(ConvergenceWarning, match="distinct clusters"):
            model.fit(array)
    check(model, X, n_distinct(X))
    assert model.inertia_ == pytest.approx(0, abs=1e-6)


@few
@given(cases(), st.data())
def test_given_centers_give_as_many_clusters(case, data):
    X, n_clusters = case
    sides = (n_clusters,) * 2, (X.shape[1],) * 2
    init = data.draw(whole_points(*sides, span=25))
    model = HierarchicalKMeans(n_clusters, init=init).fit(X)
    check(model, X, n_clusters)
    model.fit(lazily(data, X))
    check(model, X, n_clusters)


@few
@given(st.sampled_from(["f4", "f8"]), st.integers(0, 9), st.integers(0, 1), st.data())
def test_separated_groups_are_found_in_any_chunks(dtype, seed, axis, data):
    X, truth = blobs(9, 180, 3, seed=seed)
    X[:, 0] += 1000 * (truth // 3)  # three far groups of three near ones
    X = X.astype(dtype)
    model = HierarchicalKMeans(9, random_state=seed, feature_axis=axis)
    whole = model.fit(X.T if axis else X).labels_
    assert adjusted_rand_score(truth, whole) == 1
    lazy = lazily(data, X)
    model.fit(lazy.T if axis else lazy)
    assert np.array_equal(model.labels_.compute(), whole)


@few
@given(cases(), st.booleans(), st.integers(0, 1), st.data())
def test_transform_and_back_on_any_input(case, scaling, axis, data):
    X, n_clusters = case
    model = HierarchicalKMeans(n_clusters, scaling=scaling, feature_axis=axis)
    X = X.T if axis else X
    model.fit(X)
    array = lazily(data, X)
    reduced, direct = model.transform(array), model.transform(X)
    assert isinstance(direct, np.ndarray)
    back = np.asarray(model.inverse_transform(reduced))
    np.testing.assert_allclose(reduced, direct, rtol=1e-6)
    means = np.zeros(X.shape)
    for label in range(n_clusters):
        taken = (slice(None), model.labels_ == label)[:: 1 if axis else -1]
        means[taken] = X.astype(float)[taken].mean(axis=1 - (1 - axis), keepdims=True)
    np.testing.assert_allclose(back, means, rtol=1e-5, atol=1e-6)
    if scaling:
        norm = np.linalg.norm(direct.astype(float))
        assert norm == pytest.approx(np.linalg.norm(back), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("n_clusters", [2, 50, 100, 300])
def test_equal_features_are_one_cluster_in_any_chunks(dtype, init, n_clusters):
    rng = np.random.default_rng(1)
    X = np.full((3300, 20), 0.3, dtype)
    X[rng.permutation(3300)[:300]] = rng.normal(size=(300, 20))
    model = HierarchicalKMeans(n_clusters, init=init).fit(X)
    labels = model.labels_
    check(model, X, n_clusters)
    assert n_distinct(model.cluster_centers_) == n_clusters
    background = (np.float32(0.3) == X.astype(np.float32)).all(axis=1)
    assert len(np.unique(labels[background])) == 1
    other = model.fit(da.from_array(X, chunks=(777, 20)))
    assert (np.asarray(other.labels_) == labels).mean() >= 0.999


@pytest.mark.parametrize("entropy", [42, 74, 272])
def test_what_float32_cannot_tell_apart_leaves_nothing_inconsistent(entropy):
    X = np.random.default_rng(entropy).normal(100, size=(900, 1)).astype(np.float32)
    model = HierarchicalKMeans(n_distinct(X), random_state=entropy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X)
    check(model, X, model.n_clusters_)
    assert model.n_clusters_ >= 0.99 * model.n_clusters
    assert np.array_equal(model.predict(X), model.labels_)


def test_one_cluster_holds_everything():
    X = np.random.default_rng(0).normal(size=(50, 3))
    model = HierarchicalKMeans(1).fit(X)
    assert not model.labels_.any()
    np.testing.assert_allclose(model.cluster_centers_, [X.mean(axis=0)], rtol=1e-9)


def test_more_clusters_than_features_are_cut_to_one_each():
    X = np.arange(6.0)[:, None]
    model = HierarchicalKMeans(9)
    with pytest.warns(UserWarning, match="Taking n_clusters = 6 instead"):
        model.fit(X)
    assert model.n_clusters == 9
    check(model, X, 6)
    assert np.array_equal(nearest(X, model.cluster_centers_), model.labels_)


@pytest.mark.parametrize("n_dims", [1, 2, 8])
@pytest.mark.parametrize("seed", range(3))
def test_close_float32_features_get_a_cluster_each(n_dims, seed):
    X = np.random.default_rng(seed).random((1000, n_dims)).astype(np.float32)
    X = np.unique(X, axis=0)
    model = HierarchicalKMeans(n_clusters=len(X)).fit(X)
    assert model.n_clusters_ == len(X)
    assert model.inertia_ == pytest.approx(0, abs=1e-9)
