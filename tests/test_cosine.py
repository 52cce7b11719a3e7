"""Spherical k-means: directions instead of points."""

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.metrics import adjusted_rand_score

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.kmeans import kernels, minibatch
from hkmeans_dask.kmeans.kernels import to_unit
from hkmeans_dask.kmeans.minibatch import Schedule, State
from hkmeans_dask.kmeans.sums import sum_by_label
from tests.strategies import FLOATS, quick, whole_points

dtypes = pytest.mark.parametrize("dtype", FLOATS)
pytestmark = pytest.mark.filterwarnings("ignore:.* zeros, which have no direction")


def directions(n_features=900, n_groups=6, n_samples=12, seed=0):
    """Features of any length around a few directions, some of zeros."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(n_groups, size=n_features)
    around = rng.normal(size=(n_groups, n_samples)) * 5
    X = around[truth] + rng.normal(size=(n_features, n_samples)) * 0.3
    X *= rng.lognormal(sigma=3, size=(n_features, 1))
    X[::100] = 0
    return X, truth


def cosines(X, model):
    """Cosine of the angle of each feature to its center."""
    lengths = np.linalg.norm(X, axis=1)
    products = (X * model.cluster_centers_[np.asarray(model.labels_)]).sum(axis=1)
    return products / np.where(lengths, lengths, 1)


@dtypes
@pytest.mark.parametrize("refine", [0, 2])
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_centers_have_unit_length_and_no_offset_is_removed(dtype, refine, init):
    X, truth = directions()
    options = {"init": init, "refine": refine, "metric": "cosine"}
    model = HierarchicalKMeans(6, **options).fit(X.astype(dtype))
    for centers in (model.cluster_centers_, model.coarse_centers_):
        assert centers.dtype == dtype
        assert_allclose(np.linalg.norm(centers, axis=1), 1, rtol=1e-6)
    assert not model.offset_.any()
    some = X.any(axis=1)
    assert adjusted_rand_score(truth[some], model.labels_[some]) > 0.75
    assert model.inertia_ == pytest.approx(
        2 * (1 - cosines(X, model)[some]).sum(), rel=1e-4
    )


def test_lengths_do_not_matter():
    X, _ = directions()
    factors = 2.0 ** np.random.default_rng(1).integers(-5, 5, size=(len(X), 1))
    one = HierarchicalKMeans(20, metric="cosine", refine=1).fit(X)
    other = HierarchicalKMeans(20, metric="cosine", refine=1).fit(X * factors)
    assert_array_equal(one.labels_, other.labels_)
    assert_array_equal(one.cluster_centers_, other.cluster_centers_)
    euclidean = HierarchicalKMeans(20).fit(X)
    assert adjusted_rand_score(one.labels_, euclidean.labels_) < 0.5


def test_labels_are_the_directions_of_largest_cosine():
    X, _ = directions()
    model = HierarchicalKMeans(20, metric="cosine", refine=1).fit(X)
    some = X.any(axis=1)
    best = (X @ model.cluster_centers_.T).argmax(axis=1)
    assert_array_equal(model.labels_[some], best[some])


def normed(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def kinds_of(X, folder):
    """X as arrays of all kinds, whose zeros are in blocks of their own, too."""
    import xarray as xr

    layout = {"chunks": (50, X.shape[1]), "config": {"write_empty_chunks": True}}
    stored = zarr.create_array(folder / "x", data=X, **layout)
    return {
        "numpy": X,
        "dask": da.from_array(X, (77, -1)),
        "zarr": stored,
        "xarray": xr.DataArray(X, dims=("voxel", "time")),
    }


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr", "xarray"])
@pytest.mark.parametrize("refine", [0, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_zeros_are_in_no_cluster(kind, refine, weighted, tmp_path):
    X, _ = directions()
    X[300:460] = 0
    good = X.any(axis=1)
    X = kinds_of(X, tmp_path)[kind]
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 3, len(good)) if weighted else None
    options = {"metric": "cosine", "refine": refine, "work_dir": tmp_path / "w"}
    with pytest.warns(UserWarning, match=rf"^{(~good).sum()} of 900 features") as told:
        model = HierarchicalKMeans(20, **options).fit(X, feature_weight=weights)
    assert len([w for w in told if "direction" in str(w.message)]) == 1
    labels, values = np.asarray(model.labels_), np.asarray(X)
    assert_array_equal(labels < 0, ~good)
    assert model.n_excluded_ == (~good).sum()
    assert model.sizes_.sum() + model.n_excluded_ == model.n_features_in_
    assert_array_equal(model.sizes_, np.bincount(labels[good], minlength=20))
    squared = 2 - 2 * cosines(values, model)[good]
    counts = np.ones(good.sum()) if weights is None else weights[good]
    inertia = np.bincount(labels[good], squared * counts, 20)
    assert_allclose(model.cluster_inertia_, inertia, rtol=1e-6, atol=1e-9)
    for level, found in (("fine", labels), ("coarse", [*model.parents_, -1])):
        expected = labels if level == "fine" else np.array(found)[labels]
        given = np.asarray(model.predict(X, level=level))
        assert_array_equal(given, expected)


@pytest.mark.parametrize("scaling", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("lazy", [False, True])
def test_what_is_left_out_is_in_no_mean_and_nan_in_the_inverse(scaling, axis, lazy):
    X, _ = directions()
    good = X.any(axis=1)
    rows = da.from_array(X, (77, 5)) if lazy else X
    model = HierarchicalKMeans(20, metric="cosine", feature_axis=axis, scaling=scaling)
    model.fit(rows if axis == 0 else rows.T)
    labels = np.asarray(model.labels_)
    others = np.random.default_rng(1).normal(size=(len(X), 7))
    others[~good] = 1e9
    others[0], others[100] = np.nan, np.inf
    weights = np.arange(len(X)) % 3
    given = da.from_array(others, (77, 5)) if lazy else others
    for level in ("fine", "coarse"):
        of = labels if level == "fine" else np.append(model.parents_, -1)[labels]
        for w in (None, weights):
            found = np.asarray(
                model.transform(
                    given if axis == 0 else given.T, level=level, feature_weight=w
                )
            )
            found = found if axis == 0 else found.T
            w = np.ones(len(X)) if w is None else w
            expected = [
                np.average(others[of == i], axis=0, weights=w[of == i])
                * (np.sqrt((of == i).sum()) if scaling else 1)
                for i in range(len(found))
            ]
            assert_allclose(found, expected, atol=1e-9)
    reduced = model.transform(given if axis == 0 else given.T)
    inverse = np.asarray(model.inverse_transform(reduced))
    inverse = inverse if axis == 0 else inverse.T
    plain = np.asarray(reduced if axis == 0 else reduced.T)
    plain = plain / np.sqrt(model.sizes_)[:, None] if scaling else plain
    assert np.isnan(inverse[~good]).all()
    assert_allclose(inverse[good], plain[labels[good]])
    given = others.copy()
    given[5, 3] = np.nan  # one that is not left out
    with pytest.raises(ValueError, match="NaN: the first is in feature 5"):
        np.asarray(model.transform(given if axis == 0 else given.T))


@pytest.mark.parametrize("lazy", [False, True])
def test_passes_are_those_of_the_good_features_alone(lazy):
    """Lloyd's steps from given centers, on all features and on the good ones."""
    X, _ = directions(n_groups=40)
    good = X.any(axis=1)
    init, few = normed(X[1:16]), normed(X[good])
    rows = da.from_array(X, (50, -1)) if lazy else X
    model = HierarchicalKMeans(15, init=init, metric="cosine", refine=1).fit(rows)
    nearest = (few @ init.T).argmax(axis=1)
    means = normed(np.array([few[nearest == i].sum(axis=0) for i in range(15)]))
    best = (few @ means.T).max(axis=1)
    assert_allclose((model.cluster_centers_ @ means.T).max(axis=0), 1, atol=1e-9)
    assert model.inertia_ == pytest.approx(2 * (1 - best).sum(), rel=1e-9)


def test_labels_in_files_and_saved_models_keep_what_is_left_out(tmp_path):
    X, _ = directions()
    rows, good = da.from_array(X, (77, -1)), X.any(axis=1)
    options = {"metric": "cosine", "work_dir": tmp_path / "w"}
    first = HierarchicalKMeans(20, **options).fit(rows)
    again = HierarchicalKMeans(20, **options).fit(rows)
    fewer = HierarchicalKMeans(20, metric="cosine").fit(X)
    for number, model in enumerate((first, again, fewer)):
        assert_array_equal(np.asarray(model.labels_) < 0, ~good)
        model.to_zarr(tmp_path / str(number))
        loaded = HierarchicalKMeans.from_zarr(tmp_path / str(number))
        assert loaded.n_excluded_ == model.n_excluded_ == (~good).sum()
        assert_array_equal(loaded.labels_, model.labels_)
        assert_array_equal(loaded.predict(X), model.labels_)
        assert_array_equal(loaded.transform(X), model.transform(X))


def test_clusters_that_no_feature_chose_do_not_shift_what_is_left_out():
    X = np.repeat(np.eye(5), 4, axis=0)
    X[::4] = 0
    init = np.vstack([np.eye(5), -np.eye(5)])[::-1].copy()
    with pytest.warns(UserWarning, match=r"distinct clusters \(5\)"):
        model = HierarchicalKMeans(10, init=init, metric="cosine", refine=1).fit(X)
    assert model.labels_.tolist()[::4] == [-1] * 5
    assert model.sizes_.tolist() == [3] * 5
    assert_array_equal(np.asarray(model.predict(da.from_array(X))), model.labels_)
    assert model.predict(np.zeros((2, 5))).tolist() == [-1, -1]


def test_euclidean_leaves_none_out():
    X, _ = directions()
    model = HierarchicalKMeans(20).fit(X)
    assert model.n_excluded_ == 0
    assert model.labels_.min() == 0


def test_fits_of_columns_with_names(tmp_path):
    pandas = pytest.importorskip("pandas")
    X, _ = directions()
    table = pandas.DataFrame(X.T, columns=[f"v{i}" for i in range(len(X))])
    model = HierarchicalKMeans(20, metric="cosine", feature_axis=1)
    found = model.set_output(transform="pandas").fit_transform(table)
    assert list(found.columns) == list(model.get_feature_names_out())
    assert found.shape == (12, 20)
    assert not np.isnan(found.to_numpy()).any()
    page = tmp_path / "r.html"
    model.report(page)
    assert "9 more features are left out" in page.read_text()
    if hasattr(BaseEstimator, "_html_repr"):  # scikit-learn 1.7 and newer
        assert "9 more left out" in model._repr_html_()


def test_zeros_only_are_refused():
    with pytest.raises(ValueError, match="zeros, and have no direction"):
        HierarchicalKMeans(2, metric="cosine").fit(np.zeros((9, 3)))
    X, _ = directions()
    init = X[:5]  # the first one is zeros
    with pytest.raises(ValueError, match="zeros only in row 0"):
        HierarchicalKMeans(5, init=init, metric="cosine").fit(X)


def test_fewer_directions_than_big_clusters():
    X = np.zeros((50, 3))
    X[7], X[9] = (1, 0, 0), (0, 5, 0)
    with pytest.warns(UserWarning, match="distinct clusters"):
        model = HierarchicalKMeans(30, metric="cosine").fit(X)
    assert model.n_clusters_ == 2
    assert model.labels_[7] != model.labels_[9]
    assert model.inertia_ == pytest.approx(0, abs=1e-9)
    assert model.n_excluded_ == 48


def test_the_sum_of_cosines_never_falls_from_pass_to_pass():
    X, _ = directions(n_groups=200)
    sums = [
        cosines(X, HierarchicalKMeans(40, refine=n, metric="cosine").fit(X)).sum()
        for n in range(5)
    ]
    assert (np.diff(sums) >= -1e-9).all()
    assert sums[-1] > sums[0]


@quick
@given(whole_points(n_points=(8, 40), dtype=np.float64), st.integers(2, 6))
def test_an_update_moves_to_the_direction_of_the_sum(points, n_clusters):
    points = kernels.to_unit(points[points.any(axis=1)])[0]
    if len(points) < n_clusters:
        return
    before = State.start(points[:n_clusters])
    after = minibatch.update(before, points, unit=True)
    for label in range(n_clusters):
        total = points[after.labels == label].sum(axis=0)
        length = np.linalg.norm(total)
        if length > 1e-9:
            assert_allclose(after.centers[label], total / length, atol=1e-9)
    squared = kernels.squared_distances(points, after.centers, after.labels)
    assert len(points) - after.explained == pytest.approx(squared.sum(), abs=1e-9)


def test_training_reaches_a_fixed_point_of_spherical_k_means():
    X, _ = directions(n_groups=60)
    points = kernels.to_unit(X[X.any(axis=1)])[0]
    schedule = Schedule("k-means++", 1000, 3, None, unit=True)
    centers = minibatch.train(points, 20, schedule, np.random.default_rng(0))
    labels = (points @ centers.T).argmax(axis=1)
    sums = sum_by_label(points, labels, 20)
    products = (kernels.to_unit(sums)[0] * centers).sum(axis=1)
    assert_allclose(products, 1, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_directions_of_any_length_are_told_apart(dtype):
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 20, 2000)
    directions = np.linalg.qr(rng.normal(size=(24, 24)))[0][:20]
    far = 28 if dtype == np.float32 else 200
    X = directions[kinds] + rng.normal(size=(2000, 24)) / 100
    X = (X * 10 ** rng.uniform(-far, far, (2000, 1))).astype(dtype)
    model = HierarchicalKMeans(20, metric="cosine").fit(X)
    assert adjusted_rand_score(model.labels_, kinds) > 0.99
    assert np.array_equal(model.predict(X), model.labels_)


def test_lengths_within_the_range_are_as_before():
    points = np.random.default_rng(0).normal(size=(500, 7)).astype(np.float32)
    units, lengths = to_unit(points)
    plain = np.sqrt(np.einsum("ij,ij->i", points, points))
    assert np.array_equal(lengths, plain)
    assert np.array_equal(units, points / plain[:, None])
