"""Values so large or small that their squares are no numbers: right, or refused."""

import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.metrics import adjusted_rand_score

from hkmeans_dask import HierarchicalKMeans
from tests.strategies import blobs

POINTS, _ = blobs(12, 600, 3, seed=1)
POINTS = (POINTS / np.abs(POINTS).max()).astype("f4")
REMEDY = "Rescale X by a power of two"


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("repeats", [1, 40])
@pytest.mark.parametrize("lazy", [True, False])
def test_any_power_of_two_gives_the_same_labels_or_is_refused(lazy, repeats):
    points, right, said = np.tile(POINTS, repeats), [], set()
    expected = HierarchicalKMeans(12).fit(points).labels_
    for exponent in (*range(-120, 50, 8), *range(50, 70), *range(70, 121, 8)):
        X = np.ldexp(points, exponent)
        try:
            model = HierarchicalKMeans(12).fit(da.from_array(X) if lazy else X)
        except ValueError as error:
            said.add(str(error))
        else:
            assert adjusted_rand_score(np.asarray(model.labels_), expected) == 1
            assert np.isfinite(model.inertia_)
            right.append(exponent)
    assert [REMEDY in text for text in said] == [True]
    assert min(right) <= -64
    assert max(right) >= 56


@pytest.mark.filterwarnings("ignore:(overflow|invalid):RuntimeWarning")
def test_one_feature_too_large_is_refused():
    """It may be none of those that are trained on."""
    for row in (0, 300, 599):
        X = POINTS.copy()
        X[row] *= np.float32(2.0**80)
        model = HierarchicalKMeans(12, max_features_per_cluster=3)
        with pytest.raises(ValueError, match=REMEDY):
            model.fit(X)


def test_equal_features_are_not_too_small():
    with pytest.warns(UserWarning, match="distinct clusters"):
        model = HierarchicalKMeans(3).fit(np.full((20, 4), 1e-30, "f4"))
    assert model.n_clusters_ == 1


def test_float64_holds_them():
    expected = HierarchicalKMeans(12).fit(POINTS.astype(float)).labels_
    for exponent in (-90, 90):
        X = np.ldexp(POINTS.astype(float), exponent)
        assert_array_equal(HierarchicalKMeans(12).fit(X).labels_, expected)
