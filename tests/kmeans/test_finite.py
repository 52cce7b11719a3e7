"""Values that are not finite are found, and the first is named."""

import numpy as np
import pytest

from hkmeans_dask.kmeans import finite


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8"])
@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "inf")]
)
@pytest.mark.parametrize("row", [0, 3, 9])
def test_the_first_bad_row_is_found(dtype, value, said, row):
    points = np.ones((10, 4), dtype)
    points[row, 2] = value
    points[row + 1 :, 0] = np.nan
    assert finite.first_bad(points) == (row, said)
    assert finite.first_bad(points, start=100) == (100 + row, said)
    assert f"{said}: the first is in feature {100 + row}." in finite.not_finite(
        finite.first_bad(points, 100)
    )


def test_infinities_of_both_signs_do_not_cancel():
    points = np.zeros((4, 2))
    points[1], points[2] = np.inf, -np.inf
    assert finite.first_bad(points) == (1, "inf")


@pytest.mark.parametrize(
    "points",
    [
        np.full((50, 50), 3e38, np.float32),
        np.full((50, 50), 6e4, np.float16),
        np.full((50, 50), -1.7e308),
        np.full((5, 5), np.iinfo(np.int64).max),
        np.full((5, 5), True),
        np.empty((0, 4)),
        np.zeros((3, 2)),
    ],
    ids=["f4", "f2", "f8", "i8", "bool", "empty", "zeros"],
)
def test_large_finite_values_are_not_bad(points):
    assert finite.first_bad(points) is None
