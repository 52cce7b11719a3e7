"""Labels are those of the X that was given, also where its store has grown since."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.testing import assert_array_equal
from zarr.storage import MemoryStore

from hkmeans_dask import HierarchicalKMeans

VALUES = np.random.default_rng(0).normal(size=(150, 5))
WAS = 100


def resize(place, n):
    array = zarr.open_array(place, mode="r+")
    array.resize((n, 5))
    array[...] = VALUES[:n]


def written(place, chunk, n=WAS):
    zarr.create_array(place, data=VALUES[:n], chunks=(chunk, 5))
    return zarr.open_array(place, mode="r")


def opened_before(folder, chunk):
    X = written(folder / "x", chunk)
    resize(folder / "x", 150)
    return X


def opened_before_it_shrank(folder, chunk):
    X = written(folder / "x", chunk, 150)
    resize(folder / "x", WAS)
    return X


def opened_in_memory(_, chunk):
    store = MemoryStore()
    X = written(store, chunk)
    resize(store, 150)
    return X


def with_old_consolidated_metadata(folder, chunk):
    group = zarr.create_group(folder / "g", zarr_format=2)
    group.create_array("x", data=VALUES[:WAS], chunks=(chunk, 5))
    zarr.consolidate_metadata(folder / "g")
    resize(folder / "g/x", 150)
    return zarr.open_group(folder / "g", mode="r")["x"]


def dask_before(folder, chunk):
    X = da.from_zarr(written(folder / "x", chunk))
    resize(folder / "x", 150)
    return X


def dask_with_old_metadata(folder, chunk):
    return da.from_zarr(with_old_consolidated_metadata(folder, chunk))


def written_by_xarray(folder, chunk):
    data = xr.DataArray(VALUES[:WAS], dims=("voxel", "time"), name="x")
    data = data.to_dataset().chunk(voxel=chunk)
    data.to_zarr(folder / "x", consolidated=True, zarr_format=2)
    return folder / "x"


def xarray_before(folder, chunk):
    X = xr.open_zarr(written_by_xarray(folder, chunk))["x"]
    resize(folder / "x/x", 150)
    return X


def xarray_with_old_metadata(folder, chunk):
    place = written_by_xarray(folder, chunk)
    resize(place / "x", 150)
    return xr.open_zarr(place)["x"]


REFUSED = [
    opened_before,
    opened_before_it_shrank,
    opened_in_memory,
    with_old_consolidated_metadata,
]
TAKEN = [dask_before, dask_with_old_metadata, xarray_before, xarray_with_old_metadata]


@pytest.mark.parametrize("chunk", [25, 30])
@pytest.mark.parametrize("make", REFUSED)
def test_arrays_that_are_no_longer_what_was_opened_are_refused(tmp_path, make, chunk):
    X = make(tmp_path, chunk)
    model = HierarchicalKMeans(9).fit(VALUES)
    for method in (HierarchicalKMeans(9).fit, model.predict):
        with pytest.raises(FileNotFoundError, match=r"its shape was .* Open it again"):
            np.asarray(method(X))


@pytest.mark.parametrize("chunk", [25, 30])
@pytest.mark.parametrize("make", TAKEN)
def test_lazy_arrays_are_read_as_they_were_given(tmp_path, make, chunk):
    X = make(tmp_path, chunk)
    model = HierarchicalKMeans(9).fit(X)
    expected = HierarchicalKMeans(9).fit(da.from_array(VALUES[:WAS], (chunk, 5)))
    assert X.shape == (WAS, 5)
    assert_array_equal(model.labels_, expected.labels_)
    assert_array_equal(model.predict(VALUES[:WAS]), expected.labels_)
