"""The highest score, center by center and point by point, against the definition."""

import numpy as np
import pytest

from hkmeans_dask.kmeans import kernels, scores
from tests.strategies import FLOATS, nearest

dtypes = pytest.mark.parametrize("dtype", FLOATS)
both = pytest.mark.parametrize("few", [0, 2**9])


@dtypes
@pytest.mark.parametrize("n_centers", [2, 5, 31, 64, 129, 300])
@pytest.mark.parametrize("n_dims", [3, 40, 257])
@both
def test_both_give_the_same(dtype, n_centers, n_dims, few, monkeypatch):
    """Whole numbers: nothing is rounded, and many points tie."""
    monkeypatch.setattr(scores, "FEW_SCORES", few)
    monkeypatch.setattr(scores, "SHORT_DIMS", n_dims)
    rng = np.random.default_rng(n_centers * n_dims)
    points = rng.integers(-3, 4, size=(500, n_dims)).astype(dtype)
    centers = points[rng.choice(500, n_centers, replace=False)]
    centers[-1] = centers[0]
    labels = kernels.assign(points, centers)
    assert np.array_equal(labels, nearest(points, centers))


@dtypes
@both
def test_points_that_are_no_numbers_are_not_given_to_padding(dtype, few, monkeypatch):
    monkeypatch.setattr(scores, "FEW_SCORES", few)
    points, centers = np.eye(17, 40, dtype=dtype), np.eye(17, 40, dtype=dtype)
    points[7] = np.nan
    labels = kernels.assign(points, centers)
    assert labels.tolist() == [*range(7), 0, *range(8, 17)]


@dtypes
@pytest.mark.parametrize(("n_dims", "n_centers"), [(64, 50), (20, 30), (65, 128)])
def test_labels_that_are_kept_do_not_depend_on_how_many_points_come_along(
    dtype, n_dims, n_centers
):
    """The points are as far from two centers, but for what BLAS rounds."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(n_centers, n_dims)).astype(dtype)
    pairs = rng.integers(n_centers, size=(2, 3072))
    points, origin = centers[pairs].mean(axis=0, dtype=dtype), np.zeros(n_dims, dtype)
    labels = kernels.assign(points, centers, origin=origin)
    for some in (192, 384, 768, 2500):
        found = kernels.assign(points[:some], centers, origin=origin)
        assert np.array_equal(found, labels[:some])
