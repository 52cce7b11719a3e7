"""The big clusters as a level of their own."""

import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli.commands import main
from tests.strategies import nearest, nothing_computed

X = np.random.default_rng(0).normal(size=(500, 6))


@pytest.fixture(params=[0, 2], ids=["nested", "refined"])
def model(request):
    return HierarchicalKMeans(25, refine=request.param).fit(X)


def test_a_feature_belongs_to_the_big_cluster_of_its_small_one(model):
    big = model.predict(X, level="coarse")
    assert big.dtype == np.int32
    assert_array_equal(big, model.parents_[model.labels_])
    assert_array_equal(model.predict(X, level="fine"), model.labels_)
    if not model.refine:
        assert_array_equal(big, nearest(X, model.coarse_centers_))


@pytest.mark.parametrize("scaling", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_means_of_big_clusters(scaling, axis):
    given = X if axis == 0 else X.T
    model = HierarchicalKMeans(25, scaling=scaling, feature_axis=axis).fit(given)
    big = model.parents_[model.labels_]
    groups = [X[big == number] for number in range(5)]
    means = [group.mean(axis=0) * len(group) ** (scaling / 2) for group in groups]
    found = model.transform(given, level="coarse")
    assert_allclose(found if axis == 0 else found.T, means)


def test_lazy_in_lazy_out(model):
    lazy = da.from_array(X, (100, 6))
    with nothing_computed():
        means = model.transform(lazy, level="coarse")
        labels = model.predict(lazy, level="coarse")
    assert (means.shape, labels.shape) == (model.coarse_centers_.shape, (500,))
    assert_allclose(means, model.transform(X, level="coarse"), rtol=1e-12)
    assert_array_equal(labels, model.predict(X, level="coarse"))


def test_a_big_cluster_without_features_is_zeros(model):
    lonely = np.full((1, 6), 99.0)
    model.coarse_centers_ = np.concatenate([model.coarse_centers_, lonely])
    means = model.transform(X, level="coarse")
    assert means.shape == (6, 6)
    assert not means[5].any()


@pytest.mark.parametrize("method", ["transform", "predict"])
def test_there_are_two_levels(model, method):
    with pytest.raises(ValueError, match=r"level should be 'fine' or 'coarse'. 'big'"):
        getattr(model, method)(X, level="big")


def test_data_frames_have_the_names_of_small_clusters():
    model = HierarchicalKMeans(9, feature_axis=1).fit(X.T)
    model.set_output(transform="pandas")
    with pytest.raises(TypeError, match="set_output"):
        model.transform(X.T, level="coarse")


def test_the_command_line_writes_either_level(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    zarr.create_array("x", data=X, chunks=(100, 6))
    assert main(["fit", "x", "model", "-k", "25", "--refine", "1"]) == 0
    for command, output in (("transform", "means"), ("predict", "labels")):
        assert main([command, "x", "model", output, "--level", "coarse"]) == 0
    model = HierarchicalKMeans(25, refine=1).fit(zarr.open_array("x", mode="r"))
    means, labels = zarr.open_array("means")[...], zarr.open_array("labels")[...]
    assert_array_equal(means, model.transform(X, level="coarse"))
    assert_array_equal(labels, model.parents_[model.labels_.compute()])
    assert main(["predict", "x", "model", "y", "--level", "big"]) == 2
