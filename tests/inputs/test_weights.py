"""Weights of features: what they do is what repeating the features would do."""

import dask
import dask.array as da
import numpy as np
import pytest
import sklearn
import xarray as xr
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hkmeans_dask import HierarchicalKMeans, fitting
from hkmeans_dask.cli.commands import main
from hkmeans_dask.kmeans import allocation, minibatch, sampling, seeding
from hkmeans_dask.kmeans.minibatch import State
from hkmeans_dask.kmeans.sampling import kept, key_limit, part_bounds
from hkmeans_dask.planning import memory
from hkmeans_dask.workspace import rows
from tests.strategies import FLOATS, nothing_computed, unread

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1500, 8))
WEIGHTS = RNG.integers(0, 4, size=len(X))
REPEATED = np.repeat(X, WEIGHTS, axis=0)
FIELDS = ("labels_", "cluster_centers_", "coarse_centers_", "sizes_", "inertia_")

metrics = pytest.mark.parametrize("metric", ["euclidean", "cosine"])


def lazy(values=X, height=400):
    return da.from_array(values, (height, -1))


def same(one, other, fields=FIELDS):
    for name in fields:
        found, expected = (np.asarray(getattr(m, name)) for m in (one, other))
        assert_array_equal(found, expected, name)


def in_order(centers):
    return centers[np.lexsort(centers.T)]


# Against repetition


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_an_update_is_that_of_repeated_points(dtype, unit):
    points = (X / np.linalg.norm(X, axis=1)[:, None] if unit else X).astype(dtype)
    weights = WEIGHTS[WEIGHTS > 0].astype(dtype)
    points, repeated = points[WEIGHTS > 0], np.repeat(points, WEIGHTS, axis=0)
    one = other = State.start(points[:20])
    for _ in range(6):  # sums of later ones add what has moved
        one = minibatch.update(one, points, unit, weights)
        other = minibatch.update(other, repeated, unit)
        assert_allclose(one.centers, other.centers, atol=1e-6)
        assert_allclose(one.counts, other.counts)
        assert one.explained == pytest.approx(other.explained, rel=1e-6)


@metrics
def test_a_pass_over_X_is_that_over_repeated_features(metric):
    options = {"init": X[:30] * 1.1, "refine": 1, "metric": metric}
    one = HierarchicalKMeans(30, **options).fit(lazy(), feature_weight=WEIGHTS)
    other = HierarchicalKMeans(30, **options).fit(lazy(REPEATED))
    centers = [in_order(m.cluster_centers_) for m in (one, other)]
    assert_allclose(*centers, atol=1e-6)
    assert one.inertia_ == pytest.approx(other.inertia_)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init": "random"},
        {"init": X[:25]},
        {"allocation": "inertia"},
        {"metric": "cosine"},
        {"refine": 2},
    ],
    ids=["default", "random", "array", "inertia", "cosine", "refine"],
)
def test_fits_agree_with_those_of_repeated_features(options):
    shuffled = np.random.default_rng(5).permutation(np.arange(len(X)) % 7)
    weights = WEIGHTS + shuffled * (X[:, 0] > 0)  # a half of the space counts much more
    seeds = range(8)
    ratios = [
        HierarchicalKMeans(25, random_state=seed, **options)
        .fit(X, feature_weight=weights)
        .inertia_
        / HierarchicalKMeans(25, random_state=seed, **options)
        .fit(np.repeat(X, weights, axis=0))
        .inertia_
        for seed in seeds
    ]
    assert np.mean(ratios) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("n_clusters", [3, 40], ids=["some", "all pairs"])
@pytest.mark.parametrize("method", [seeding.seed_kmeans_plusplus, seeding.seed_random])
def test_seeds_are_drawn_by_weight(method, n_clusters):
    points = X[:400].copy()
    heavy = np.arange(400) < 200
    weights = np.where(heavy, 1.0, 1e-9)
    centers = method(points, n_clusters, 10, np.random.default_rng(0), weights)
    assert np.isin(centers[:, 0], points[heavy, 0]).all()


# Weight 0


@pytest.mark.parametrize("refine", [0, 2])
@pytest.mark.parametrize("n_kept", [None, 20])
def test_features_of_weight_0_are_labelled_and_move_nothing(refine, n_kept):
    far = RNG.normal(size=(700, 8)) * 100
    both, weights = np.vstack([X, far]), np.r_[WEIGHTS + 0.5, np.zeros(len(far))]
    model = HierarchicalKMeans(20, refine=refine, max_features_per_cluster=n_kept)
    one = sklearn.clone(model).fit(lazy(both), feature_weight=weights)
    other = model.fit(lazy(X), feature_weight=weights[: len(X)])
    if refine:  # blocks end elsewhere: other sums
        assert_allclose(one.cluster_centers_, other.cluster_centers_, atol=1e-12)
    else:
        same(one, other, ["cluster_centers_", "coarse_centers_"])
    assert_array_equal(one.labels_[: len(X)], other.labels_)
    assert_array_equal(one.labels_, one.predict(both))
    assert one.inertia_ == pytest.approx(other.inertia_)
    assert one.sizes_.sum() == len(both)


def test_a_cluster_of_weight_0_features_only_moves_to_one_that_counts():
    values = np.repeat([[0.0], [10.0], [20.0], [90.0]], 5, axis=0)
    init = np.array([[1.0], [60.0], [14.0]])
    weights = np.repeat([1.0, 1.0, 1.0, 0.0], 5)
    for refine, centers in ((1, [0, 15, 20]), (2, [0, 10, 20])):
        model = HierarchicalKMeans(3, init=init, refine=refine)
        model.fit(values, feature_weight=weights)
        assert sorted(model.cluster_centers_[:, 0]) == centers
    assert sorted(model.sizes_) == [5, 5, 10]
    assert model.inertia_ == 0


def test_n_clusters_is_compared_with_the_features_that_count():
    weights = np.r_[np.ones(4), np.zeros(6)]
    with pytest.warns(UserWarning, match="of a weight above 0. Taking n_clusters = 4"):
        model = HierarchicalKMeans(7).fit(X[:10], feature_weight=weights)
    assert model.n_clusters_ == 4
    repeated = np.vstack([X[:2], X[:2], X[2:8]])
    with pytest.warns(UserWarning, match="distinct clusters"):
        model = HierarchicalKMeans(3).fit(repeated, feature_weight=weights)
    assert model.n_clusters_ == 2


def test_those_of_weight_0_take_no_place_among_training_rows():
    weights = np.r_[np.zeros(5000), np.ones(3000), np.zeros(2000)]
    limit = key_limit(3, 10_000, 500, weights)
    found, keys = kept(3, limit, 0, 10_000, weights)
    assert len(found) == len(keys) == 500
    assert weights[found].all()
    parts = [
        kept(3, limit, a, a + 1000, weights[a : a + 1000])
        for a in range(0, 10_000, 1000)
    ]
    assert_array_equal(np.concatenate([part for part, _ in parts]), found)
    bounds = part_bounds(10_000, 96 * 2**20, weights)
    assert [int(weights[a:b].sum()) for a, b in bounds] == [750, 750, 750, 750]
    assert (bounds[0][0], bounds[-1][1]) == (0, 10_000)


# Other weights


def test_ones_are_as_no_weights_and_a_scale_only_scales_the_inertia():
    model = HierarchicalKMeans(20, max_features_per_cluster=30, refine=1)
    same(
        sklearn.clone(model).fit(X, feature_weight=np.ones(len(X), bool)),
        sklearn.clone(model).fit(X),
    )
    one = sklearn.clone(model).fit(X, feature_weight=WEIGHTS)
    for exponent in (-1060, 3, 1000):
        scaled = WEIGHTS * 2.0**exponent
        other = sklearn.clone(model).fit(X, feature_weight=scaled)
        same(one, other, FIELDS[:-1])
        assert other.inertia_ == pytest.approx(one.inertia_ * 2.0**exponent)


@pytest.mark.parametrize("dtype", FLOATS)
def test_tiny_and_uneven_weights_train(dtype):
    weights = 10.0 ** -RNG.integers(0, 300, size=len(X))
    model = HierarchicalKMeans(20, refine=1).fit(
        X.astype(dtype), feature_weight=weights
    )
    assert np.isfinite(model.cluster_centers_).all()
    assert model.n_clusters_ == 20


@pytest.mark.parametrize("kind", ["list", "dask", "zarr", "xarray", "column"])
def test_weights_of_any_kind(kind):
    given = {
        "list": WEIGHTS.tolist,
        "dask": lambda: da.from_array(WEIGHTS, 100),
        "zarr": lambda: zarr.array(WEIGHTS, chunks=100),
        "xarray": lambda: xr.DataArray(da.from_array(WEIGHTS, 100), dims="voxel"),
        "column": lambda: np.asfortranarray([WEIGHTS, WEIGHTS])[0],
    }[kind]()
    expected = HierarchicalKMeans(9).fit(X, feature_weight=WEIGHTS)
    same(HierarchicalKMeans(9).fit(X, feature_weight=given), expected)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (np.ones(7), r"feature_weight.shape == \(7,\), expected \(9,\)!"),
        (np.ones((9, 1)), "must be 1D array, got 2D array.* of length 9"),
        (2.0, "must be 1D array, got 0D array"),
        ([1, 2, -3, 4, 5, 6, 7, 8, 9], "Negative values.*: -3.0 .* of feature 2"),
        ([1, np.nan] * 4 + [1], "contains NaN: nan is the weight of feature 1"),
        ([np.inf] * 9, "contains inf: inf is the weight of feature 0"),
        ([0] * 9, "at least one non-zero number: all 9 are 0"),
        (list("123456789"), "should be numbers: its dtype is <U1"),
        ([1j] * 9, "should be numbers: its dtype is complex128"),
        ([{}] * 9, "should be numbers: float"),
        (unread((8,)), r"feature_weight.shape == \(8,\)"),
    ],
)
def test_wrong_weights_are_refused_before_X_is_read(weights, said):
    blocks = unread((9, 4))
    with nothing_computed(), pytest.raises(ValueError, match=said):
        HierarchicalKMeans(2).fit(blocks, feature_weight=weights)


# Where it runs


@pytest.mark.parametrize("options", [{}, {"refine": 1, "metric": "cosine"}], ids=str)
def test_the_same_bits_on_every_scheduler_and_on_disk(
    options, two_processes, tmp_path, monkeypatch
):
    monkeypatch.setattr(sampling, "ONE_PART_BYTES", 2**14)
    monkeypatch.setattr(sampling, "PART_BYTES", 2**14)
    model = HierarchicalKMeans(20, max_features_per_cluster=50, **options)
    models = []
    for scheduler in ("threads", "synchronous", two_processes):
        with dask.config.set(scheduler=scheduler):
            models.append(sklearn.clone(model).fit(lazy(), feature_weight=WEIGHTS))
    on_disk = sklearn.clone(model).set_params(work_dir=tmp_path)
    models.append(on_disk.fit(lazy(), feature_weight=WEIGHTS))
    for other in models[1:]:
        same(models[0], other)
    assert models[0].inertia_ != model.fit(lazy()).inertia_


def test_an_interrupted_fit_goes_on_with_the_same_weights_only(tmp_path, monkeypatch):
    blocks = lazy()
    expected = HierarchicalKMeans(20).fit(blocks, feature_weight=WEIGHTS)
    model = HierarchicalKMeans(20, work_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "train_fine", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.fit(blocks, feature_weight=WEIGHTS)
    with monkeypatch.context() as patch:
        patch.setattr("hkmeans_dask.stages.sample.keep", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.fit(blocks, feature_weight=WEIGHTS + 1)
        same(model.fit(blocks, feature_weight=WEIGHTS), expected)
    assert len(list(tmp_path.iterdir())) == 2


def test_weights_are_split_off_where_the_rows_were(monkeypatch):
    monkeypatch.setattr(rows, "MOVED_ROWS", 7)
    joined = rows.join_weights(X.astype("f4"), WEIGHTS * 1e-50)
    points, weights = rows.split_weights(joined)
    assert np.shares_memory(points, joined)
    assert points.flags.c_contiguous
    assert_array_equal(points, X.astype("f4"))
    assert (weights > 0).all()


def test_memory_counts_the_weights():
    sizes = {
        **{"n_features": 10**6, "n_samples": 20, "n_clusters": 1000, "n_big": 31},
        **{"n_rows": 256_000, "itemsize": 4, "block_rows": 10**5, "cast": 0},
        **{"block_bytes": 8 * 10**6, "read_bytes": 8 * 10**6, "copied": True},
    }
    without = memory.project(memory.Sizes(**sizes), on_disk=False)
    weighted = memory.Sizes(**sizes, n_trainable=500_000)
    found = memory.project(weighted, on_disk=False)
    assert found.held == without.held * 21 // 20
    assert all(found.tasks[name] > without.tasks[name] for name in found.tasks)


def test_shares_follow_sums_of_weights():
    assert allocation.integer_weights(np.array([3.0, 1.5, 0.0])).tolist() == [
        2**30,
        2**29,
        1,
    ]
    low = np.r_[np.linspace(0, 1, 500), np.linspace(100, 101, 500)][:, None]
    weights = np.r_[np.full(500, 9.0), np.ones(500)]
    model = HierarchicalKMeans(20).fit(low, feature_weight=weights)
    near = (model.cluster_centers_[:, 0] < 50).sum()
    assert near == 18


# The rest of the interface


@pytest.mark.parametrize("level", ["fine", "coarse"])
def test_means_are_weighted_if_that_is_asked_for(level):
    model = HierarchicalKMeans(20, scaling=True).fit(X, feature_weight=WEIGHTS)
    labels, sizes = model.labels_, model.sizes_
    if level == "coarse":
        labels, sizes = model.parents_[labels], model.coarse_sizes_
    for weights in (None, WEIGHTS):
        found = model.transform(lazy(), level=level, feature_weight=weights)
        expected = [
            np.average(
                X[labels == i], 0, None if weights is None else WEIGHTS[labels == i]
            )
            for i in range(len(sizes))
        ]
        assert isinstance(found, da.Array)
        assert_allclose(found, expected * np.sqrt(sizes)[:, None])
    alone = np.where(labels == 0, 0.0, 1.0)
    assert not model.transform(X, level=level, feature_weight=alone)[0].any()


def test_weights_pass_through_what_scikit_learn_adds():
    expected = HierarchicalKMeans(9).fit(X, feature_weight=WEIGHTS)
    labels = HierarchicalKMeans(9).fit_predict(X, feature_weight=WEIGHTS)
    assert_array_equal(labels, expected.labels_)
    means = HierarchicalKMeans(9).fit_transform(X, feature_weight=WEIGHTS)
    assert_array_equal(means, expected.transform(X))
    model = HierarchicalKMeans(9, feature_axis=1)
    pipe = make_pipeline(StandardScaler(with_std=False, with_mean=False), model)
    pipe.fit(X.T, hierarchicalkmeans__feature_weight=WEIGHTS)
    same(pipe[-1], expected)
    with sklearn.config_context(enable_metadata_routing=True):
        model = HierarchicalKMeans(9, feature_axis=1)
        model.set_fit_request(feature_weight=True)
        scaler = StandardScaler(with_std=False, with_mean=False)
        routed = make_pipeline(scaler, model).fit(X.T, feature_weight=WEIGHTS)
    same(routed[-1], expected)


def test_the_command_line_takes_weights(tmp_path, capsys):
    names = {name: str(tmp_path / name) for name in ("x", "w", "short", "model")}
    zarr.create_array(names["x"], data=X, chunks=(400, 8))
    zarr.create_array(names["w"], data=WEIGHTS)
    zarr.create_array(names["short"], data=WEIGHTS[:-1])
    fit = ["fit", names["x"], names["model"], "-k", "9", "--feature-weight"]
    assert main([*fit, names["short"]]) == 2
    assert "feature_weight.shape == (1499,)" in capsys.readouterr().err
    assert main([*fit, names["w"]]) == 0
    expected = HierarchicalKMeans(9).fit(X, feature_weight=WEIGHTS)
    same(HierarchicalKMeans.from_zarr(names["model"]), expected)
    over = ["fit", names["x"], names["w"], "-k", "9", "--overwrite", "--feature-weight"]
    assert main([*over, names["w"]]) == 2
    assert "which the command reads" in capsys.readouterr().err


def test_a_cluster_gets_many_weights_without_a_warning(two_processes):
    values = da.random.default_rng(0).normal(size=(1_500_000, 1), chunks=500_000)
    weights = np.ones(len(values))
    weights[0] = 2
    model = HierarchicalKMeans(2, max_features_per_cluster=100)
    assert model.fit(values, feature_weight=weights).n_clusters_ == 2


def test_more_given_centers_than_features_that_count():
    """The others would find features of weight 0: no more are kept than said."""
    weights = np.zeros(len(X))
    weights[:5] = 1
    model = HierarchicalKMeans(20, init=X[:20], refine=1)
    with pytest.warns(UserWarning, match="Taking n_clusters = 5"):
        model.fit(X, feature_weight=weights)
    assert model.n_clusters_ <= 5
