"""The estimator on the inputs that break other hierarchical k-means, and its files."""

import pickle

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from distributed import Client
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score

from hkmeans_dask import HierarchicalKMeans
from tests.benchmarks.judge import judge
from tests.conftest import local_cluster
from tests.strategies import Watched, blobs, nothing_computed

ARRAYS = (
    "labels_",
    "sizes_",
    "cluster_centers_",
    "coarse_centers_",
    "parents_",
    "offset_",
)
NUMBERS = ("inertia_", "n_clusters_", "n_features_in_", "n_passes_")


def noise(n_features=400, n_samples=20, seed=0, dtype=np.float64):
    return (
        np.random.default_rng(seed).normal(size=(n_features, n_samples)).astype(dtype)
    )


def lazy(X, rows=100):
    return da.from_array(X, chunks=(rows, -1))


def stored(X, rows=100):
    return zarr.create_array({}, data=np.asarray(X), chunks=(rows, np.shape(X)[1]))


def same_model(one, other):
    """Assert that two fitted models are bitwise equal."""
    for name in ARRAYS:
        mine, theirs = np.asarray(getattr(one, name)), np.asarray(getattr(other, name))
        assert mine.dtype == theirs.dtype, name
        assert_array_equal(mine, theirs, name)
    for name in NUMBERS:
        assert getattr(one, name) == getattr(other, name), name


# What every fit promises


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int16])
def test_attributes(dtype):
    X = (noise() * 9).astype(dtype)
    model = HierarchicalKMeans(30).fit(X)
    kind = np.float64 if dtype == np.float64 else np.float32
    assert model.labels_.dtype == np.int32
    assert model.sizes_.dtype == np.int64
    assert_array_equal(np.bincount(model.labels_, minlength=30), model.sizes_)
    assert model.sizes_.all()
    assert model.n_clusters_ == 30
    assert model.cluster_centers_.shape == (30, 20)
    assert model.cluster_centers_.dtype == model.coarse_centers_.dtype == kind
    assert model.coarse_centers_.shape == (5, 20)
    assert_array_equal(np.unique(model.parents_), np.arange(5))
    assert model.n_features_in_ == 400
    assert model.n_passes_ == 2
    differences = X.astype(float) - model.cluster_centers_[model.labels_].astype(float)
    assert isinstance(model.inertia_, float)
    assert_allclose(model.inertia_, (differences**2).sum(), rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3, 50])
def test_predict_of_the_training_data_are_the_labels(k):
    for X in (noise(), noise(dtype=np.float32), noise(5000, 3)):
        model = HierarchicalKMeans(k).fit(X)
        assert_array_equal(model.predict(X), model.labels_)
        assert_array_equal(model.predict(lazy(X)), model.labels_)


def test_unfitted_models_say_so():
    model = HierarchicalKMeans(2)
    for method in (model.predict, model.transform, model.inverse_transform):
        with pytest.raises(NotFittedError):
            method(noise())
    with pytest.raises(NotFittedError):
        model.to_zarr("nowhere.zarr")


def test_fit_predict_and_fit_transform():
    X = noise()
    model = HierarchicalKMeans(9).fit(X)
    assert_array_equal(HierarchicalKMeans(9).fit_predict(X), model.labels_)
    assert_array_equal(HierarchicalKMeans(9).fit_transform(X), model.transform(X))


def test_a_second_fit_forgets_the_first():
    model = HierarchicalKMeans(9, feature_axis=1)
    names = [f"voxel{i}" for i in range(30)]
    model.fit(pd.DataFrame(noise(7, 30), columns=names)).fit(noise().T)
    same_model(model, HierarchicalKMeans(9, feature_axis=1).fit(noise().T))
    assert not hasattr(model, "feature_names_in_")
    assert model.transform(noise().T).shape == (20, 9)


def lazy_columns(X):
    return da.from_array(X, chunks=(-1, 100))


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(np.asarray, np.asarray), (lazy, lazy_columns), (stored, stored)],
    ids=["array", "dask", "zarr"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_both_axes_give_the_same_clusters(rows, columns, dtype):
    X = (noise() * 9).astype(dtype)
    upright = HierarchicalKMeans(25).fit(rows(X))
    lying = HierarchicalKMeans(25, feature_axis=1).fit(columns(X.T))
    same_model(upright, lying)
    reduced = np.asarray(upright.transform(rows(X)))
    assert_array_equal(reduced.T, lying.transform(columns(X.T)))
    back = np.asarray(upright.inverse_transform(rows(reduced)))
    assert_array_equal(back.T, lying.inverse_transform(columns(reduced.T)))


def test_booleans():
    X = noise() > 0
    model = HierarchicalKMeans(9).fit(X)
    same_model(model, HierarchicalKMeans(9).fit(X.astype(np.float32)))
    expected = [X[model.labels_ == cluster].mean(axis=0) for cluster in range(9)]
    assert_allclose(model.transform(X), expected, rtol=1e-6)


# How many clusters


@pytest.mark.parametrize("prepare", [np.asarray, lazy])
def test_as_many_clusters_as_features(prepare):
    X = noise(230)
    model = HierarchicalKMeans(230).fit(prepare(X))
    assert model.n_clusters_ == 230
    assert_array_equal(np.sort(np.asarray(model.labels_)), np.arange(230))
    assert_allclose(model.inertia_, 0, atol=1e-20)


@pytest.mark.parametrize("value", [0.0, 7.3])
@pytest.mark.parametrize("prepare", [np.asarray, lazy])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_features_beside_distinct_ones_leave_no_cluster_out(value, prepare, seed):
    """The background of a brain; nilearn finds 8 of 100 clusters."""
    X = np.concatenate([np.full((3000, 20), value), noise(300)])
    model = HierarchicalKMeans(100, random_state=seed).fit(prepare(X))
    assert model.n_clusters_ == 100
    assert (np.asarray(model.labels_)[:3000] == model.labels_[0]).all()


def test_equal_features_are_one_cluster_where_all_the_others_have_their_own():
    X = np.concatenate([np.zeros((3000, 20)), noise(99)])
    model = HierarchicalKMeans(100).fit(X)
    assert_array_equal(np.sort(model.sizes_), [1] * 99 + [3000])


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("allocation", ["size", "inertia"])
def test_a_few_clusters(k, allocation):
    X, truth = blobs(k, 200, 3)
    model = HierarchicalKMeans(k, allocation=allocation).fit(X)
    assert model.n_clusters_ == k
    assert adjusted_rand_score(truth, model.labels_) == 1
    means = [X[model.labels_ == cluster].mean(axis=0) for cluster in range(k)]
    assert_allclose(model.cluster_centers_, means, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prepare", [np.asarray, lazy])
@pytest.mark.parametrize(("n_distinct", "k"), [(1, 3), (5, 9), (30, 31), (2, 100)])
def test_fewer_distinct_features_than_clusters(prepare, n_distinct, k):
    truth = np.random.default_rng(1).permutation(np.arange(400) % n_distinct)
    X = noise(n_distinct)[truth]
    message = rf"^Number of distinct clusters \({n_distinct}\) found smaller than"
    with pytest.warns(ConvergenceWarning, match=message):
        model = HierarchicalKMeans(k).fit(prepare(X))
    assert model.n_clusters_ == len(model.cluster_centers_) == n_distinct
    assert_array_equal(np.unique(model.labels_), np.arange(n_distinct))
    assert adjusted_rand_score(truth, np.asarray(model.labels_)) == 1
    assert_array_equal(
        model.transform(X)[model.labels_], model.inverse_transform(model.transform(X))
    )


def test_more_clusters_than_features():
    X = noise(30)
    message = (
        r"^n_clusters should be at most the number of features\. "
        r"Taking n_clusters = 30 instead\.$"
    )
    model = HierarchicalKMeans(1000)
    for data in (X, lazy(X)):
        with pytest.warns(UserWarning, match=message) as warned:
            model.fit(data)
        assert warned[0].filename == __file__, "the warning points at the caller"
        assert model.n_clusters == 1000
        assert model.n_clusters_ == 30


def test_clusters_that_few_training_rows_cannot_see():
    """Sampling keeps enough features for every cluster, also one feature each."""
    model = HierarchicalKMeans(40, max_features_per_cluster=1).fit(noise(4000))
    assert model.n_clusters_ == 40
    assert model.sizes_.sum() == 4000


# Numbers


@pytest.mark.parametrize("prepare", [np.asarray, lazy])
def test_a_large_mean_costs_no_digits(prepare):
    """Raw BOLD: mean 10,000, standard deviation 50, and differences of 3 inside it.

    Squared norms are 4e9 there, and float32 rounds them to 256: more than the squared
    distance between the clusters, 100 samples of 3 squared, can lose.
    """
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.arange(3000) % 16)
    differences = rng.normal(scale=1, size=(16, 40))[truth]
    X = differences + rng.normal(scale=0.3, size=(3000, 40))
    X += rng.normal(scale=50, size=40)
    raw = (X + 10_000).astype(np.float32)
    exact = HierarchicalKMeans(16).fit(raw.astype(np.float64) - 10_000)
    model = HierarchicalKMeans(16).fit(prepare(raw))
    assert adjusted_rand_score(exact.labels_, np.asarray(model.labels_)) == 1
    assert_allclose(model.inertia_, exact.inertia_, rtol=1e-3)
    assert judge(raw, np.asarray(model.labels_)).unexplained_variance < 0.5


def test_a_tiny_inertia_is_not_lost():
    """Two features a ten-thousandth apart, far from zero: (1e-4)^2 each."""
    X = np.array([[1.0], [1.0002], [9.0], [9.0002]])
    model = HierarchicalKMeans(2).fit(X)
    assert_allclose(model.inertia_, 4e-8, rtol=1e-6)


# Initial centers


def test_given_centers_of_separated_blobs_are_recovered_exactly():
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.arange(5000) % 100)
    X = rng.uniform(0, 100, size=(100, 3))[truth] + rng.normal(size=(5000, 3)) / 100
    means = np.array([X[truth == blob].mean(axis=0) for blob in range(100)])
    for prepare in (np.asarray, lazy):
        for seed in range(3):
            model = HierarchicalKMeans(100, init=means, random_state=seed)
            model.fit(prepare(X))
            labels = np.asarray(model.labels_)
            assert adjusted_rand_score(truth, labels) == 1
            assert_allclose(model.cluster_centers_[labels], means[truth], rtol=1e-12)


def test_given_centers_seed_the_small_clusters():
    """From these centers k-means stops at a worse optimum than k-means++ finds."""
    X = np.array([[0.0], [1.0], [10.0], [11.0], [100.0], [101.0]])
    seeded = HierarchicalKMeans(3, init=np.array([[5.5], [100.0], [101.0]])).fit(X)
    assert_array_equal(np.sort(seeded.cluster_centers_, axis=0), [[5.5], [100], [101]])
    free = HierarchicalKMeans(3).fit(X)
    assert_array_equal(np.sort(free.cluster_centers_, axis=0), [[0.5], [10.5], [100.5]])


def test_big_clusters_come_from_clustering_the_given_centers():
    """Not from the features: those at 2000 would pull a big cluster to 1500."""
    X = np.repeat([[-1.0], [0.0], [1.0], [1000.0], [2000.0]], 20, axis=0)
    init = np.array([[-1.0], [0.0], [1.0], [1000.0]])
    model = HierarchicalKMeans(4, init=init).fit(X)
    assert_array_equal(np.sort(model.coarse_centers_, axis=0), [[0], [1000]])
    expected = [[-1], [0], [1], [1500]]
    assert_array_equal(np.sort(model.cluster_centers_, axis=0), expected)


@pytest.mark.parametrize("convert", [list, pd.DataFrame, np.float32, np.int64])
def test_given_centers_of_any_kind(convert):
    X, truth = blobs(9, 300, 3)
    init = convert(np.array([X[truth == blob].mean(axis=0) for blob in range(9)]))
    model = HierarchicalKMeans(9, init=init).fit(X)
    assert adjusted_rand_score(truth, model.labels_) == 1
    assert model.init is init


@pytest.mark.parametrize("prepare", [np.asarray, stored])
@pytest.mark.parametrize("shape", [(8, 20), (9, 19), (20, 9), (9,), (9, 20, 1)])
def test_given_centers_of_another_shape_are_refused(prepare, shape):
    model = HierarchicalKMeans(9, init=np.zeros(shape))
    with pytest.raises(ValueError, match=r"\(9, 20\)|2D|dim 3"):
        model.fit(prepare(noise()))


def test_given_centers_that_are_not_finite_are_refused():
    init = noise(9)
    init[4, 2] = np.nan
    with pytest.raises(ValueError, match="Input init contains NaN"):
        HierarchicalKMeans(9, init=init).fit(noise())


def test_random_initial_centers():
    X, _ = blobs(9, 900, 3)
    model = HierarchicalKMeans(9, init="random", n_init=30).fit(X)
    assert model.n_clusters_ == 9
    assert not np.array_equal(model.labels_, HierarchicalKMeans(9).fit_predict(X))


# Kind in, kind out


def frame(X):
    return pd.DataFrame(X, columns=[f"sample{i}" for i in range(np.shape(X)[1])])


KINDS = {
    "array": (np.asarray, np.ndarray),
    "list": (np.ndarray.tolist, np.ndarray),
    "frame": (frame, np.ndarray),
    "Fortran order": (np.asfortranarray, np.ndarray),
    "dask": (lazy, da.Array),
    "zarr": (stored, da.Array),
}


@pytest.mark.parametrize("feature_axis", [0, 1])
@pytest.mark.parametrize(("prepare", "kind"), KINDS.values(), ids=KINDS)
def test_kind_in_kind_out(prepare, kind, feature_axis):
    X = noise() if feature_axis == 0 else noise().T
    plain = HierarchicalKMeans(9, feature_axis=feature_axis).fit(X)
    model = HierarchicalKMeans(9, feature_axis=feature_axis).fit(prepare(X))
    reduced = plain.transform(X)
    results = {
        "labels": (model.labels_, plain.labels_),
        "transform": (model.transform(prepare(X)), reduced),
        "inverse": (
            model.inverse_transform(prepare(reduced)),
            plain.inverse_transform(reduced),
        ),
    }
    if feature_axis == 0:
        results["predict"] = (model.predict(prepare(X)), plain.labels_)
    for name, (found, expected) in results.items():
        assert isinstance(found, kind), name
        assert found.dtype == expected.dtype, name
        assert found.shape == expected.shape, name
        assert_allclose(found, expected, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("fitted_on", [np.asarray, lazy])
def test_results_follow_what_a_method_gets_not_what_fit_got(fitted_on):
    X = noise()
    model = HierarchicalKMeans(9).fit(fitted_on(X))
    for prepare, kind in KINDS.values():
        reduced = model.transform(prepare(X))
        assert isinstance(reduced, kind)
        assert isinstance(model.predict(prepare(X)), kind)
        small = prepare(np.asarray(reduced))
        assert isinstance(model.inverse_transform(small), kind)


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_set_output_is_for_arrays_in_memory_only(container):
    X = noise().T
    model = HierarchicalKMeans(9, feature_axis=1).fit(X)
    model.set_output(transform=container)
    assert type(model.transform(X)).__module__.startswith(container)
    refusal = pytest.raises(TypeError, match=f"'{container}'.*set_output.*'default'")
    with nothing_computed(), refusal:
        model.transform(lazy(X, rows=5))


def test_lazy_results_compute_nothing_before_they_are_asked():
    X = Watched(noise())
    model = HierarchicalKMeans(9).fit(X.blocks((100, -1)))
    assert X.reads == 2 * 4
    with nothing_computed():
        reduced = model.transform(X.blocks((100, -1)))
        model.inverse_transform(reduced)
        predicted = model.predict(X.blocks((100, -1)))
    assert X.reads == 2 * 4
    assert_array_equal(model.labels_, predicted)
    assert X.reads == 3 * 4, "the labels are there already"


# Labels of lazy input


def test_lazy_labels_are_chunked_like_x_and_can_be_pickled():
    X = Watched(noise())
    expected = HierarchicalKMeans(9).fit(X.blocks((150, -1)))
    model = HierarchicalKMeans(9).fit(X.blocks((150, -1)))
    X.values = None
    assert model.labels_.chunks == ((150, 150, 100),)
    copy = pickle.loads(pickle.dumps(model))
    same_model(copy, expected)
    assert copy.predict(noise()).shape == (400,)


def test_lazy_labels_outlive_their_cluster():
    X = noise()
    with local_cluster(1) as cluster, Client(cluster):
        model = HierarchicalKMeans(9).fit(lazy(X))
    expected = HierarchicalKMeans(9).fit(lazy(X))
    same_model(model, expected)
    assert_array_equal(pickle.loads(pickle.dumps(model)).labels_, expected.labels_)
    assert_allclose(model.transform(X), expected.transform(X), rtol=1e-12)


# Models on disk


@pytest.mark.parametrize("prepare", [np.asarray, lazy])
@pytest.mark.parametrize("init", ["k-means++", "random", "array"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stored_models_come_back(tmp_path, prepare, init, dtype):
    X = noise(dtype=dtype)
    given = {
        "init": X[:12].copy() if init == "array" else init,
        "batch_size": 100,
        "n_init": 3,
        "max_no_improvement": None,
        "random_state": np.int64(4),
        "scaling": True,
        "max_features_per_cluster": 16,
    }
    model = HierarchicalKMeans(12, **given).fit(prepare(X))
    model.to_zarr(tmp_path / "some" / "model.zarr")
    back = HierarchicalKMeans.from_zarr(tmp_path / "some" / "model.zarr")
    same_model(back, model)
    assert type(back.labels_) is type(model.labels_)
    for name, value in model.get_params().items():
        assert_array_equal(back.get_params()[name], value, name)
    new = noise(seed=9, dtype=dtype)
    assert_array_equal(back.predict(new), model.predict(new))
    assert_array_equal(back.transform(X), model.transform(X))
    reduced = model.transform(X)
    assert_array_equal(
        back.inverse_transform(reduced), model.inverse_transform(reduced)
    )
    back.to_zarr(tmp_path / "again")
    same_model(HierarchicalKMeans.from_zarr(tmp_path / "again"), model)
    same_model(back.fit(prepare(X)), model)


def test_stored_models_keep_the_names_of_columns(tmp_path):
    X = pd.DataFrame(noise(15, 40), columns=[f"voxel{i}" for i in range(40)])
    model = HierarchicalKMeans(4, feature_axis=1).fit(X)
    model.to_zarr(tmp_path / "model")
    back = HierarchicalKMeans.from_zarr(str(tmp_path / "model"))
    assert_array_equal(back.feature_names_in_, X.columns)
    assert_array_equal(back.get_feature_names_out(), model.get_feature_names_out())
    with pytest.raises(ValueError, match="feature names should match"):
        back.transform(X.rename(columns={"voxel3": "other"}))
    reduced = back.set_output(transform="pandas").transform(X)
    assert_array_equal(reduced, model.transform(X))


def test_stored_lazy_labels_read_the_model(tmp_path):
    X = noise()
    HierarchicalKMeans(9).fit(lazy(X)).to_zarr(tmp_path / "model")
    back = HierarchicalKMeans.from_zarr(tmp_path / "model")
    assert isinstance(back.labels_, da.Array)
    back.to_zarr(tmp_path / "model", overwrite=True)
    same_model(HierarchicalKMeans.from_zarr(tmp_path / "model"), back)


@pytest.mark.parametrize("random_state", [None, "instance"])
def test_stored_models_know_the_seed_that_was_drawn(tmp_path, random_state):
    X = noise()
    state = np.random.RandomState(5) if random_state == "instance" else None
    model = HierarchicalKMeans(9, random_state=state).fit(X)
    model.to_zarr(tmp_path / "model")
    assert HierarchicalKMeans.from_zarr(tmp_path / "model").random_state is None
    attributes = zarr.open_group(tmp_path / "model", mode="r").attrs
    assert isinstance(attributes["seed"], int)
    assert attributes["input"]["shape"] == [400, 20]
    assert attributes["input"]["dtype"] == "float64"
    assert attributes["status"] == "complete"


def test_models_are_not_overwritten_unless_asked(tmp_path):
    model = HierarchicalKMeans(9).fit(noise())
    model.to_zarr(tmp_path / "model")
    with pytest.raises(FileExistsError, match="overwrite"):
        HierarchicalKMeans(2).fit(noise()).to_zarr(tmp_path / "model")
    same_model(HierarchicalKMeans.from_zarr(tmp_path / "model"), model)
    HierarchicalKMeans(2).fit(noise()).to_zarr(tmp_path / "model", overwrite=True)
    assert HierarchicalKMeans.from_zarr(tmp_path / "model").n_clusters_ == 2
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_init_array_of_more_centers_than_features_is_cut_with_them():
    X = noise()[:20]
    model = HierarchicalKMeans(25, init=np.concatenate([X, X[:5] + 1]))
    with pytest.warns(UserWarning, match="Taking n_clusters = 20 instead"):
        model.fit(X)
    assert model.n_clusters_ == 20


def test_predict_names_the_first_bad_feature_of_all_blocks():
    X = np.ones((5000, 1000))  # three blocks
    X[:2500, 0] = 0
    model = HierarchicalKMeans(2).fit(X)
    X[4999, 3], X[2600, 7] = np.nan, np.inf
    with pytest.raises(ValueError, match="inf: the first is in feature 2600"):
        model.predict(X)
