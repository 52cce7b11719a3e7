"""Passes over the training rows, in which features look beyond their big cluster."""

import dask
import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hkmeans_dask import HierarchicalKMeans, fitting
from hkmeans_dask.kmeans import sampling
from hkmeans_dask.stages import refine as stage
from hkmeans_dask.workspace import rows as stored
from tests.stages.test_refine import NOISE, Interrupted, after, lazy, lloyd, same
from tests.strategies import nearest

MORE = np.random.default_rng(1).normal(size=(3000, 5))


def inertia(X, centers):
    return ((X - centers[nearest(X, centers)]) ** 2).sum()


def steps_wanted(X, centers):
    """Count steps of Lloyd's until the series of their gains has little left."""
    gains = []
    while True:
        moved = lloyd(X, centers, 1)
        labels = nearest(X, centers)
        before = ((X - centers[labels]) ** 2).sum()
        gains.append(before - ((X - moved[labels]) ** 2).sum())
        centers = moved
        if len(gains) > 1:
            ratio = min(gains[-1] / gains[-2], 0.9)
            if gains[-1] * ratio / (1 - ratio) <= 1e-3 * before:
                return len(gains)


def test_centers_are_those_of_lloyds_algorithm_on_the_training_rows(monkeypatch):
    monkeypatch.setattr(stage, "ROWS_TOLERANCE", 1e-3)
    nested = HierarchicalKMeans(30, random_state=1).fit(MORE)
    n_steps = steps_wanted(MORE, nested.cluster_centers_)
    expected = lloyd(MORE, nested.cluster_centers_, n_steps)
    model = HierarchicalKMeans(30, random_state=1, nested=False).fit(MORE)
    found = model.cluster_centers_[nearest(expected, model.cluster_centers_)]
    assert n_steps > 2
    assert_allclose(found, expected, atol=1e-12)
    assert model.inertia_ == pytest.approx(inertia(MORE, expected))
    assert model.inertia_ < 0.97 * nested.inertia_


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("refine", [0, 1])
def test_features_get_the_nearest_of_all_centers(metric, refine, tmp_path):
    options = {"nested": False, "metric": metric, "refine": refine}
    model = HierarchicalKMeans(30, **options).fit(MORE)
    X = MORE
    if metric == "cosine":
        X = MORE / np.linalg.norm(MORE, axis=1)[:, None]
    assert_array_equal(model.labels_, nearest(X, model.cluster_centers_))
    assert_array_equal(model.predict(MORE), model.labels_)
    assert model.compared_.shape == (1, 30)
    assert_array_equal(
        model.parents_, nearest(model.cluster_centers_, model.coarse_centers_)
    )
    model.to_zarr(tmp_path / "model")
    loaded = HierarchicalKMeans.from_zarr(tmp_path / "model")
    assert_array_equal(loaded.predict(MORE), model.labels_)
    assert loaded.nested is False


@pytest.mark.parametrize("refine", [0, 2])
def test_rows_are_not_read_again(refine):
    array, X = lazy(NOISE)
    model = HierarchicalKMeans(20, nested=False, refine=refine).fit(X)
    assert array.reads == 6 * model.n_passes_ == 6 * (2 + refine)


def test_a_part_of_the_features_is_moved_over(monkeypatch):
    rows = []
    kept = stage._sum_rows

    def seen(part, *args):
        rows.append(len(part.load().order))
        return kept(part, *args)

    monkeypatch.setattr(stage, "_sum_rows", seen)
    HierarchicalKMeans(20, nested=False, max_features_per_cluster=10).fit(MORE)
    assert set(rows) == {200}


def test_passes_over_x_go_on_from_those_over_rows():
    options = {"nested": False, "max_features_per_cluster": 20}
    before = HierarchicalKMeans(30, **options).fit(MORE)
    after_one = HierarchicalKMeans(30, refine=1, **options).fit(MORE)
    expected = lloyd(MORE, before.cluster_centers_, 1)
    found = after_one.cluster_centers_
    assert_allclose(found[nearest(expected, found)], expected, atol=1e-12)


def test_weights_count_as_often():
    weights = np.random.default_rng(2).integers(1, 4, size=len(NOISE)).astype(float)
    options = {"n_clusters": 20, "nested": False, "max_features_per_cluster": None}
    weighted = HierarchicalKMeans(**options).fit(NOISE, feature_weight=weights)
    labels = weighted.labels_
    nested = HierarchicalKMeans(20, max_features_per_cluster=None)
    assert weighted.inertia_ < nested.fit(NOISE, feature_weight=weights).inertia_
    own = weights * ((NOISE - weighted.cluster_centers_[labels]) ** 2).sum(axis=1)
    assert weighted.inertia_ == pytest.approx(own.sum())
    means = [
        np.average(NOISE[labels == i], axis=0, weights=weights[labels == i])
        for i in range(20)
    ]
    gain = inertia(NOISE, weighted.cluster_centers_) - inertia(NOISE, np.array(means))
    assert abs(gain) < 0.01 * weighted.inertia_, "near a fixed point of weighted means"


@pytest.fixture
def many_parts(monkeypatch):
    """Training rows in several parts, and each in several pieces."""
    monkeypatch.setattr(sampling, "ONE_PART_BYTES", 1)
    monkeypatch.setattr(sampling, "PART_BYTES", 4000)
    monkeypatch.setattr(stored, "PIECE_BYTES", 1000)
    monkeypatch.setattr(stage, "ROWS_TOGETHER", 1500)


@pytest.mark.usefixtures("many_parts")
def test_parts_give_the_same_bits_in_memory_and_in_files(tmp_path):
    options = {"n_clusters": 30, "nested": False, "max_features_per_cluster": 10}
    with dask.config.set(scheduler="synchronous"):
        expected = HierarchicalKMeans(**options).fit(lazy(NOISE, 30)[1])
    same(HierarchicalKMeans(**options).fit(NOISE), expected)
    durable = HierarchicalKMeans(**options, work_dir=tmp_path)
    same(durable.fit(lazy(NOISE, 30)[1]), expected)


def test_a_cluster_gives_the_same_bits(two_processes, tmp_path):
    options = {"n_clusters": 30, "nested": False, "refine": 1}
    with dask.config.set(scheduler="threads", num_workers=3):
        expected = HierarchicalKMeans(**options).fit(lazy(NOISE, 30)[1])
    X = da.from_array(NOISE, (30, -1))
    same(HierarchicalKMeans(**options).fit(X), expected)
    same(HierarchicalKMeans(**options, work_dir=tmp_path).fit(X), expected)


@pytest.mark.usefixtures("content_is_known")
@pytest.mark.parametrize(
    ("module", "name", "n_calls"),
    [
        (stage, "_merged", 0),
        (stage, "_merged", 1),
        (fitting, "label_features", 0),
    ],
)
def test_an_interrupted_fit_goes_on(tmp_path, monkeypatch, module, name, n_calls):
    expected = HierarchicalKMeans(20, nested=False).fit(lazy(NOISE)[1])
    array, X = lazy(NOISE)
    model = HierarchicalKMeans(20, nested=False, work_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, after(n_calls, getattr(module, name)))
        with pytest.raises(Interrupted):
            model.fit(X)
    array.reads = 0
    same(model.fit(X), expected)
    assert array.reads == 6, "only to label"


def test_nested_is_a_truth_value():
    with pytest.raises(ValueError, match=r"nested should be True or False. 'no' was"):
        HierarchicalKMeans(3, nested="no").fit(NOISE)
