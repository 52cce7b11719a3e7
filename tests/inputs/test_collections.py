"""Collections of dask that are no `dask.array`: taken, or the way on is named."""

import subprocess
import sys

import dask
import dask.array as da
import dask.bag
import numpy as np
import pytest
import xarray as xr

from hkmeans_dask import HierarchicalKMeans
from tests.strategies import nothing_computed

X = np.random.default_rng(0).normal(size=(30, 4))
CHUNKED = xr.DataArray(X, dims=("voxel", "time"), name="bold").chunk(voxel=10)
COLLECTIONS = {
    "Dataset": (CHUNKED.to_dataset(), r"X\['name'\], or X\.to_dataarray\(\)"),
    "Variable": (CHUNKED.variable, r"X\.data, or xarray\.DataArray\(X\)"),
    "Delayed": (dask.delayed(X), r"from_delayed\(X, shape, dtype\)"),
    "Bag": (dask.bag.from_sequence([1, 2]), r"from_delayed"),
}


@pytest.mark.parametrize(("given", "advice"), COLLECTIONS.values(), ids=COLLECTIONS)
def test_other_collections_of_dask_are_refused_with_the_way_on(given, advice):
    with nothing_computed(), pytest.raises(TypeError, match=advice):
        HierarchicalKMeans(2).fit(given)


def test_the_ways_on_exist():
    expected = HierarchicalKMeans(3).fit(X).labels_
    dataset = CHUNKED.to_dataset()
    for given in (
        dataset["bold"],
        dataset.to_dataarray()[0],
        CHUNKED.variable.data,
        xr.DataArray(CHUNKED.variable),
        da.from_delayed(dask.delayed(X), X.shape, X.dtype),
    ):
        found = np.asarray(HierarchicalKMeans(3).fit(given).labels_)
        assert np.array_equal(found, expected)


EXPRESSIONS = """
import numpy as np
import dask_array
import xarray as xr
from hkmeans_dask import HierarchicalKMeans

X = np.random.default_rng(0).normal(size=(60, 5))
blocks = dask_array.from_array(X, chunks=(20, 5))
expected = HierarchicalKMeans(3).fit(X)
model = HierarchicalKMeans(3).fit(blocks)
assert np.array_equal(model.labels_.compute(), expected.labels_)
means = model.transform(blocks * 1).compute()
assert np.allclose(means, expected.transform(X), rtol=1e-13)
weighted = HierarchicalKMeans(3).fit(X, feature_weight=blocks[:, 0] ** 2)
labelled = xr.DataArray(blocks, dims=("voxel", "time"))
named = HierarchicalKMeans(3, feature_axis="voxel").fit_transform(labelled)
assert np.array_equal(named.compute(), means)
"""


def test_arrays_of_the_package_dask_array_are_taken():
    """In a process of its own: importing it changes settings of dask."""
    pytest.importorskip("dask_array", reason="dask-array wants a newer dask")
    command = [sys.executable, "-c", EXPRESSIONS]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
