"""Data that grow: new features get labels, and centers move to old and new ones."""

import dask.array as da
import numpy as np
import pytest
import zarr

from hkmeans_dask import HierarchicalKMeans

K = 20
RNG = np.random.default_rng(0)
OLD = RNG.normal(size=(3000, 6)).astype("f4")
NEW = RNG.normal([2, 0, 0, 0, 0, 0], size=(2000, 6)).astype("f4")
BOTH = np.concatenate([OLD, NEW])


@pytest.fixture(scope="module")
def old():
    return HierarchicalKMeans(K, verbose=0).fit(OLD)


def distances(X, centers):
    """Give the sum of squared distances to the nearest centers, and which these are."""
    squares = ((X[:, None].astype("f8") - centers) ** 2).sum(axis=2)
    return squares.min(axis=1), squares.argmin(axis=1)


def grown(model, X, **options):
    """Do what the README says."""
    moved = HierarchicalKMeans(
        model.n_clusters_, init=model.cluster_centers_, refine=1, **options
    )
    return moved.fit(X)


def test_new_features_get_labels_and_old_ones_keep_theirs(old):
    labels = np.concatenate([old.labels_, old.predict(NEW)])
    assert np.array_equal(labels, old.predict(BOTH))


@pytest.mark.parametrize("wrap", [np.asarray, lambda X: da.from_array(X, (700, -1))])
def test_centers_move_to_what_has_drifted(old, wrap):
    model = grown(old, wrap(BOTH))
    before, _ = distances(BOTH, old.cluster_centers_)
    assert model.n_clusters_ == K
    assert model.n_passes_ == 3
    assert model.inertia_ < 0.97 * before.sum()
    _, nearest = distances(BOTH, model.cluster_centers_)
    assert np.mean(nearest == np.asarray(model.labels_)) > 0.999
    assert np.array_equal(model.predict(NEW), np.asarray(model.labels_)[len(OLD) :])


def test_the_old_model_tells_which_cluster_one_was(old):
    """So that tables by cluster go on, whose numbers are others."""
    model = grown(old, OLD)
    was = old.predict(model.cluster_centers_)
    assert sorted(was) == list(range(K))
    assert np.mean(was[model.labels_] == old.labels_) > 0.7


def test_weights_count(old):
    model = grown(old, OLD)
    heavy = np.where(OLD[:, 0] > 0, 50.0, 1.0)
    before, _ = distances(OLD, old.cluster_centers_)
    weighted = HierarchicalKMeans(K, init=old.cluster_centers_, refine=1)
    weighted.fit(OLD, feature_weight=heavy)
    assert weighted.inertia_ < heavy @ before
    assert weighted.inertia_ < heavy @ distances(OLD, model.cluster_centers_)[0]


@pytest.mark.parametrize("options", [{"metric": "cosine"}, {"missing": "exclude"}])
def test_other_kinds_of_models_grow(options):
    values = BOTH.copy()
    if "missing" in options:
        values[::50, 3] = np.nan
    before = HierarchicalKMeans(K, **options).fit(values[: len(OLD)])
    after = grown(before, da.from_array(values, (700, -1)), **options)
    assert np.array_equal(after.predict(values), np.asarray(after.labels_))
    assert after.n_excluded_ == np.isnan(values).any(axis=1).sum()


def test_of_fewer_clusters_there_are_as_many_centers():
    """A fit may find fewer than asked: it is `n_clusters_` that goes on."""
    few = np.repeat(OLD[:7], 30, axis=0)
    with pytest.warns(match="distinct clusters"):
        model = HierarchicalKMeans(K).fit(few)
    assert grown(model, np.concatenate([few, OLD[:5] + 9])).n_clusters_ == 7
    with pytest.raises(ValueError, match=r"init has shape \(7, 6\)"):
        HierarchicalKMeans(K, init=model.cluster_centers_).fit(few)


def test_the_command_does_the_same(old, tmp_path, monkeypatch):
    from hkmeans_dask.cli.commands import main

    monkeypatch.chdir(tmp_path)
    old.to_zarr("model")
    zarr.create_array("both", data=BOTH, chunks=(700, 6))
    given = f"fit both grown -k {K} --init model/cluster_centers --refine 1 --quiet"
    assert main(given.split()) == 0
    found = HierarchicalKMeans.from_zarr("grown")
    expected = grown(old, da.from_array(BOTH, (700, 6)))
    assert np.array_equal(*map(np.asarray, (found.labels_, expected.labels_)))
