"""Passes over the training rows, in which features look beyond their big cluster."""

from typing import NamedTuple

import dask
import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hkmeans_dask import HierarchicalKMeans, fitting
from hkmeans_dask.kmeans import beyond, minibatch, sampling
from hkmeans_dask.stages import beyond as stage
from hkmeans_dask.stages import coarse, fine
from hkmeans_dask.workspace import rows as stored
from tests.stages.test_refine import NOISE, Interrupted, after, lazy, lloyd, same
from tests.strategies import nearest

MORE = np.random.default_rng(1).normal(size=(3000, 5))


def inertia(X, centers):
    return ((X - centers[nearest(X, centers)]) ** 2).sum()


def relaxed(X, centers):
    """Move centers further than to their means, until little is left to gain."""
    means, ahead, lowest, last = centers, centers, np.inf, np.inf
    for n_passes in range(1, 21):
        moved = lloyd(X, ahead, 1)
        left = ((X - moved[nearest(X, ahead)]) ** 2).sum()
        if left >= lowest:
            return means, n_passes
        means, ahead, gain = moved, moved + 0.8 * (moved - means), lowest - left
        lowest, ratio = left, np.clip(gain / last if last < np.inf else 0, 0.5, 0.9)
        if gain * ratio / (1 - ratio) <= 1e-3 * left:
            break
        last = gain
    return means, n_passes


@pytest.fixture
def plain(monkeypatch):
    """Make passes over all training rows in all dimensions."""
    monkeypatch.setattr(stage, "SMALLEST_SHARE", 1)
    monkeypatch.setattr(beyond, "EXCESS", -1)


@pytest.mark.usefixtures("plain")
def test_centers_are_those_of_lloyds_algorithm_on_the_training_rows(monkeypatch):
    monkeypatch.setattr(stage, "TOLERANCE", 1e-3)
    for begun in (coarse, fine):  # with one patience, whatever follows
        monkeypatch.setattr(begun, "TOLERANCE", minibatch.TOLERANCE)
    nested = HierarchicalKMeans(30, random_state=1).fit(MORE)
    expected, n_passes = relaxed(MORE, nested.cluster_centers_)
    model = HierarchicalKMeans(30, random_state=1, nested=False).fit(MORE)
    found = model.cluster_centers_[nearest(expected, model.cluster_centers_)]
    assert n_passes > 3
    assert_allclose(found, expected, atol=1e-12)
    assert model.inertia_ == pytest.approx(inertia(MORE, expected))
    assert model.inertia_ < 0.97 * nested.inertia_


@pytest.mark.parametrize(
    ("n_rows", "n_clusters", "shares"),
    [
        (63, 1, [1, 1, 1]),
        (64, 1, [1 / 2, 1, 1]),
        (6400, 50, [1 / 4, 1 / 2, 1]),
        (10**9, 50, [1 / 4, 1 / 2, 1]),
        (100, 50, [1, 1, 1]),
    ],
)
def test_shares_of_the_rows_double(n_rows, n_clusters, shares):
    found = list(stage._shares(n_rows, n_clusters))
    assert found[:3] == shares
    assert len(found) == 20


def test_a_share_is_that_of_lowest_keys():
    keys = np.array([7, 1, 9, 3, 5], np.uint64)
    assert stage._of_lowest_keys(keys, 0.5).tolist() == [1, 3, 4]
    assert stage._of_lowest_keys(keys, 1.0).tolist() == [0, 1, 2, 3, 4]


def in_a_plane(n_dims, noise=0.3):
    """Many clusters in a plane, noise in all dimensions."""
    rng = np.random.default_rng(3)
    X = rng.normal(scale=noise, size=(4000, n_dims))
    X[:, :2] += rng.uniform(-9, 9, size=(4000, 2))
    return X


class Seen(NamedTuple):
    """How a part of the rows was compared."""

    n_axes: int
    """0: in all dimensions."""

    held: bool
    """Whether coordinates were."""


@pytest.fixture
def compared(monkeypatch):
    """How rows were compared, part after part."""
    compared, kept = [], stage._sum_rows

    def sum_rows(part, along, state, *how):
        axes = state["axes"]
        compared.append(Seen(axes.shape[1] if axes.size else 0, along is not None))
        return kept(part, along, state, *how)

    monkeypatch.setattr(stage, "_sum_rows", sum_rows)
    return compared


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_compared_along_few_axes_where_these_do(monkeypatch, compared, dtype):
    X = in_a_plane(64).astype(dtype)
    model = HierarchicalKMeans(40, nested=False).fit(X)
    assert set(compared) == {Seen(8, held=True)}
    monkeypatch.setattr(beyond, "EXCESS", -1)  # none are good enough
    compared.clear()
    everywhere = HierarchicalKMeans(40, nested=False).fit(X)
    assert set(compared) == {Seen(0, held=False)}
    assert model.inertia_ == pytest.approx(everywhere.inertia_, rel=0.01)
    assert_array_equal(model.predict(X), model.labels_)


def test_rows_without_few_axes_are_compared_in_all_dimensions(compared):
    X = np.random.default_rng(0).normal(size=(4000, 64))
    HierarchicalKMeans(120, nested=False).fit(X)
    assert set(compared) == {Seen(0, held=False)}


def test_small_values_beside_a_far_offset_are_compared_in_all_dimensions(compared):
    X = in_a_plane(64)
    X[::3] = -1e9
    HierarchicalKMeans(40, nested=False).fit(X)
    assert set(compared) == {Seen(0, held=False)}, "coordinates would lose digits"


@pytest.mark.parametrize("weighted", [False, True])
def test_coordinates_held_or_not_give_the_same_bits(
    weighted, tmp_path, monkeypatch, compared
):
    rng = np.random.default_rng(0)
    X = np.tile(in_a_plane(64), (2, 1)) + 0.1 * rng.normal(size=(8000, 64))
    X = X.astype(np.float32)
    weights = rng.uniform(0.5, 2, 8000) if weighted else None
    for name in ("ONE_PART_BYTES", "PART_BYTES"):
        monkeypatch.setattr(sampling, name, 2**16)
    monkeypatch.setattr(stage, "ROWS_TOGETHER", 2**17)
    how = {"n_clusters": 40, "nested": False, "max_features_per_cluster": 150}

    def fit(X, **more):
        compared.clear()
        model = HierarchicalKMeans(**how, **more).fit(X, feature_weight=weights)
        return model, set(compared)

    held, seen = fit(X)
    assert seen == {Seen(8, held=True)}
    assert len(compared) > 8, "several parts"
    lazily = lazy(X)[1]
    also, seen = fit(lazily)
    assert seen == {Seen(8, held=True)}
    files, seen = fit(lazily, work_dir=tmp_path / "work")
    assert seen == {Seen(8, held=False)}
    monkeypatch.setattr(beyond, "COORDINATE_BYTES", 0)
    anew, seen = fit(X)
    assert seen == {Seen(8, held=False)}
    for model in (also, files, anew):
        assert_array_equal(np.asarray(model.labels_), held.labels_)
        assert_array_equal(model.cluster_centers_, held.cluster_centers_)


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
    options = {"nested": False, "max_features_per_cluster": 20, "random_state": 1}
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
@pytest.mark.parametrize(("n_clusters", "most"), [(30, 10), (4, None)])
def test_parts_give_the_same_bits_in_memory_and_in_files(tmp_path, n_clusters, most):
    options = {"n_clusters": n_clusters, "nested": False}
    options |= {"max_features_per_cluster": most}
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
        (stage, "_sums_of_rows", 0),
        (stage, "_sums_of_rows", 1),
        (stage, "_sums_of_rows", 2),
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


@pytest.mark.parametrize("options", [{}, {"refine": 1}, {"balance": 0.5}])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_centers_are_ruled_out_along_axes_of_the_model(options, dtype, tmp_path):
    X = in_a_plane(64, noise=0.02).astype(dtype)
    model = HierarchicalKMeans(300, nested=False, **options).fit(X)
    n_axes = model.axes_.shape[1]
    assert 0 < n_axes <= 32
    assert model.axes_.dtype == dtype
    assert_allclose(model.axes_.T @ model.axes_, np.eye(n_axes), atol=1e-5)
    costs = -2 * X.astype(float) @ model.cluster_centers_.T.astype(float)
    costs += (model.cluster_centers_.astype(float) ** 2).sum(axis=1) + model.prices_
    reached = np.take_along_axis(costs, model.labels_[:, None], axis=1)[:, 0]
    assert_allclose(reached, costs.min(axis=1), rtol=0, atol=1e-3)
    for start in (0, 1717):  # of any other block, too
        block = X[start : start + 100]
        assert_array_equal(model.predict(block), model.labels_[start : start + 100])
    model.to_zarr(tmp_path / "model")
    loaded = HierarchicalKMeans.from_zarr(tmp_path / "model")
    assert_array_equal(loaded.axes_, model.axes_)
    assert_array_equal(loaded.predict(X), model.labels_)


def test_there_are_no_axes_where_they_would_save_little():
    X = np.random.default_rng(0).normal(size=(4000, 64))
    assert HierarchicalKMeans(120, nested=False).fit(X).axes_.size == 0
    assert HierarchicalKMeans(300).fit(in_a_plane(64, noise=0.02)).axes_.size == 0


@pytest.mark.parametrize("options", [{"nested": False}, {"refine": 1}], ids=str)
def test_a_tight_group_far_from_a_wide_one_keeps_its_digits(options):
    rng = np.random.default_rng(0)
    far = np.zeros(24)
    far[0] = 10
    tight = far + 1e-3 * rng.normal(size=(10, 24))
    wide = 4 * rng.normal(size=(10, 24)) - far
    group = rng.integers(20, size=8000)
    X = np.concatenate([tight, wide])[group]
    X += np.where(group < 10, 5e-5, 0.2)[:, None] * rng.normal(size=X.shape)
    model = HierarchicalKMeans(20, **options).fit(X.astype(np.float32))
    points = X.astype(np.float32)[group < 10].astype(float)
    centers = model.cluster_centers_.astype(float)
    squared = ((points[:, None] - centers) ** 2).sum(axis=2)
    assert_array_equal(model.labels_[group < 10], squared.argmin(axis=1))


@pytest.mark.parametrize("options", [{"nested": False}, {"refine": 2}])
@pytest.mark.parametrize("scale", [1e-5, 1e-2, 1])
def test_a_fill_value_does_not_cost_small_values_their_digits(options, scale):
    rng = np.random.default_rng(0)
    X = scale * np.exp(0.5 * rng.normal(size=(6000, 30)))
    X[:2000] = -9999
    X = X.astype(np.float32)
    model = HierarchicalKMeans(60, **options).fit(X)
    assert model.n_clusters_ == 60
    assert_array_equal(model.labels_, nearest(X, model.cluster_centers_))
    pieces = [model.predict(X[start : start + 137]) for start in range(0, 6000, 137)]
    assert_array_equal(np.concatenate(pieces), model.labels_)
