"""`balance` from end to end: sizes, the rule, and fits of every kind."""

import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.kmeans import hierarchy
from tests.kmeans.test_balance import cheapest, cloud
from tests.resuming import interrupt, same

X = cloud(8000, 6, seed=3)
KINDS = {
    "nested": {},
    "inertia": {"allocation": "inertia"},
    "cosine": {"metric": "cosine"},
    "beyond": {"nested": False},
    "refined": {"refine": 2},
    "refined, cosine": {"refine": 1, "metric": "cosine"},
    "given": {"init": X[:40]},
    "given, refined": {"init": X[:40], "refine": 1},
}
kinds = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())


def labelled(model, points):
    """Label by the definition: both levels, with prices."""
    if model.metric == "cosine":
        points = points / np.linalg.norm(points, axis=1)[:, None]
    big = cheapest(points, model.coarse_centers_, model.coarse_prices_)
    labels = np.empty(len(points), int)
    for number in range(len(model.coarse_centers_)):
        among = np.flatnonzero(model.parents_ == number)
        if model.compared_.size:
            among = model.compared_[min(number, len(model.compared_) - 1)]
        rows = big == number
        what = (model.cluster_centers_[among], model.prices_[among])
        labels[rows] = among[cheapest(points[rows], *what)]
    return labels


@kinds
def test_sizes_are_even_and_labels_follow_one_rule(options, tmp_path):
    plain = HierarchicalKMeans(40, **options).fit(X)
    model = HierarchicalKMeans(40, balance=1.0, **options).fit(X)
    assert model.n_clusters_ == 40
    assert model.imbalance_ < 1.1 < plain.imbalance_
    assert model.sizes_.max() < 2 * 200
    assert model.sizes_.min() > 200 / 10
    assert (labelled(model, X) == model.labels_).mean() > 0.999  # rounding
    assert_array_equal(model.predict(X), model.labels_)
    model.to_zarr(tmp_path / "model")
    loaded = HierarchicalKMeans.from_zarr(tmp_path / "model")
    assert_array_equal(loaded.prices_, model.prices_)
    assert_array_equal(loaded.predict(X), model.labels_)
    assert loaded.balance == 1.0


@kinds
def test_half_of_the_imbalance_goes(options):
    plain = HierarchicalKMeans(40, **options).fit(X)
    model = HierarchicalKMeans(40, balance=0.5, **options).fit(X)
    assert model.imbalance_ - 1 < 0.75 * (plain.imbalance_ - 1)
    assert model.inertia_ < 1.3 * plain.inertia_


def test_free_centers_have_prices_of_0():
    model = HierarchicalKMeans(40).fit(X)
    assert_array_equal(model.prices_, np.zeros(40))
    assert_array_equal(model.coarse_prices_, np.zeros(len(model.coarse_centers_)))


def test_models_without_prices_are_free(tmp_path):
    model = HierarchicalKMeans(40).fit(X)
    model.to_zarr(tmp_path / "model")
    group = zarr.open_group(tmp_path / "model")
    del group["prices"], group["coarse_prices"]
    loaded = HierarchicalKMeans.from_zarr(tmp_path / "model")
    assert_array_equal(loaded.prices_, np.zeros(40))
    assert_array_equal(loaded.predict(X), model.labels_)


def test_weights_are_made_even():
    weights = np.random.default_rng(0).integers(0, 4, len(X)).astype(float)
    model = HierarchicalKMeans(40, balance=1.0).fit(X, feature_weight=weights)
    sums = np.bincount(model.labels_, weights)
    assert sums.max() < 1.5 * sums.mean()


@pytest.mark.parametrize("name", ["nested", "beyond", "refined"])
def test_files_and_memory_give_the_same(name, tmp_path, monkeypatch):
    monkeypatch.setattr(hierarchy, "COMPARED", 16)
    monkeypatch.setattr(hierarchy, "BIGS_COMPARED", 1)
    lazy = da.from_array(X, (1000, -1))
    options = {"balance": 0.8, **KINDS[name]}
    expected = HierarchicalKMeans(40, **options).fit(lazy)
    model = HierarchicalKMeans(40, **options, work_dir=tmp_path)
    same(model.fit(lazy), expected)
    assert_array_equal(model.prices_, expected.prices_)
    assert_array_equal(model.predict(X), model.labels_)


@pytest.mark.parametrize("stage", ["train_fine", "refine", "label_features"])
def test_a_fit_that_was_interrupted_goes_on(stage, tmp_path, monkeypatch):
    options = {"balance": 0.8, "refine": 2}
    expected = HierarchicalKMeans(40, **options).fit(X)
    model = HierarchicalKMeans(40, **options, work_dir=tmp_path)
    interrupt(monkeypatch, stage, model, X)
    same(model.fit(X), expected)


def test_another_balance_is_another_fit(tmp_path):
    for amount in (0.0, 0.5, 0.5):
        HierarchicalKMeans(40, balance=amount, work_dir=tmp_path).fit(X)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("amount", [-0.1, 1.5, np.nan, True, "1", None])
def test_other_values_are_refused(amount):
    with pytest.raises(ValueError, match=r"balance should be .* was given"):
        HierarchicalKMeans(40, balance=amount).fit(X)


@pytest.mark.parametrize("name", ["nested", "beyond", "refined, cosine"])
def test_features_left_out_pay_nothing(name):
    holes = np.insert(X, [0, 3000, 8000], np.nan, axis=0)
    zeros = np.insert(holes, [1, 5000], 0, axis=0)
    given = zeros if "cosine" in name else holes
    options = {"balance": 1.0, "missing": "exclude", **KINDS[name]}
    model = HierarchicalKMeans(40, **options).fit(given)
    good = np.isfinite(given).all(axis=1) & given.any(axis=1)
    assert_array_equal(model.labels_ >= 0, good)
    assert model.n_excluded_ == len(given) - len(X)
    assert model.imbalance_ < 1.1
    assert (labelled(model, X) == model.labels_[good]).mean() > 0.999  # rounding
    assert_array_equal(model.predict(given), model.labels_)


def test_more_passes_do_no_harm():
    fits = [HierarchicalKMeans(40, balance=0.5, refine=n).fit(X) for n in (1, 4)]
    assert fits[1].inertia_ < 1.01 * fits[0].inertia_
    assert abs(fits[1].imbalance_ - fits[0].imbalance_) < 0.1


@pytest.mark.parametrize("balance", [0.25, 1.0])
@pytest.mark.parametrize("kind", ["nested", "beyond", "refined"])
def test_equal_features_keep_a_cluster_and_take_no_others_along(kind, balance):
    """The background of a volume, whose voxels no price parts."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(9000, 5))
    points[rng.random(9000) < 0.3] = 0
    plain = HierarchicalKMeans(120, **KINDS[kind]).fit(points)
    model = HierarchicalKMeans(120, balance=balance, **KINDS[kind]).fit(points)
    assert model.n_clusters_ == plain.n_clusters_ == 120
    assert model.inertia_ < 1.25 * plain.inertia_
    rest = np.sort(model.sizes_)[:-1]
    assert len(rest) * (rest**2).sum() / rest.sum() ** 2 < (
        1.1 if balance == 1 else 1.5
    )


def test_prices_reach_far_where_tails_are_heavy():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(16_000, 8)) * rng.gamma(1, 1, size=(16_000, 1))
    model = HierarchicalKMeans(200, nested=False, balance=1.0).fit(points)
    assert model.n_clusters_ == 200
    assert model.imbalance_ < 1.15


def test_sizes_that_are_even_already_stay_so():
    points = np.random.default_rng(0).normal(size=(63, 3))
    model = HierarchicalKMeans(21, nested=False, balance=1.0).fit(points)
    assert model.sizes_.max() <= 4
