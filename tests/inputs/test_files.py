"""Arrays of files, as h5py and netCDF4 have them, are read block by block."""

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.inputs import arrays

VALUES = np.random.default_rng(0).normal(size=(400, 6))


class Dataset:
    """What such arrays have in common: it reads what it is indexed by."""

    ndim = 2

    def __init__(self, values=VALUES, chunks=(30, 6)):
        self.values, self.chunks = values, chunks
        self.shape, self.dtype = values.shape, values.dtype
        self.largest = 0

    def __getitem__(self, index):
        """Read."""
        found = self.values[index]
        self.largest = max(self.largest, found.size)
        return found


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 100 * 6 * 8)


@pytest.mark.parametrize("axis", [0, 1])
def test_never_more_than_a_block_is_read(small_blocks, axis):
    values = VALUES if axis == 0 else np.ascontiguousarray(VALUES.T)
    X = Dataset(values, (30, 6) if axis == 0 else (6, 30))
    model = HierarchicalKMeans(9, feature_axis=axis)
    expected = HierarchicalKMeans(9, feature_axis=axis).fit(values)
    assert_array_equal(model.fit(X).labels_, expected.labels_)
    assert isinstance(model.labels_, da.Array)
    means = model.transform(X)
    assert isinstance(means, da.Array)
    assert_allclose(means.compute(), expected.transform(values))
    back = model.inverse_transform(Dataset(means.compute(), None))
    assert_allclose(back.compute(), expected.inverse_transform(means.compute()))
    if axis == 0:
        assert_array_equal(model.predict(X), expected.labels_)
    assert X.largest == 90 * 6  # whole chunks


def test_what_it_reads_may_have_another_dtype_or_be_masked():
    """Where netCDF4 decodes, and where it masks."""
    packed = Dataset()
    packed.dtype = np.dtype("i2")
    assert HierarchicalKMeans(9).fit(packed).cluster_centers_.dtype == np.float64
    with pytest.raises(ValueError, match="is a masked array"):
        HierarchicalKMeans(9).fit(Dataset(np.ma.masked_less(VALUES, 0)))


def test_workers_read_copies():
    with (
        LocalCluster(2, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster),
    ):
        found = HierarchicalKMeans(9).fit(Dataset()).labels_.compute()
    assert_array_equal(found, HierarchicalKMeans(9).fit(VALUES).labels_)
