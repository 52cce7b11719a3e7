"""Models that earlier states of the package saved still load, and mean the same.

`models.zip` has what 0.1.0 wrote with Zarr 3.1.6 before newer Zarr refused chunks of
size 0: a nested model, whose table `compared` has none, and a refined one.
"""

import zipfile
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal

from hkmeans_dask import HierarchicalKMeans

X = np.random.default_rng(0).integers(-8, 8, size=(200, 5)).astype(np.float32)
INERTIA = {"nested": 8240.257019758224, "refined": 7972.877717494965}


@pytest.fixture
def early(tmp_path):
    """Unpack them."""
    with zipfile.ZipFile(Path(__file__).with_name("models.zip")) as archive:
        archive.extractall(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", INERTIA)
def test_early_models_load(early, kind):
    model = HierarchicalKMeans.from_zarr(early / f"{kind}.zarr")
    assert model.inertia_ == INERTIA[kind]
    assert_array_equal(model.predict(X), model.labels_)
    means = [X[model.labels_ == cluster].mean(axis=0) for cluster in range(12)]
    assert_allclose(model.transform(X), means, rtol=1e-6)


@pytest.mark.parametrize("kind", INERTIA)
def test_early_models_are_saved_again(early, kind, tmp_path):
    model = HierarchicalKMeans.from_zarr(early / f"{kind}.zarr")
    model.to_zarr(tmp_path / "again.zarr")
    again = HierarchicalKMeans.from_zarr(tmp_path / "again.zarr")
    for name in ("labels_", "compared_", "cluster_centers_", "parents_", "offset_"):
        assert_array_equal(getattr(again, name), getattr(model, name))


def test_no_array_of_a_model_has_chunks_of_size_0(tmp_path):
    HierarchicalKMeans(12).fit(X).to_zarr(tmp_path / "model.zarr")
    for _, array in zarr.open_group(tmp_path / "model.zarr", mode="r").arrays():
        assert 0 not in array.chunks


@pytest.mark.parametrize("place", ["{}/model", "memory://saved/over/itself"])
def test_a_model_is_saved_over_the_one_that_it_reads(tmp_path, place):
    url = place.format(tmp_path)
    fitted = HierarchicalKMeans(12).fit(da.from_array(X, (50, 5)))
    fitted.to_zarr(url, overwrite=True)
    model = HierarchicalKMeans.from_zarr(url)
    assert isinstance(model.labels_, da.Array)
    model.to_zarr(url, overwrite=True)
    again = HierarchicalKMeans.from_zarr(url)
    assert_array_equal(again.labels_, fitted.labels_)
    assert_array_equal(again.cluster_centers_, fitted.cluster_centers_)
