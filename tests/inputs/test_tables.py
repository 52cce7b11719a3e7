"""Tables: columns of numbers are taken, of any other the first is named."""

import re

import numpy as np
import pandas as pd
import polars as pl
import pytest

from hkmeans_dask import HierarchicalKMeans

axes = pytest.mark.parametrize("feature_axis", [0, 1])
X = np.random.default_rng(0).integers(-99, 99, size=(30, 4)).astype(np.float64)


def table(**columns):
    frame = pd.DataFrame(X, columns=list("abcd"))
    return frame.assign(**columns)


TABLES = {
    "strings": (table(b=["x"] * 30), "Column 'b' of X has 'x' in row 0"),
    "NA": (table(c=[1.0, pd.NA] + [0.0] * 28), "Column 'c' of X has <NA> in row 1"),
    "categories": (
        table(a=pd.Categorical(["u", "v", "w"] * 10)),
        "Column 'a' of X has 'u' in row 0",
    ),
    "dates": (
        table(d=pd.date_range("2020", periods=30)),
        "Column 'd' of X has dtype datetime64",
    ),
    "polars": (
        pl.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}),
        "Column 'b' of X has 'x' in row 0",
    ),
    "two of one name": (
        pd.concat([table(), table(a=["x"] * 30)], axis=1),
        "Column 'a' of X has 'x' in row 0",
    ),
}


@axes
@pytest.mark.parametrize(("given", "words"), TABLES.values(), ids=TABLES)
def test_the_column_that_is_no_number_is_named(given, words, feature_axis):
    with pytest.raises(ValueError, match=re.escape(words)):
        HierarchicalKMeans(2, feature_axis=feature_axis).fit(given)


@pytest.mark.parametrize("kind", ["Float64", object, str])
def test_tables_of_numbers_of_any_kind_are_taken(kind):
    found = HierarchicalKMeans(3).fit(table().astype(kind)).labels_
    assert np.array_equal(found, HierarchicalKMeans(3).fit(X).labels_)
