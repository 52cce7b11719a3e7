"""Masked arrays are refused wherever they come in: masked values would be taken."""

import dask
import dask.array as da
import numpy as np
import pytest

from hkmeans_dask import HierarchicalKMeans
from tests.strategies import nothing_computed

X = np.random.default_rng(0).normal(size=(60, 4))
MASK = np.zeros(X.shape, bool)
MASK[7, 2] = True
MODEL = HierarchicalKMeans(5).fit(X)


def hidden(values, chunks):
    """Make blocks that are masked, which the metadata do not tell."""

    def mask(block, block_info=None):
        place = tuple(slice(*edges) for edges in block_info[0]["array-location"])
        return np.ma.masked_array(block, MASK[place])

    plain = da.from_array(np.where(MASK, -9999.0, values), chunks)
    return plain.map_blocks(mask, dtype=values.dtype, meta=values[:0, :0])


FILLED = np.where(MASK, -9999.0, X)
KINDS = {
    "NumPy": np.ma.masked_array(FILLED, MASK),
    "NumPy, masked NaN": np.ma.masked_invalid(np.where(MASK, np.nan, X)),
    "dask": da.from_array(np.ma.masked_array(FILLED, MASK), (20, 4)),
    "dask, masked by value": da.ma.masked_equal(da.from_array(FILLED, (20, 4)), -9999),
    "blocks alone": hidden(X, (20, 4)),
    "blocks along samples": hidden(X, (20, 2)),
    "an empty block": hidden(X, ((20, 40), (4, 0))),
}
USES = {
    "fit": lambda given: HierarchicalKMeans(5).fit(given),
    "fit, axis 1": lambda given: HierarchicalKMeans(5, feature_axis=1).fit(given.T),
    "transform": lambda given: dask.compute(MODEL.transform(given)),
    "predict": lambda given: dask.compute(MODEL.predict(given)),
    "inverse": lambda given: dask.compute(MODEL.inverse_transform(given[5:10])),
    "init": lambda given: HierarchicalKMeans(60, init=given).fit(X),
    "weights": lambda given: HierarchicalKMeans(5).fit(X, feature_weight=given[:, 2]),
    "weights of means": lambda given: MODEL.transform(X, feature_weight=given[:, 2]),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("given", KINDS.values(), ids=KINDS)
def test_masked_arrays_are_refused(given, use):
    with pytest.raises(ValueError, match=r"masked array.*np\.ma\.filled"):
        use(given)


def test_what_the_metadata_tell_is_refused_before_it_is_read():
    with nothing_computed(), pytest.raises(ValueError, match="masked array"):
        HierarchicalKMeans(5).fit(KINDS["dask"])


def test_the_remedy_works():
    filled = da.ma.filled(KINDS["dask"], np.nan)
    with pytest.raises(ValueError, match="NaN: the first is in feature 7"):
        HierarchicalKMeans(5).fit(filled)
    kept = np.delete(X, 7, axis=0)
    found = HierarchicalKMeans(5).fit(np.delete(np.asarray(filled), 7, axis=0))
    assert np.array_equal(found.labels_, HierarchicalKMeans(5).fit(kept).labels_)
