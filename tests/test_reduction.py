"""transform, inverse_transform and predict against plain NumPy."""

import pickle
import tracemalloc
from functools import cache

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from dask.callbacks import Callback
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from hkmeans_dask import HierarchicalKMeans, reduction
from hkmeans_dask.inputs import arrays
from hkmeans_dask.reduction import Partial, cluster_means, lazy_labels, spread
from hkmeans_dask.workspace import places
from tests.strategies import Watched, cuts, nothing_computed, quick

axes = pytest.mark.parametrize("feature_axis", [0, 1])
scalings = pytest.mark.parametrize("scaling", [False, True])
few = settings(quick, max_examples=30)

N_FEATURES, N_SAMPLES, N_CLUSTERS = 83, 11, 9
VALUES = {
    dtype: (100 + 40 * np.random.default_rng(0).normal(size=(N_FEATURES, N_SAMPLES)))
    .astype(dtype)
    for dtype in ("f4", "f8", "i2", "u1", "f2")
}  # fmt: skip


@cache
def fitted(feature_axis=0, scaling=False, lazy=False):
    """Fit on float64 rows, whatever is transformed later."""
    model = HierarchicalKMeans(N_CLUSTERS, scaling=scaling, feature_axis=feature_axis)
    X = turned(VALUES["f8"], feature_axis)
    return model.fit(da.from_array(X, chunks=(20, 20)) if lazy else X)


def turned(array, feature_axis):
    return array.T if feature_axis else array


def plain_means(values, labels, sizes, scaling):
    """Means by label in float64, times the root of the size when scaling."""
    values = values.astype(np.float64)
    means = np.array([values[labels == label].mean(0) for label in range(len(sizes))])
    return means * np.sqrt(sizes)[:, None] if scaling else means


def write(folder, values, chunks):
    array = zarr.create_array(
        folder / "X.zarr", shape=values.shape, chunks=chunks, dtype=values.dtype
    )
    array[...] = values
    return zarr.open_array(folder / "X.zarr", mode="r")


# transform


@axes
@scalings
@pytest.mark.parametrize("dtype", VALUES)
@pytest.mark.parametrize("kind", ["NumPy", "dask", "Zarr"])
@pytest.mark.parametrize("lazy", [False, True], ids=["fit NumPy", "fit dask"])
def test_transform_is_the_mean_by_label(
    feature_axis, scaling, dtype, kind, lazy, tmp_path
):
    model = fitted(feature_axis, scaling, lazy)
    values = VALUES[dtype]
    X = turned(values, feature_axis)
    if kind == "dask":
        X = da.from_array(X, chunks=(13, 4))
    elif kind == "Zarr":
        X = write(tmp_path, X, (13, 4))
    found = model.transform(X)
    assert isinstance(found, np.ndarray if kind == "NumPy" else da.Array)
    labels = np.asarray(model.labels_)
    expected = plain_means(values, labels, model.sizes_, scaling)
    assert found.dtype == (np.float64 if dtype == "f8" else np.float32)
    assert found.shape == turned(expected, feature_axis).shape
    np.testing.assert_allclose(found, turned(expected, feature_axis), rtol=1e-6)


MODELS = {
    (axis, scaling): fitted(axis, scaling) for axis in (0, 1) for scaling in (0, 1)
}


@few
@given(
    cuts(N_FEATURES, most=12, least=0),
    cuts(N_SAMPLES, most=5, least=0),
    st.sampled_from(sorted(VALUES)),
    st.sampled_from(sorted(MODELS)),
)
def test_any_chunks_give_the_same_means(features, samples, dtype, case):
    model, values = MODELS[case], VALUES[dtype]
    X = da.from_array(values, chunks=(features, samples))
    found = model.transform(turned(X, case[0]))
    kept = tuple(size for size in samples if size)
    assert turned(found, case[0]).chunks == ((N_CLUSTERS,), kept)
    expected = plain_means(values, model.labels_, model.sizes_, case[1])
    np.testing.assert_allclose(turned(found, case[0]), expected, rtol=1e-6)


def test_new_samples_are_reduced_by_the_same_features():
    model = MODELS[0, 0]
    other = np.random.default_rng(1).normal(size=(N_FEATURES, 40))
    expected = plain_means(other, model.labels_, model.sizes_, scaling=False)
    np.testing.assert_allclose(model.transform(other), expected, rtol=1e-6)


def test_integer_means_are_not_truncated_and_sums_do_not_overflow():
    X = np.array([[32767, 0], [32766, 1], [-32768, 0], [-32767, 1]], np.int16)
    model = HierarchicalKMeans(2).fit(X)
    means = model.transform(np.repeat(X, 3, axis=1))
    order = np.argsort(means[:, 0])
    expected = [[-32767.5] * 3 + [0.5] * 3, [32766.5] * 3 + [0.5] * 3]
    assert means[order].tolist() == expected


def test_float32_sums_of_many_features_keep_their_digits():
    X = (100 + np.random.default_rng(0).random((200_000, 2))).astype(np.float32)
    labels = np.arange(200_000) % 3
    features = arrays.read_features(da.from_array(X, chunks=(9999, 2)), 0)
    lazy = da.from_array(labels, chunks=20_000)
    found = cluster_means(features, lazy, np.ones(3)).compute()
    expected = [X[labels == label].astype(float).mean(axis=0) for label in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_means_do_not_depend_on_the_order_of_arrival():
    X = np.random.default_rng(0).normal(size=(N_FEATURES, N_SAMPLES))
    lazy = MODELS[0, 0].transform(da.from_array(X, chunks=(1, 4)))
    first = lazy.compute(scheduler="synchronous")
    for n_threads in (1, 2, 5):
        again = lazy.compute(scheduler="threads", num_workers=n_threads)
        assert np.array_equal(first, again)


@axes
def test_partial_sums_hold_only_the_clusters_present(feature_axis):
    n_clusters, n_blocks = 48, 24  # two clusters of 12 features in each block
    X = np.repeat(np.arange(1.0, n_clusters + 1), 12)[:, None] * np.ones(4)
    model = HierarchicalKMeans(n_clusters, feature_axis=feature_axis)
    model.fit(turned(X, feature_axis))
    assert model.n_clusters_ == n_clusters
    partials = []

    def keep(key, result, *_):
        if isinstance(result, Partial):
            partials.append(result)

    lazy = da.from_array(X, chunks=(24, 4))
    with Callback(posttask=keep):
        model.transform(turned(lazy, feature_axis)).compute(scheduler="synchronous")
    present = [len(part.clusters) for part in partials]
    assert present.count(2) == n_blocks
    assert len(partials) > n_blocks  # and then they are merged
    for part in partials:
        assert part.sums.shape == (len(part.clusters), 4)
        assert part.sums.all(), "a row for a cluster that is not there"


def test_x_is_read_once():
    array = Watched(VALUES["f8"])
    lazy = MODELS[0, 0].transform(array.blocks((20, 4)))
    assert array.reads == 0
    lazy.compute(scheduler="synchronous")
    assert array.reads == 5 * 3


def test_clusters_without_features_stay_zero():
    features = arrays.read_features(da.ones((6, 2), chunks=(2, 2)), 0)
    labels = da.from_array(np.array([3, 3, 1, 1, 1, 3]), chunks=6)
    factors = np.array([7.0, 2.0, 7.0, 5.0, 7.0])
    means = cluster_means(features, labels, factors).compute()
    assert means.tolist() == [[0, 0], [2, 2], [0, 0], [5, 5], [0, 0]]


# inverse_transform


@axes
@scalings
@pytest.mark.parametrize("kind", ["NumPy", "dask", "Zarr"])
@pytest.mark.parametrize("lazy", [False, True], ids=["fit NumPy", "fit dask"])
def test_the_inverse_gives_each_feature_its_clusters_mean(
    feature_axis, scaling, kind, lazy, tmp_path
):
    model = fitted(feature_axis, scaling, lazy)
    X = turned(VALUES["f8"], feature_axis)
    reduced = model.transform(X)
    given = reduced
    if kind == "dask":
        given = da.from_array(reduced, chunks=(4, 5))
    elif kind == "Zarr":
        given = write(tmp_path, reduced, (4, 5))
    found = model.inverse_transform(given)
    assert isinstance(found, np.ndarray if kind == "NumPy" else da.Array)
    labels = np.asarray(model.labels_)
    means = plain_means(VALUES["f8"], labels, model.sizes_, scaling=False)
    assert found.shape == X.shape
    np.testing.assert_allclose(turned(found, feature_axis), means[labels], rtol=1e-12)
    if scaling:
        norm = np.linalg.norm(np.asarray(found))
        assert np.linalg.norm(reduced) == pytest.approx(norm, rel=1e-12)
    # A second round trip changes nothing.
    np.testing.assert_allclose(model.transform(found), reduced, rtol=1e-12)


@few
@given(cuts(N_CLUSTERS), cuts(N_SAMPLES), st.sampled_from(sorted(MODELS)))
def test_any_chunks_of_the_reduced_give_the_same_inverse(clusters, samples, case):
    model = MODELS[case]
    reduced = np.random.default_rng(0).normal(size=(N_CLUSTERS, N_SAMPLES))
    lazy = da.from_array(reduced, chunks=(clusters, samples))
    found = turned(model.inverse_transform(turned(lazy, case[0])), case[0])
    root = np.sqrt(model.sizes_)[:, None] if case[1] else 1
    np.testing.assert_allclose(found, (reduced / root)[model.labels_], rtol=1e-12)
    assert found.chunks[1] == samples


@pytest.mark.parametrize(
    ("dtype", "expected"), [("f4", "f4"), ("f8", "f8"), ("i2", "f4"), ("i8", "f8")]
)
@pytest.mark.parametrize("lazy", [False, True])
def test_integers_are_not_truncated_by_the_inverse(dtype, expected, lazy):
    model = MODELS[0, 1]
    reduced = np.full((N_CLUSTERS, 2), 7, dtype)
    given = da.from_array(reduced, chunks=(2, 1)) if lazy else reduced
    found = model.inverse_transform(given)
    assert found.dtype == np.dtype(expected)
    exact = 7 / np.sqrt(model.sizes_)[model.labels_][:, None] * np.ones(2)
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_features_take_the_rows_of_their_labels():
    reduced = da.from_array(np.array([[1.0, 2.0], [3.0, 4.0]]), chunks=(1, 1))
    labels = da.from_array(np.array([1, 0, 1]), chunks=2)
    found = spread(reduced, labels, np.array([10.0, 1.0]))
    assert found.chunks == ((2, 1), (1, 1))
    assert found.compute().tolist() == [[3, 4], [10, 20], [3, 4]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_block_scales_no_more_rows_than_it_takes(dtype):
    rng = np.random.default_rng(0)
    reduced = rng.normal(size=(5000, 40)).astype(dtype)
    factors = 1 / np.sqrt(rng.integers(1, 9, 5000))
    scaled = (reduced * factors[:, None]).astype(dtype)
    for n_labels in (30, 20_000):
        labels = rng.integers(-1, 5000, n_labels)
        labels[:2] = -1, 4999
        tracemalloc.start()
        found = reduction._take(labels, [reduced], factors)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert np.isnan(found[labels < 0]).all()
        kept = labels >= 0
        np.testing.assert_array_equal(found[kept], scaled[labels[kept]], strict=True)
        assert peak < found.nbytes + min(found.nbytes, scaled.nbytes) + 2**20
        plain = reduction._take(labels, [reduced], None)
        assert np.array_equal(plain[kept], reduced[labels[kept]])


def test_no_task_copies_the_means():
    reduced, labels = np.ones((20_000, 50)), da.zeros(1000, chunks=100, dtype=int)
    lazy = reduction.spread(da.from_array(reduced, chunks=-1), labels, None)
    tracemalloc.start()
    try:
        lazy.compute(scheduler="synchronous")
        assert tracemalloc.get_traced_memory()[1] < reduced.nbytes / 2
    finally:
        tracemalloc.stop()


# predict


@few
@given(cuts(60, most=8), cuts(N_SAMPLES), st.sampled_from(["f4", "f8", "i2"]))
def test_new_features_get_the_nearest_centers(features, samples, dtype):
    model = MODELS[0, 0]
    new = (100 + 40 * np.random.default_rng(1).normal(size=(60, N_SAMPLES))).astype(
        dtype
    )
    far = new.astype(float)[:, None]
    big = ((far - model.coarse_centers_) ** 2).sum(axis=2).argmin(axis=1)
    squared = ((far - model.cluster_centers_) ** 2).sum(axis=2)
    squared[model.parents_ != big[:, None]] = np.inf
    lazy = model.predict(da.from_array(new, chunks=(features, samples)))
    assert lazy.chunks == (features,)
    assert lazy.dtype == np.int32
    assert np.array_equal(lazy.compute(), squared.argmin(axis=1))
    assert np.array_equal(model.predict(new), squared.argmin(axis=1))


# laziness and errors


@axes
@scalings
@pytest.mark.parametrize("kind", ["dask", "Zarr"])
def test_building_a_graph_computes_nothing(feature_axis, scaling, kind, tmp_path):
    model = fitted(feature_axis, scaling, lazy=True)
    X = turned(VALUES["f4"], feature_axis)
    reduced = np.ones(turned(np.empty((N_CLUSTERS, 7)), feature_axis).shape)
    if kind == "Zarr":
        X = write(tmp_path, X, (20, 5))
        (tmp_path / "reduced").mkdir()
        reduced = write(tmp_path / "reduced", reduced, (5, 5))
    else:
        X, reduced = Watched(X).blocks((20, 5)), Watched(reduced).blocks((5, 5))
    with nothing_computed():
        results = [model.transform(X), model.inverse_transform(reduced)]
        results.append(model.inverse_transform(model.transform(X)))
        if feature_axis == 0:
            results.append(model.predict(X))
        with pytest.raises(AssertionError, match="computed"):
            results[0].compute()
    assert all(isinstance(result, da.Array) for result in results)
    assert all(np.isfinite(result).all() for result in dask.compute(*results))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["NumPy", "dask", "Zarr"])
@pytest.mark.parametrize(
    ("method", "feature_axis"), [("transform", 0), ("transform", 1), ("predict", 0)]
)
def test_the_first_bad_feature_is_named(feature_axis, value, kind, method, tmp_path):
    model = fitted(feature_axis)
    bad = VALUES["f4"].copy()
    bad[[10, 12, 17], [2, 0, 5]] = value, np.nan, np.inf
    by_block = method == "predict" and kind != "NumPy"
    if not by_block:
        bad[[62, 80], [0, 5]] = np.nan, np.inf
    X = turned(bad, feature_axis)
    if kind == "dask":
        X = turned(da.from_array(bad, chunks=(9, 11)), feature_axis)
    elif kind == "Zarr":
        X = write(tmp_path, X, (11, 9) if feature_axis else (9, 11))
    said = "NaN" if np.isnan(value) else "inf"
    which = "one" if by_block else "the first"
    words = rf"contains {said}: {which} is in feature 10\."
    if kind == "NumPy":
        with pytest.raises(ValueError, match=words):
            getattr(model, method)(X)
        return
    with nothing_computed():
        lazy = getattr(model, method)(X)
    with pytest.raises(ValueError, match=words):
        lazy.compute(scheduler="synchronous")


def test_bad_values_are_found_in_the_chunk_of_samples_that_is_asked():
    bad = VALUES["f8"].copy()
    bad[5, 8] = np.nan
    lazy = MODELS[0, 0].transform(da.from_array(bad, chunks=(20, 4)))
    fine = lazy[:, :8].compute()
    expected = plain_means(
        VALUES["f8"], MODELS[0, 0].labels_, MODELS[0, 0].sizes_, scaling=False
    )
    np.testing.assert_allclose(fine, expected[:, :8], rtol=1e-6)
    with pytest.raises(ValueError, match=r"NaN: the first is in feature 5\."):
        lazy[:, 8:].compute()


def test_large_blocks_of_labels_are_cut_and_small_ones_kept():
    labels = da.zeros(100, np.int32, chunks=40)
    assert lazy_labels(labels, (50, 50)) is labels
    assert lazy_labels(labels, (30, 30, 40)) is labels
    assert lazy_labels(labels, (30, 30, 30, 10)).chunks == ((30, 30, 30, 10),)
    assert lazy_labels(np.zeros(100, np.int32), (60, 40)).chunks == ((60, 40),)


@pytest.mark.parametrize("least", [-1, 0])
@pytest.mark.parametrize("most", [200, 65_534, 65_535, 100_000])
def test_a_graph_of_as_many_labels_as_stay_in_memory_gets_no_warning(least, most):
    n_labels = places.LABEL_BYTES // (2 if most + 1 < 2**16 else 4)
    assert not places.labels_go_to_disk(n_labels, most + 1)
    assert places.labels_go_to_disk(n_labels + 1, most + 1)
    labels = np.random.default_rng(0).integers(least, most + 1, n_labels, np.int32)
    labels[:2] = least, most
    lazy = lazy_labels(labels, (n_labels,))
    assert lazy.dtype == np.int32
    assert_array_equal(lazy.compute(scheduler="sync"), labels)
    assert len(pickle.dumps(lazy.__dask_graph__())) < 9_000_000  # of 10 MB
